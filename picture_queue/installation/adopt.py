"""Adoption of a project that runs another job queue, or a pre-release version of picture-queue.

One transaction relocates the conflicting objects, installs picture-queue, and copies the jobs. A
preview is the same transaction, rolled back, so its report is exact.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from picture_queue._resources import Migration, migrations
from picture_queue.errors import InstallationRefused, MigrationFailed
from picture_queue.installation import state
from picture_queue.installation.database import LOCK, TIMEOUTS, apply
from picture_queue.installation.state import MigrationTool, connected
from picture_queue.settings import DatabaseSettings

if TYPE_CHECKING:
    from psycopg import Connection


@dataclass(frozen=True)
class Adoption:
    """The result of an adoption.

    Args:
        schema: The schema to which the conflicting objects were moved; None if no adoption was
            needed.
        moved: The objects that were moved to that schema.
        jobs: The number of copied jobs in each state.
        copied: The number of rows copied from each table.
        notes: A sentence for each object that a person must review.
        applied: The names of the migrations that were applied.
    """

    schema: str | None = None
    moved: list[str] = field(default_factory=list)
    jobs: dict[str, int] = field(default_factory=dict)
    copied: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    applied: list[str] = field(default_factory=list)

    @property
    def was_needed(self) -> bool:
        """False if the migrations of this package are already installed, so nothing was changed."""
        return self.schema is not None


def adopt(settings: DatabaseSettings, *, preview: bool) -> Adoption:
    """Adopt the job queue of a database. A repeated call changes nothing.

    Args:
        settings: The URL of the database; its user must own the conflicting objects.
        preview: Roll back, and only report.

    Raises:
        InstallationRefused: The Supabase CLI applies the migrations of this database, or a job
            cannot be copied; nothing was changed.
        MigrationFailed: A migration cannot be applied; nothing was changed.
        PictureQueueError: The database does not answer, or its user lacks the permission.
    """
    from psycopg import Rollback

    adoption = Adoption()
    with connected(settings) as connection, connection.transaction():
        connection.execute(LOCK)
        shipped = migrations()
        if not _is_current(connection, shipped):
            adoption = _adopt(connection, shipped)
        if preview:
            raise Rollback
    return adoption


def _is_current(connection: "Connection[Any]", shipped: list[Migration]) -> bool:
    """Return whether the migrations of this package are installed, so that no adoption is needed.

    Raises:
        InstallationRefused: The database cannot be adopted.
    """
    installed = state.read(connection, shipped)
    if installed.tool in (MigrationTool.CLI, MigrationTool.EMBEDDED):
        state.expect_tool(installed, MigrationTool.MIGRATE)  # raises
    if installed.tool is MigrationTool.NONE:
        raise InstallationRefused(
            "The database has no job queue to adopt",
            hint="Install picture-queue with: picture-queue migrate",
        )
    if installed.tool is not MigrationTool.MIGRATE:
        return False
    digests = {migration.name: migration.digest for migration in shipped}
    if installed.applied.keys() - digests.keys():
        installed.expect_known(shipped)  # raises: a newer version of this package applied one
    return all(digests[name] == digest for name, digest in installed.applied.items())


def _adopt(connection: "Connection[Any]", shipped: list[Migration]) -> Adoption:
    from psycopg import Error

    from picture_queue.installation.copy_jobs import copy_jobs, count_by_state
    from picture_queue.installation.relocate import relocate

    try:
        connection.execute(TIMEOUTS)
        relocation = relocate(connection, shipped)
        for migration in shipped:
            apply(connection, migration)
        copied = copy_jobs(connection, relocation)
    except Error as error:
        diagnosis = error.diag
        raise MigrationFailed(
            f"The job queue cannot be adopted: {diagnosis.message_primary or error}",
            detail=diagnosis.message_detail or diagnosis.context,
            hint="Nothing was changed",
        ) from error
    return Adoption(
        schema=relocation.schema,
        moved=relocation.moved + (["schema picture_queue"] if relocation.private else []),
        jobs=count_by_state(connection, "public.job_queue"),
        copied=copied,
        notes=relocation.notes,
        applied=[migration.name for migration in shipped],
    )

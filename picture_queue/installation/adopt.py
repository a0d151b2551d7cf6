"""Takes over a project that runs a job queue: of another system, or an unreleased version of ours.

One transaction relocates the conflicting objects, installs picture-queue, and copies the jobs. A
preview is the same transaction, rolled back, so its report is exact.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from picture_queue._resources import Migration, migrations
from picture_queue.errors import InstallationRefused, MigrationFailed
from picture_queue.installation import state
from picture_queue.installation.database import LIMITS, LOCK, apply
from picture_queue.installation.state import MigrationTool, connected
from picture_queue.settings import DatabaseSettings

if TYPE_CHECKING:
    from psycopg import Connection


@dataclass(frozen=True)
class Adoption:
    """The result of an adoption.

    Args:
        schema: The schema of the relocated objects; None: there were none.
        moved: The objects that were moved there.
        jobs: The copied jobs by state.
        copied: The number of rows copied from each table.
        notes: Objects that a person must review.
        applied: The migrations that were applied.
    """

    schema: str | None = None
    moved: list[str] = field(default_factory=list)
    jobs: dict[str, int] = field(default_factory=dict)
    copied: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    applied: list[str] = field(default_factory=list)


def adopt(settings: DatabaseSettings, *, preview: bool) -> Adoption:
    """Take over the job queue of a database; repeated, it changes nothing.

    Args:
        settings: The database; its user owns the conflicting objects.
        preview: Roll back, and only report.

    Raises:
        InstallationRefused: The Supabase CLI applies the migrations of this database, or a job
            cannot be copied; nothing was changed.
        MigrationFailed: A migration cannot be applied; nothing was changed.
        PictureQueueError: The database does not answer, or its user lacks the permission.
    """
    from psycopg import Rollback

    done = Adoption()
    with connected(settings) as connection, connection.transaction():
        connection.execute(LOCK)
        shipped = migrations()
        if not _is_current(connection, shipped):
            done = _take_over(connection, shipped)
        if preview:
            raise Rollback
    return done


def _is_current(connection: "Connection[Any]", shipped: list[Migration]) -> bool:
    """Return whether there is nothing to take over."""
    found = state.read(connection, shipped)
    if found.tool in (MigrationTool.CLI, MigrationTool.EMBEDDED):
        state.expect_tool(found, MigrationTool.MIGRATE)
    if found.tool is MigrationTool.NONE:
        raise InstallationRefused(
            "There is no job queue to take over",
            hint="Install picture-queue with: picture-queue migrate",
        )
    if found.tool is not MigrationTool.MIGRATE:
        return False
    known = {file.name: file.digest for file in shipped}
    newer = found.applied.keys() - known.keys()
    if newer:
        found.expect_known(shipped)
    return all(known[name] == digest for name, digest in found.applied.items())


def _take_over(connection: "Connection[Any]", shipped: list[Migration]) -> Adoption:
    from psycopg import Error

    from picture_queue.installation.copy_jobs import copy_jobs, count_by_state
    from picture_queue.installation.relocate import relocate

    try:
        connection.execute(LIMITS)
        relocation = relocate(connection, shipped)
        for file in shipped:
            apply(connection, file)
        copied = copy_jobs(connection, relocation)
    except Error as error:
        said = error.diag
        raise MigrationFailed(
            f"The job queue cannot be taken over: {said.message_primary or error}",
            detail=said.message_detail or said.context,
            hint="Nothing was changed",
        ) from error
    return Adoption(
        schema=relocation.schema,
        moved=relocation.moved + (["schema picture_queue"] if relocation.private else []),
        jobs=count_by_state(connection, "public.job_queue"),
        copied=copied,
        notes=relocation.notes,
        applied=[file.name for file in shipped],
    )

"""Takes over a project that already runs a job queue: another system's, or an unreleased of ours.

One transaction moves what is in the way aside, installs picture-queue, and copies the jobs. A
preview is the same transaction, rolled back: what it tells is what would be.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from picture_queue._resources import Migration, migrations
from picture_queue.errors import InstallationRefused, MigrationFailed
from picture_queue.installation import state
from picture_queue.installation.database import LIMITS, LOCK, apply
from picture_queue.installation.state import Keeper, connected
from picture_queue.settings import DatabaseSettings

if TYPE_CHECKING:
    from psycopg import Connection


@dataclass(frozen=True)
class Adoption:
    """What came of it.

    Args:
        schema: Where what was in the way is now; None: nothing was.
        moved: The objects that were moved there.
        jobs: The jobs by state, as they came along.
        carried: The rows of each table that came along.
        notes: What a person should look at.
        applied: The migrations that were applied.
    """

    schema: str | None = None
    moved: list[str] = field(default_factory=list)
    jobs: dict[str, int] = field(default_factory=dict)
    carried: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    applied: list[str] = field(default_factory=list)


def adopt(settings: DatabaseSettings, *, preview: bool) -> Adoption:
    """Takes over the job queue of a database; one that is taken over already stays as it is.

    Args:
        settings: The database; its user owns what is in the way.
        preview: Change nothing, only tell.

    Raises:
        InstallationRefused: The Supabase CLI keeps this database's picture-queue, or a job cannot
            come along; nothing was changed.
        MigrationFailed: A migration cannot be applied; nothing was changed.
        PictureQueueError: The database does not answer, or its user may not do that.
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
    """Whether there is nothing to take over."""
    found = state.read(connection, shipped)
    if found.keeper is Keeper.CLI:
        state.expect_keeper(found, Keeper.MIGRATE)
    if found.keeper is Keeper.NOBODY:
        raise InstallationRefused(
            "There is no job queue to take over",
            hint="Install picture-queue with: picture-queue migrate",
        )
    if found.keeper is not Keeper.MIGRATE:
        return False
    known = {file.name: file.digest for file in shipped}
    newer = found.applied.keys() - known.keys()
    if newer:
        found.expect_known(shipped)
    return all(known[name] == digest for name, digest in found.applied.items())


def _take_over(connection: "Connection[Any]", shipped: list[Migration]) -> Adoption:
    from psycopg import Error

    from picture_queue.installation.aside import set_aside
    from picture_queue.installation.carry import carry, states_of

    try:
        connection.execute(LIMITS)
        aside = set_aside(connection, shipped)
        for file in shipped:
            apply(connection, file)
        carried = carry(connection, aside)
    except Error as error:
        said = error.diag
        raise MigrationFailed(
            f"The job queue cannot be taken over: {said.message_primary or error}",
            detail=said.message_detail or said.context,
            hint="Nothing was changed",
        ) from error
    return Adoption(
        schema=aside.schema,
        moved=aside.moved + (["schema picture_queue"] if aside.private else []),
        jobs=states_of(connection, "public.job_queue"),
        carried=carried,
        notes=aside.notes,
        applied=[file.name for file in shipped],
    )

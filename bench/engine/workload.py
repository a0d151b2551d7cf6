"""What a workload is, and how much of it is done."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from engine.database import Database

#: What one turn measured: values by figure, in the figure's unit.
Samples = dict[str, list[float]]
#: What was measured in each database, turn by turn.
Turns = dict[str, list[Samples]]


@dataclass(frozen=True)
class Size:
    """How much is measured.

    Args:
        turns: Turns of a short workload; the states of the SQL alternate from turn to turn.
        rounds: Calls of each kind in a turn.
        jobs: Share of the jobs that large tables have.
        held_seconds: How long a snapshot is held while jobs flow.
        held_limited_seconds: The same with a limit in use.
        watch_seconds: How long maintenance is watched.
    """

    turns: int = 12
    rounds: int = 6
    jobs: float = 1.0
    held_seconds: float = 600.0
    held_limited_seconds: float = 180.0
    watch_seconds: float = 20.0

    def scaled(self, jobs: int) -> int:
        """Return the share of these jobs that is used."""
        return int(jobs * self.jobs)


QUICK = Size(
    turns=2, rounds=4, jobs=0.01, held_seconds=6.0, held_limited_seconds=3.0, watch_seconds=3.0
)


@dataclass(frozen=True)
class Figure:
    """A number of the report.

    Args:
        what: What it is, for people.
        unit: Its unit.
        bound: ``("≤", number)`` or ``("≥", number)`` for its median.
    """

    what: str
    unit: str
    bound: tuple[str, float] | None = None

    @property
    def is_rate(self) -> bool:
        """Whether more is better."""
        return self.unit.endswith("/s") and not self.unit.startswith("ms")


@dataclass(frozen=True)
class Workload:
    """Something to measure.

    Args:
        name: As `--only` takes it.
        figures: What it gives, by name.
        measure: Measures one turn.
        prepare: Fills the database before the first turn.
        finish: Cleans up after the last turn.
        once: One turn is enough, since it lasts long.
    """

    name: str
    figures: dict[str, Figure]
    measure: Callable[[Database, Size], Awaitable[Samples]]
    prepare: Callable[[Database, Size], Awaitable[None]] | None = None
    finish: Callable[[Database, Size], Awaitable[None]] | None = None
    once: bool = False


async def measure_in_turns(workload: Workload, databases: list[Database], size: Size) -> Turns:
    """Measure a workload in all databases, which take turns."""
    turns: Turns = {database.name: [] for database in databases}
    for database in databases:
        if workload.prepare:
            await workload.prepare(database, size)
    for turn in range(1 if workload.once else size.turns):
        # The order alternates too, so that neither database always comes second.
        for database in databases if turn % 2 == 0 else reversed(databases):
            turns[database.name].append(await workload.measure(database, size))
    for database in databases:
        if workload.finish:
            await workload.finish(database, size)
    return turns


def percentile(values: list[float], share: float) -> float:
    """Return the value below which this share of the values lies.

    Raises:
        ValueError: There are no values.
    """
    if not values:
        raise ValueError("nothing was measured")
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)]

"""The types of the engine benchmark: workloads, their size and their figures.

The databases are measured alternately; one measurement of one database is a turn.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from engine.database import Database

#: The result of one turn: values by figure, in the figure's unit.
Samples = dict[str, list[float]]
#: The results of the turns of each database; the last item has the results of `Workload.conclude`.
Turns = dict[str, list[Samples]]


@dataclass(frozen=True)
class Size:
    """The numbers of turns, calls and jobs of a benchmark, and the durations of its turns.

    Args:
        turns: The number of turns, unless the workload has its own.
        rounds: The number to which the number of calls in a turn is proportional.
        job_factor: The factor by which the sizes of large tables are multiplied.
        steady_turns: The number of turns with a steady load, during which one snapshot is held.
        limited_steady_turns: The number of turns with a steady load of jobs that have a limit.
        steady_seconds: The duration of a turn with a steady load.
        maintenance_turns: The number of turns that measure maintenance.
        maintenance_seconds: The duration of a turn that measures maintenance.
    """

    turns: int = 12
    rounds: int = 6
    job_factor: float = 1.0
    steady_turns: int = 10
    limited_steady_turns: int = 3
    steady_seconds: float = 60.0
    maintenance_turns: int = 2
    maintenance_seconds: float = 20.0

    def scaled(self, jobs: int) -> int:
        """Return a number of jobs multiplied by `job_factor`."""
        return int(jobs * self.job_factor)


QUICK = Size(
    turns=2,
    rounds=4,
    job_factor=0.01,
    steady_turns=2,
    limited_steady_turns=2,
    steady_seconds=3.0,
    maintenance_turns=1,
    maintenance_seconds=3.0,
)


@dataclass(frozen=True)
class Figure:
    """A number of the report.

    Args:
        title: The title in the report.
        unit: The unit of the figure.
        bound: ``("≤", number)`` or ``("≥", number)`` for its median.
    """

    title: str
    unit: str
    bound: tuple[str, float] | None = None

    @property
    def is_rate(self) -> bool:
        """True if the figure is a rate, for which higher is better."""
        # The unit ms/s is for time that calls take in a second, for which lower is better.
        return self.unit.endswith("/s") and not self.unit.startswith("ms")


@dataclass(frozen=True)
class Workload:
    """A measurement.

    Args:
        name: The name for `--only`.
        figures: The figures by name.
        measure: A function that measures one turn.
        prepare: A function that fills the database before the first turn.
        finish: A function that cleans up after the last turn, or after an error.
        turns: A function that returns the number of turns.
        conclude: A function that computes further figures from all turns of one database.
    """

    name: str
    figures: dict[str, Figure]
    measure: Callable[[Database, Size], Awaitable[Samples]]
    prepare: Callable[[Database, Size], Awaitable[None]] | None = None
    finish: Callable[[Database, Size], Awaitable[None]] | None = None
    turns: Callable[[Size], int] = lambda size: size.turns
    conclude: Callable[[list[Samples]], Samples] | None = None


async def measure_in_turns(workload: Workload, databases: list[Database], size: Size) -> Turns:
    """Measure a workload in all databases, one after the other in each turn."""
    turns: Turns = {database.name: [] for database in databases}
    try:
        for database in databases:
            if workload.prepare:
                await workload.prepare(database, size)
        for turn in range(workload.turns(size)):
            # The order alternates too, so that neither database always comes second.
            for database in databases if turn % 2 == 0 else reversed(databases):
                turns[database.name].append(await workload.measure(database, size))
    finally:
        for database in databases:
            if workload.finish:
                await workload.finish(database, size)
    if workload.conclude:
        for samples in turns.values():
            samples.append(workload.conclude(samples))
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

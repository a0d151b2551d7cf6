"""A steady rate of jobs while an old snapshot keeps vacuum from removing dead rows."""

import asyncio
import time
from contextlib import AsyncExitStack

from engine.database import Calls, Database, Options
from engine.maintenance import maintain_until
from engine.workload import Figure, Samples, Size, Workload, percentile

RATE = 300  # The number of jobs per second.
_CLAIM_INTERVAL = 0.02  # The interval between two claims, in seconds.
_MAX_CLAIM = 50  # The largest number of jobs in a claim.
_WARM_UP = 1.0  # The first seconds of a turn, which the percentiles leave out.

_CALLS = ("enqueue", "claim", "report")

#: For each kind of call: the start of each call, in seconds since the turn began, and its duration
#: in milliseconds.
Durations = dict[str, list[tuple[float, float]]]


class SteadyLoad:
    """A producer that enqueues `RATE` jobs a second, and a worker that claims and reports them.

    Args:
        queue: The queue of the jobs.
        options: The options of the jobs.
    """

    def __init__(self, queue: str, options: Options | None = None) -> None:
        self._queue = queue
        self._options = options
        self._stopped = asyncio.Event()
        self._began = time.monotonic()
        self.enqueued = 0
        self.reported = 0
        self.durations: Durations = {call: [] for call in _CALLS}

    def _record(self, call: str, began: float, took: float) -> None:
        self.durations[call].append((began - self._began, took))

    async def _enqueue(self, calls: Calls) -> None:
        while not self._stopped.is_set():
            began = time.monotonic()
            self._record("enqueue", began, await calls.enqueue_job(self._queue, self._options))
            self.enqueued += 1
            due = self._began + self.enqueued / RATE
            await asyncio.sleep(max(due - time.monotonic(), 0))

    async def _work(self, calls: Calls) -> None:
        while not self._stopped.is_set():
            began = time.monotonic()
            took, jobs = await calls.claim(self._queue, _MAX_CLAIM)
            if jobs:
                self._record("claim", began, took)
                self._record("report", time.monotonic(), await calls.report(jobs))
                self.reported += len(jobs)
            await asyncio.sleep(max(began + _CLAIM_INTERVAL - time.monotonic(), 0))

    async def run(self, producer: Calls, worker: Calls, maintenance: Calls, seconds: float) -> None:
        """Run the producer, the worker and maintenance for some seconds."""
        self._began = time.monotonic()
        tasks = [
            asyncio.create_task(self._enqueue(producer)),
            asyncio.create_task(self._work(worker)),
            asyncio.create_task(maintain_until(maintenance, "maintenance", self._stopped)),
        ]
        try:
            await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            self._stopped.set()
            await asyncio.gather(*tasks)

    def p95(self, call: str) -> float:
        """Return the 95th percentile of a call after the warm-up, in milliseconds."""
        return percentile([took for at, took in self.durations[call] if at >= _WARM_UP], 0.95)


class HeldSnapshot:
    """A workload that holds a snapshot from `prepare` to `finish`, with a steady load in each turn.

    Args:
        name: The name of the queue, and the prefix of the names of the figures.
        title: The first words of the titles of the figures.
        limit_key: A limit key for the jobs; None for jobs without a limit.
        bound: The bound of the ratio of the 95th percentiles in the last and the first turn.
    """

    def __init__(
        self,
        name: str,
        title: str,
        limit_key: str | None = None,
        bound: tuple[str, float] | None = None,
    ) -> None:
        self._name = name
        self._limit_key = limit_key
        self._holders: dict[str, AsyncExitStack] = {}
        self.figures = {f"{name}_rate": Figure(f"{title}, {RATE} jobs/s: jobs done", "jobs/s")}
        for call in _CALLS:
            self.figures |= {
                f"{name}_{call}": Figure(f"{title}: p95 of {call} in a turn", "ms"),
                f"{name}_{call}_first": Figure("… in the first turn", "ms"),
                f"{name}_{call}_last": Figure("… in the last turn", "ms"),
                f"{name}_{call}_ratio": Figure("… last compared with first", "x", bound),
            }

    async def prepare(self, database: Database, size: Size) -> None:
        """Take the snapshot."""
        stack = self._holders[database.name] = AsyncExitStack()
        calls = await stack.enter_async_context(database.connect())
        if self._limit_key:
            await calls.run("select set_limit($1, 1000)", self._limit_key)
        transaction = calls.connection.transaction(isolation="repeatable_read")
        await transaction.start()
        await calls.run("select count(*) from public.job_queue where false")

    async def measure(self, database: Database, size: Size) -> Samples:
        """Run the load for one turn."""
        options = {"limit_keys": [self._limit_key]} if self._limit_key else None
        load = SteadyLoad(self._name, options)
        async with database.connect_many(3) as (producer, worker, maintenance):
            await maintenance.acquire_maintenance_lease("maintenance")
            await load.run(producer, worker, maintenance, size.steady_seconds)
        samples = {f"{self._name}_{call}": [load.p95(call)] for call in _CALLS}
        return samples | {f"{self._name}_rate": [load.reported / size.steady_seconds]}

    def conclude(self, turns: list[Samples]) -> Samples:
        """Compare the last turn with the first."""
        samples: Samples = {}
        for call in _CALLS:
            name = f"{self._name}_{call}"
            first, last = turns[0][name][0], turns[-1][name][0]
            samples |= {
                f"{name}_first": [first],
                f"{name}_last": [last],
                f"{name}_ratio": [last / first],
            }
        return samples

    async def finish(self, database: Database, size: Size) -> None:
        """Release the snapshot, and delete the limit."""
        stack = self._holders.pop(database.name, None)
        if stack is None:
            return
        await stack.aclose()  # Closing the connection ends its transaction.
        if self._limit_key:
            async with database.connect() as calls:
                await calls.run("select delete_limit($1)", self._limit_key)


_PLAIN = HeldSnapshot("held", "held snapshot", bound=("≤", 2))
_LIMITED = HeldSnapshot("held_limited", "held snapshot, limit", "model:held")

HELD = Workload(
    "held",
    _PLAIN.figures,
    _PLAIN.measure,
    _PLAIN.prepare,
    _PLAIN.finish,
    turns=lambda size: size.steady_turns,
    conclude=_PLAIN.conclude,
)
HELD_LIMITED = Workload(
    "held-limited",
    _LIMITED.figures,
    _LIMITED.measure,
    _LIMITED.prepare,
    _LIMITED.finish,
    turns=lambda size: size.limited_steady_turns,
    conclude=_LIMITED.conclude,
)

"""Jobs that flow at a steady rate while an old snapshot keeps dead rows from being removed."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from engine.database import Calls, Database, Given
from engine.maintenance import maintain_until
from engine.workload import Figure, Samples, Size, Workload, percentile

RATE = 300  # jobs a second
_TICK = 0.02  # seconds between two claims
_CLAIM = 50  # jobs of a claim
_WARM_UP = 1.0  # seconds
_WINDOW = 60.0  # seconds of the first and of the last part that are compared

Durations = dict[str, list[tuple[float, float]]]  # call: when it began, milliseconds


class Flow:
    """Jobs that are enqueued one by one, claimed and reported.

    Args:
        queue: Their queue.
        options: Their options.
    """

    def __init__(self, queue: str, options: Given | None = None) -> None:
        self._queue = queue
        self._options = options
        self._stopped = asyncio.Event()
        self._began = time.monotonic()
        self.enqueued = 0
        self.reported = 0
        self.durations: Durations = {"enqueue": [], "claim": [], "report": []}

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
            took, jobs = await calls.claim(self._queue, _CLAIM)
            if jobs:
                self._record("claim", began, took)
                self._record("report", time.monotonic(), await calls.report(jobs))
                self.reported += len(jobs)
            await asyncio.sleep(max(began + _TICK - time.monotonic(), 0))

    async def run(self, producer: Calls, worker: Calls, maintenance: Calls, seconds: float) -> None:
        """Let jobs flow for so long."""
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

    def windows(self, call: str, seconds: float) -> tuple[float, float]:
        """Return the 95th percentile of a call in the first and in the last part of the run."""
        width = min(_WINDOW, (seconds - _WARM_UP) / 3)
        first = [t for at, t in self.durations[call] if _WARM_UP <= at < _WARM_UP + width]
        last = [t for at, t in self.durations[call] if seconds - width <= at < seconds]
        return percentile(first, 0.95), percentile(last, 0.95)


@asynccontextmanager
async def _snapshot(calls: Calls) -> AsyncIterator[None]:
    async with calls.connection.transaction(isolation="repeatable_read"):
        await calls.run("select count(*) from public.job_queue where false")
        yield


async def _measure(
    database: Database, prefix: str, queue: str, seconds: float, options: Given | None
) -> Samples:
    flow = Flow(queue, options)
    async with (
        database.connect_many(4) as (holder, producer, worker, maintenance),
        _snapshot(holder),
    ):
        await flow.run(producer, worker, maintenance, seconds)
    found: Samples = {}
    for call in flow.durations:
        first, last = flow.windows(call, seconds)
        found[f"{prefix}_{call}_first"] = [first]
        found[f"{prefix}_{call}_last"] = [last]
        found[f"{prefix}_{call}_ratio"] = [last / first]
    found[f"{prefix}_rate"] = [flow.reported / seconds]
    return found


async def measure_held(database: Database, size: Size) -> Samples:
    """Let plain jobs flow under a held snapshot."""
    return await _measure(database, "held", "held", size.held_seconds, None)


async def measure_held_limited(database: Database, size: Size) -> Samples:
    """Let limited jobs flow under a held snapshot."""
    async with database.connect() as calls:
        await calls.run("select set_limit('model:held', 1000)")
    try:
        options = {"limit_keys": ["model:held"]}
        seconds = size.held_limited_seconds
        return await _measure(database, "held_limited", "held-limited", seconds, options)
    finally:
        async with database.connect() as calls:
            await calls.run("select delete_limit('model:held')")


def _figures(prefix: str, title: str, bound: tuple[str, float] | None) -> dict[str, Figure]:
    figures = {f"{prefix}_rate": Figure(f"{title}: jobs done of {RATE} a second", "jobs/s")}
    for call in ("enqueue", "claim", "report"):
        figures |= {
            f"{prefix}_{call}_first": Figure(f"{title}: p95 of {call}, first minute", "ms"),
            f"{prefix}_{call}_last": Figure("… last minute", "ms"),
            f"{prefix}_{call}_ratio": Figure("… last compared with first", "x", bound),
        }
    return figures


HELD = Workload("held", _figures("held", "held snapshot", ("≤", 2)), measure_held, once=True)
HELD_LIMITED = Workload(
    "held-limited",
    _figures("held_limited", "held snapshot, limit", None),
    measure_held_limited,
    once=True,
)

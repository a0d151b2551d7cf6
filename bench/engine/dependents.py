"""The report of a parent with many dependents, and its effect on another queue."""

import asyncio
import time
from uuid import uuid4

from engine.database import Calls, Database
from engine.maintenance import maintain_until
from engine.workload import Figure, Samples, Size, Workload, percentile

_PAUSE = 0.01  # The interval between two claims of the other queue, in seconds.
_POLL = 0.25  # The interval between two queries for waiting dependents, in seconds.
_TIME_LIMIT = 600.0  # The time limit of the measurement, in seconds.

_WAITING = """
select exists (select from public.job_queue where queue = $1 and hold = 'waiting')
"""


async def _claim_elsewhere(
    calls: Calls, stopped: asyncio.Event, claims: list[tuple[float, float]]
) -> None:
    """Claim single jobs of another queue, and record the start and the duration of each claim."""
    while not stopped.is_set():
        await calls.enqueue_job("elsewhere")
        began = time.monotonic()
        took, jobs = await calls.claim("elsewhere", 1)
        claims.append((began, took))
        if jobs:
            await calls.report(jobs)
        await asyncio.sleep(_PAUSE)


async def _wait_until_resolved(calls: Calls, queue: str) -> None:
    deadline = time.monotonic() + _TIME_LIMIT
    while await calls.run(_WAITING, queue):
        if time.monotonic() > deadline:
            raise RuntimeError(f"dependents still wait after {_TIME_LIMIT:.0f} s")
        await asyncio.sleep(_POLL)


async def measure_dependents(database: Database, size: Size) -> Samples:
    """Report a parent and wait for its dependents, while a worker claims from another queue."""
    queue, parent = f"family-{uuid4().hex[:8]}", str(uuid4())
    async with database.connect_many(4) as (calls, elsewhere, maintenance, watch):
        await calls.enqueue_jobs(queue, 1, job_id=parent)
        await calls.fill_queue(queue, size.scaled(70_000), options={"depends_on": [parent]})
        await calls.run("analyze public.job_queue")
        for _ in range(8):
            await calls.enqueue_job("elsewhere")
            await calls.cycle("elsewhere", 1)
        await maintenance.acquire_maintenance_lease("maintenance")
        stopped = asyncio.Event()
        claims: list[tuple[float, float]] = []
        tasks = [
            asyncio.create_task(_claim_elsewhere(elsewhere, stopped, claims)),
            asyncio.create_task(maintain_until(maintenance, "maintenance", stopped)),
        ]
        try:
            await asyncio.sleep(max(size.maintenance_seconds / 4, 2))
            _, jobs = await calls.claim_exactly(queue, 1)
            began = time.monotonic()
            report_duration = await calls.report(jobs)
            await _wait_until_resolved(watch, queue)
            ended = time.monotonic()
        finally:
            stopped.set()
            await asyncio.gather(*tasks)
    before = percentile([took for at, took in claims if at < began], 0.95)
    durations = [took for at, took in claims if began <= at <= ended + 1]
    during = percentile(durations, 0.95)
    return {
        "dependents_report": [report_duration],
        "dependents_seconds": [ended - began],
        "elsewhere_before": [before],
        "elsewhere_during": [during],
        "elsewhere_max": [max(durations)],
        "elsewhere_ratio": [during / before],
    }


DEPENDENTS = Workload(
    "dependents",
    {
        "dependents_report": Figure("report of a parent, 70,000 dependents", "ms", ("≤", 50)),
        "dependents_seconds": Figure("… until all are resolved", "s", ("≤", 60)),
        "elsewhere_before": Figure("p95 of another queue's claims before", "ms"),
        "elsewhere_during": Figure("… meanwhile", "ms"),
        "elsewhere_max": Figure("… the longest", "ms"),
        # Other queues should not be affected. The bound allows 50 % of noise.
        "elsewhere_ratio": Figure("… compared with before", "x", ("≤", 1.5)),
    },
    measure_dependents,
    turns=lambda size: size.maintenance_turns,
)

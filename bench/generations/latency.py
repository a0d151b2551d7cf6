"""The latencies of single calls, and the cost of an idle worker."""

import asyncio
import time
from collections.abc import Iterable
from uuid import UUID, uuid4

import asyncpg
from rich.console import Console
from rich.progress import track

from generations.stack import Programs
from picture_queue import AsyncPictureQueue
from picture_queue.local.stack import LocalSupabase

_IDLE_SECONDS = 10  # duration of the measurement of an idle worker
_PAUSE = 0.05  # seconds between two rounds, so that the worker is idle again
_JOIN_PAUSE = 0.05  # seconds until a subscription is active and the first read is done
_WARM_UP = 10  # calls that are not measured


async def prepare_money(pq: AsyncPictureQueue) -> UUID:
    """Create a user with a plan, credits, budgets and rules, and return the id."""
    user = uuid4()
    await pq.accounts.set(user, plan="bench")
    await pq.accounts.grant(user, 1000)
    await pq.budgets.set("project", usd_per_day=10_000, usd_per_month=100_000)
    await pq.budgets.set(
        f"user:{user}",
        usd_per_day=1000,
        per_minute=10_000,
        per_hour=10_000,
        max_pending=10_000,
        needs_credits=True,
    )
    await pq.rules.set("*", "num_outputs", "cap", 2, plan="bench")
    await pq.rules.set("black-forest-labs/*", "go_fast", "default", True, plan="bench")
    return user


async def measure_start_generation(pq: AsyncPictureQueue, rounds: int) -> list[float]:
    """Time `start_generation` of a user with money and rules, from the call to the answer."""
    user, times = await prepare_money(pq), []
    for number in _rounds(rounds + _WARM_UP, "start_generation"):
        began = time.perf_counter()
        await pq.generations.start(
            "a lighthouse at dusk",
            input={"seed": number, "aspect_ratio": "16:9", "num_outputs": 1},
            user_id=user,
        )
        times.append(time.perf_counter() - began)
    return times[_WARM_UP:]


async def measure_pick_up(pq: AsyncPictureQueue, rounds: int) -> list[float]:
    """Time from before the enqueue call to the first line of the handler in the worker.

    The handler returns the time at which it started.
    """
    times = []
    for _ in _rounds(rounds, "pick-up"):
        await asyncio.sleep(_PAUSE)
        began = time.time()
        job = await pq.jobs.enqueue("bench-pick-up")
        started = await pq.jobs.result(job.id, timeout=30)
        times.append(started - began)
    return times


async def measure_event(pq: AsyncPictureQueue, stack: LocalSupabase, rounds: int) -> list[float]:
    """Time from before the statement that cancels a job to the arrival of the event.

    Only events that came over the socket are timed.
    """
    connection = await asyncpg.connect(stack.db_url, timeout=10)
    times = []
    for _ in _rounds(rounds, "events"):
        job = await pq.jobs.enqueue("bench-without-handler")
        events = aiter(pq.jobs.watch(job.id, timeout=30))
        await anext(events)
        next_event = asyncio.ensure_future(anext(events))
        await asyncio.sleep(_JOIN_PAUSE)
        began = time.perf_counter()
        await connection.execute("select cancel_job($1)", job.id)
        event = await next_event
        if event.source == "socket":
            times.append(time.perf_counter() - began)
    await connection.close(timeout=10)
    return times


async def measure_idle(programs: Programs) -> tuple[float, float]:
    """Return the idle worker's CPU use in percent of a core, and its memory in MB."""
    worker = programs.worker_process
    before = worker.cpu_times()
    await asyncio.sleep(_IDLE_SECONDS)
    after = worker.cpu_times()
    busy = (after.user + after.system) - (before.user + before.system)
    return busy / _IDLE_SECONDS * 100, worker.memory_info().rss / 1e6


def _rounds(count: int, title: str) -> Iterable[int]:
    return track(range(count), title, console=Console(stderr=True), transient=True)

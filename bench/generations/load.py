"""Many generations at the same time, and a large one, with the built-in worker."""

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any

import asyncpg

from generations.stack import CpuSeconds, Programs
from picture_queue import AsyncPictureQueue
from picture_queue.options import GenerationRequest

_BATCH = 100  # generations in one call of `start_many`
_INTERVAL = 0.25  # seconds between two looks at the database
_LARGE_TIMEOUT = 120.0  # seconds for the generation of the large picture

# One seed, so that the simulator draws one picture and then answers from its cache. The worker
# does not know that the pictures are equal.
_REQUEST = GenerationRequest(prompt="a lighthouse at dusk", input={"seed": 1})

_COUNTS = """
select count(*) filter (where g.status in ('completed', 'failed', 'cancelled')) as ended,
  count(*) filter (where g.status = 'completed') as completed,
  (select count(*) from picture_queue.prediction p
    where p.prediction_id is not null and p.finished_at is null) as in_flight
from public.generations g
"""


class IncompleteRun(Exception):
    """Generations failed or did not end, so that the figures are invalid."""


@dataclass
class Load:
    """The figures of a run of many generations.

    Attributes:
        seconds: From the first start to the end of the last generation.
        in_flight: The highest number of predictions at the same time.
        peak_mb: Peak of the worker's resident memory.
        stall_ms: The longest time for which the worker's event loop ran no timer.
        stall_cpu_ms: The longest time for which its thread computed without running a timer.
        stalls: The number of stalls of over 50 ms.
        cpu_ms: CPU time of a generation in milliseconds, by part of the system.
    """

    seconds: float = 0.0
    in_flight: int = 0
    peak_mb: float = 0.0
    stall_ms: float = 0.0
    stall_cpu_ms: float = 0.0
    stalls: int = 0
    cpu_ms: CpuSeconds = field(default_factory=dict)


async def generate(
    pq: AsyncPictureQueue, db_url: str, programs: Programs, count: int, timeout: float
) -> Load:
    """Start generations and wait until all have ended.

    Raises:
        IncompleteRun: A generation failed, or not all ended in time.
    """
    load, connection = Load(), await asyncpg.connect(db_url)
    before = await _count(connection)
    programs.reset_peak_memory()
    await programs.read_stalls()
    cpu, began = programs.cpu_seconds(), time.perf_counter()
    for start in range(0, count, _BATCH):
        await pq.generations.start_many([_REQUEST] * min(_BATCH, count - start))
    while True:
        row = await _count(connection)
        load.in_flight = max(load.in_flight, row["in_flight"])
        load.seconds = time.perf_counter() - began
        if row["ended"] - before["ended"] >= count or load.seconds > timeout:
            break
        await asyncio.sleep(_INTERVAL)
    completed = row["completed"] - before["completed"]
    await connection.close()
    if completed != count:
        raise IncompleteRun(
            f"{completed} of {count} generations completed in {load.seconds:.0f} s;"
            f" {load.in_flight} predictions were in flight"
        )
    stalls = await programs.read_stalls()
    load.stall_ms, load.stall_cpu_ms = stalls["longest_ms"], stalls["longest_cpu_ms"]
    load.stalls = int(stalls["over_bound"])
    load.peak_mb = programs.peak_memory_mb()
    used = programs.cpu_seconds()
    load.cpu_ms = {part: (used[part] - cpu[part]) * 1000 / count for part in used}
    return load


async def _count(connection: Any) -> dict[str, int]:
    (row,) = await connection.fetch(_COUNTS)
    return dict(row)


async def generate_large(pq: AsyncPictureQueue, programs: Programs) -> tuple[float, float]:
    """Generate two large pictures, one after the other.

    Returns:
        The size of the second picture and the growth of the worker's peak memory while it was
        stored, in MB. The first picture loads modules and fills the allocator's arenas.
    """
    megabytes = growth = 0.0
    for seed in (1, 2):
        memory = programs.worker_process.memory_info().rss / 1e6
        programs.reset_peak_memory()
        started = await pq.generations.start("noise", input={"seed": seed, "output_format": "png"})
        async for _ in pq.generations.watch(started.id, timeout=_LARGE_TIMEOUT):
            pass
        generation = await pq.generations.get(started.id)
        if not generation.images:
            raise IncompleteRun(f"the generation of a large picture ended {generation.status}")
        megabytes = (generation.images[0].bytes or 0) / 1e6
        growth = programs.peak_memory_mb() - memory
    return megabytes, growth

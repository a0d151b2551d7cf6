"""The worker of the benchmark: the built-in worker, which also measures its event loop.

``python bench/generations/worker.py CONCURRENCY``. The worker takes the project and the simulator
from the environment. For each line that it reads, it prints the `Stalls` since the line before, as
JSON. It also handles jobs of the type ``bench-pick-up``.
"""

import asyncio
import json
import sys
import time
from dataclasses import asdict, dataclass

import uvloop

from picture_queue import AsyncPictureQueue, WorkerSettings
from picture_queue.generations.builtin import builtin_worker
from picture_queue.settings import ReplicateSettings
from picture_queue.worker import Worker

_TICK = 0.01  # seconds between two callbacks of the measurement


@dataclass
class Stalls:
    """The delays of an event loop.

    Attributes:
        longest_ms: The longest time for which the loop ran no timer.
        longest_cpu_ms: The longest time for which the thread of the loop computed without running
            a timer. Unlike `longest_ms`, it does not contain the time in which other processes had
            the CPU.
        over_bound: The number of delays of over 50 ms.
    """

    longest_ms: float = 0.0
    longest_cpu_ms: float = 0.0
    over_bound: int = 0


class LoopClock:
    """A timer that measures how late it runs."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stalls = Stalls()
        self._ran_at, self._cpu = time.perf_counter(), time.thread_time()
        self._tick()

    def _tick(self) -> None:
        now, cpu = time.perf_counter(), time.thread_time()
        delay_ms = (now - self._ran_at - _TICK) * 1000
        stalls = self._stalls
        stalls.longest_ms = max(stalls.longest_ms, delay_ms)
        stalls.longest_cpu_ms = max(stalls.longest_cpu_ms, (cpu - self._cpu) * 1000)
        stalls.over_bound += delay_ms > 50
        self._ran_at, self._cpu = now, cpu
        self._loop.call_later(_TICK, self._tick)

    def read(self) -> Stalls:
        """Return the delays since the last call."""
        stalls, self._stalls = self._stalls, Stalls()
        return stalls


def _answer_lines(clock: LoopClock) -> None:
    def answer() -> None:
        if sys.stdin.readline():
            print(json.dumps(asdict(clock.read())), flush=True)
        else:
            loop.remove_reader(sys.stdin)

    loop = asyncio.get_running_loop()
    loop.add_reader(sys.stdin, answer)


async def work(concurrency: int) -> None:
    """Run the worker until a signal stops it."""
    replicate = ReplicateSettings.from_env()
    async with AsyncPictureQueue.from_env() as pq:
        worker = builtin_worker(pq, WorkerSettings(concurrency=concurrency), replicate)
        _add_pick_up(worker)
        _answer_lines(LoopClock())
        await worker.run()


def _add_pick_up(worker: Worker) -> None:
    @worker.handler("bench-pick-up")
    async def start() -> float:
        """Return the wall-clock time in seconds since the epoch."""
        return time.time()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work(int(sys.argv[1])))

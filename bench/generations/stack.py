"""The processes of the benchmark: the embedded stack, a worker and the simulator."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from picture_queue import AsyncPictureQueue
from picture_queue.local.ports import free_port
from picture_queue.local.stack import LocalSupabase

_HERE = Path(__file__).resolve().parent
_START_TIMEOUT = 120.0  # seconds until the worker has run its first job
_STOP_TIMEOUT = 40.0  # seconds; a worker lets running jobs finish for 20

#: CPU seconds by the name of the part of the system.
CpuSeconds = dict[str, float]


@dataclass
class Programs:
    """A worker and a simulator that run beside a stack.

    Args:
        worker: The process of the worker.
        simulator: The process of the simulator.
    """

    worker: asyncio.subprocess.Process
    simulator: asyncio.subprocess.Process

    async def read_stalls(self) -> dict[str, float]:
        """Return the stalls of the worker's event loop since the last call."""
        assert self.worker.stdin is not None and self.worker.stdout is not None
        self.worker.stdin.write(b"\n")
        async with asyncio.timeout(_START_TIMEOUT):
            line = await self.worker.stdout.readline()
        stalls: dict[str, float] = json.loads(line)
        return stalls

    @property
    def worker_process(self) -> psutil.Process:
        """The process of the worker, to read its CPU time and memory."""
        return psutil.Process(self.worker.pid)

    def reset_peak_memory(self) -> None:
        """Let the kernel record a new peak of the worker's memory."""
        Path(f"/proc/{self.worker.pid}/clear_refs").write_text("5")

    def peak_memory_mb(self) -> float:
        """Return the peak of the worker's resident memory since the last reset."""
        lines = Path(f"/proc/{self.worker.pid}/status").read_text().splitlines()
        peak = next(line for line in lines if line.startswith("VmHWM:"))
        return int(peak.split()[1]) * 1024 / 1e6

    def cpu_seconds(self) -> CpuSeconds:
        """Return the CPU time that each part of the system has used so far."""
        used = dict.fromkeys(
            ("worker", "thumbnails", "simulator", "gateway", "PostgREST", "Postgres"), 0.0
        )
        thumbnails = {child.pid for child in self.worker_process.children(recursive=True)}
        for process in psutil.Process().children(recursive=True):
            try:
                name, times = process.name(), process.cpu_times()
            except psutil.Error:
                continue
            seconds = times.user + times.system
            if process.pid == self.worker.pid:
                part = "worker"
            elif process.pid in thumbnails:
                part = "thumbnails"
            elif process.pid == self.simulator.pid:
                part = "simulator"
            elif name.startswith("postgrest"):
                part = "PostgREST"
            elif name.startswith("postgres"):
                part = "Postgres"
                # The sessions that have ended are children of the server.
                if not (process.parent() or process).name().startswith("postgres"):
                    seconds += times.children_user + times.children_system
            else:
                part = "gateway"
            used[part] += seconds
        return used


@asynccontextmanager
async def run_programs(
    stack: LocalSupabase,
    pq: AsyncPictureQueue,
    *,
    concurrency: int,
    seconds: float,
    megabytes: int = 0,
) -> AsyncIterator[Programs]:
    """Run a worker and a simulator during the block, which begins when both work.

    Args:
        stack: The stack.
        pq: A client of the stack with a service key.
        concurrency: The number of jobs that the worker runs at the same time.
        seconds: Duration of each prediction from its creation to its end.
        megabytes: Size of each output; 0: pictures as the simulator draws them.
    """
    port = free_port(0)
    environment = {
        **os.environ,
        "SUPABASE_URL": stack.api_url,
        "SUPABASE_KEY": stack.service_role_key,
        "REPLICATE_API_TOKEN": stack.replicate_token,
        "REPLICATE_BASE_URL": f"http://127.0.0.1:{port}/v1",
    }
    for name in ("PICTURE_QUEUE_DATABASE_URL", "REPLICATE_WEBHOOK_URL", "SUPABASE_ACCESS_TOKEN"):
        environment.pop(name, None)
    simulator = await _start("simulator", port, seconds, megabytes, environment=environment)
    worker = await _start("worker", concurrency, environment=environment)
    programs = Programs(worker, simulator)
    try:
        first = await pq.jobs.enqueue("bench-pick-up")
        await pq.jobs.result(first.id, timeout=_START_TIMEOUT)
        await programs.read_stalls()
        yield programs
    finally:
        for process in (worker, simulator):
            if process.returncode is None:
                process.terminate()
        for process in (worker, simulator):
            try:
                async with asyncio.timeout(_STOP_TIMEOUT):
                    await process.wait()
            except TimeoutError:
                process.kill()


async def _start(
    program: str, *arguments: Any, environment: dict[str, str]
) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        str(_HERE / f"{program}.py"),
        *map(str, arguments),
        env=environment,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )

"""Run workers that kill themselves with SIGKILL, each at another point of a generation.

``python -m tests.generations.kills``. Each line of the standard input is a plan in JSON: the
project, the scenario, and for each worker its queues, its jobs, and the point of its death. A
worker without a point runs until its jobs have ended. The answer is one line of JSON: the exit code
of each worker by its first queue, and the points that a worker without a point has reached.

This program imports the package once, and forks for each worker. So a worker starts at once, and
its death is that of a process: no code runs any more, and the kernel closes the connections.
"""

import asyncio
import contextlib
import importlib
import json
import os
import signal
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any, NoReturn

from .await_points import PACKAGES, Point, instrument

_MAX_PARALLEL = 4


class _Killer:
    """The observer that ends the process at one point, and records the points until then."""

    def __init__(self) -> None:
        self.point: Point | None = None
        self.reached: list[tuple[Point, tuple[int, int]]] = []

    def reach(self, point: Point, step: tuple[int, int]) -> None:
        if point == self.point:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.point is None:
            self.reached.append((point, step))


def run_workers(plan: dict[str, Any], killer: _Killer) -> dict[str, Any]:
    """Fork a process for each worker of the plan, a few at a time; return the answer."""
    waiting = list(reversed(plan["workers"]))
    running: dict[int, str] = {}
    exit_codes: dict[str, int] = {}
    reached: list[Any] = []
    with tempfile.NamedTemporaryFile() as trace:
        while waiting or running:
            while waiting and len(running) < _MAX_PARALLEL:
                worker = waiting.pop()
                process = os.fork()
                if process == 0:
                    run_worker(plan, worker, killer, Path(trace.name))
                running[process] = worker["queues"][0]
            process, status = os.waitpid(-1, 0)
            exit_codes[running.pop(process)] = os.waitstatus_to_exitcode(status)
        if recorded := Path(trace.name).read_bytes():
            reached, modules = json.loads(recorded)
            _import_modules(modules)
    return {"exit_codes": exit_codes, "reached": reached}


def _import_modules(modules: list[str]) -> None:
    """Import what a worker has imported, so that the next workers need not."""
    for module in modules:
        if module not in sys.modules:
            with contextlib.suppress(ImportError):
                importlib.import_module(module)


def run_worker(
    plan: dict[str, Any], worker: dict[str, Any], killer: _Killer, trace: Path
) -> NoReturn:
    """Run a worker in this process, which never returns."""
    signal.alarm(plan["timeout"])  # ends the process
    killer.point = Point(*worker["point"]) if worker["point"] else None
    try:
        asyncio.run(_run_until_end(plan, worker))
        if killer.point is None:
            trace.write_text(json.dumps([killer.reached, sorted(sys.modules)]))
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


async def _run_until_end(plan: dict[str, Any], worker: dict[str, Any]) -> None:
    from picture_queue import AsyncPictureQueue, WorkerSettings

    from .scenarios import SCENARIOS, create_worker

    # The lease is longer than a plan takes. So only the test decides when the leases end.
    settings = WorkerSettings(
        queues=worker["queues"],
        concurrency=min(len(worker["queues"]), 50),
        lease=600,
        poll_interval=0.1,
        shutdown_grace=0,
    )
    async with AsyncPictureQueue(plan["api_url"], plan["service_key"]) as client:
        scenario = SCENARIOS[plan["scenario"]]
        generation_id = worker["generation_id"]
        async with create_worker(client, scenario, settings, plan["replicate"], generation_id):
            # Polled, so that a worker that is killed needs no subscription.
            for job_id in worker["jobs"]:
                while not (await client.jobs.get(job_id)).finished:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)


def main() -> None:
    """Run the workers of each plan."""
    killer = _Killer()
    instrument(PACKAGES, killer)
    importlib.import_module("tests.generations.kills.scenarios")
    for line in sys.stdin:
        print(json.dumps(run_workers(json.loads(line), killer)), flush=True)


main()

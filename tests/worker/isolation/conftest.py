"""Worker processes that run app.py, over HTTP and over direct connections to the database."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from .harness import Process

TRANSPORTS = ("http", "direct")


def worker_environment(stack: Any, transport: str) -> dict[str, str]:
    """Return the environment of a worker that connects without a proxy."""
    if transport == "direct":
        return {"PICTURE_QUEUE_DATABASE_URL": stack.db_url}
    return {"SUPABASE_URL": stack.api_url, "SUPABASE_KEY": stack.service_role_key}


Start = Callable[..., tuple[str, Process]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Return a function that starts a worker with a new queue for this test."""
    processes: list[Process] = []

    def start_worker(
        env: dict[str, str], mutation: str = "", **settings: Any
    ) -> tuple[str, Process]:
        queue = f"isolation-{uuid4().hex[:8]}"
        log = tmp_path / f"worker-{len(processes)}.log"
        processes.append(Process(env, {"queues": [queue], **settings}, log, mutation))
        return queue, processes[-1]

    yield start_worker
    for process in processes:
        process.kill()


@pytest.fixture(scope="module")
def shared(stack: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One worker for each transport, which the tests of a module share until a test fails."""
    workers: dict[str, tuple[str, Process]] = {}
    directory = tmp_path_factory.mktemp("isolation")

    class Shared:
        def get(self, transport: str) -> tuple[str, Process]:
            if transport not in workers:
                queue = f"isolation-{uuid4().hex[:8]}"
                log = directory / f"{queue}.log"
                process = Process(worker_environment(stack, transport), {"queues": [queue]}, log)
                workers[transport] = (queue, process)
            return workers[transport]

        def replace(self, transport: str) -> None:
            """Kill a worker after a failed test; the next test starts another."""
            _, process = workers.pop(transport)
            process.kill()

    yield Shared()
    for _, process in workers.values():
        process.kill()

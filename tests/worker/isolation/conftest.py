"""Workers of the suite: over HTTP and straight to the database."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from .world import Process

WAYS = ("http", "direct")


def environment(stack: Any, way: str) -> dict[str, str]:
    """Return the environment of a worker with direct access to the project."""
    if way == "direct":
        return {"PICTURE_QUEUE_DATABASE_URL": stack.db_url}
    return {"SUPABASE_URL": stack.api_url, "SUPABASE_KEY": stack.service_role_key}


Start = Callable[..., tuple[str, Process]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a worker on a queue of its own, for this test."""
    processes: list[Process] = []

    def run(env: dict[str, str], mutation: str = "", **settings: Any) -> tuple[str, Process]:
        queue = f"isolation-{uuid4().hex[:8]}"
        log = tmp_path / f"worker-{len(processes)}.log"
        processes.append(Process(env, {"queues": [queue], **settings}, log, mutation))
        return queue, processes[-1]

    yield run
    for process in processes:
        process.kill()


@pytest.fixture(scope="module")
def shared(stack: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Give the worker of a transport, the same for the tests of a module while it is well."""
    workers: dict[str, tuple[str, Process]] = {}
    directory = tmp_path_factory.mktemp("isolation")

    class Shared:
        def get(self, way: str) -> tuple[str, Process]:
            if way not in workers:
                queue = f"isolation-{uuid4().hex[:8]}"
                log = directory / f"{queue}.log"
                process = Process(environment(stack, way), {"queues": [queue]}, log)
                workers[way] = (queue, process)
            return workers[way]

        def give_up(self, way: str) -> None:
            """End a worker that may not be well; the next test gets another."""
            _, process = workers.pop(way)
            process.kill()

    yield Shared()
    for _, process in workers.values():
        process.kill()

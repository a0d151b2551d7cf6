"""A complete worker with a fake backend, for the tests of its life cycle."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from picture_queue import (
    JobContext,
    Worker,
    WorkerSettings,
    _rpc,
)

from ...signals import watch

VERSION = {"version": "0.1.0", "contract": _rpc.CONTRACT, "oldest_client_contract": 1}


class FakeSubscriptions:
    """An event source whose wake-ups the test sends."""

    def __init__(self) -> None:
        self.listeners: dict[str, Any] = {}

    @contextmanager
    def listen(self, topic: str, listener: Any) -> Iterator[None]:
        self.listeners[topic] = listener
        listener.joined()
        yield
        del self.listeners[topic]

    def wake(self, queue: str, reason: str) -> None:
        self.listeners[f"pq:queue:{queue}"].message("wake", {"queue": queue, "reason": reason})


class Harness:
    """A factory of workers, and a fake database that returns jobs and records outcomes."""

    def __init__(self, backend: Any, make_row: Any) -> None:
        self.backend = backend
        self.make_row = make_row
        self.jobs: list[dict[str, Any]] = []
        self.reported: dict[str, dict[str, Any]] = {}
        self.heartbeat_answer: dict[str, list[str]] = {"cancel": [], "lost": []}
        self.subscriptions = FakeSubscriptions()
        self.client: Any = SimpleNamespace(_backend=backend)
        backend.subscriptions = self.subscriptions
        backend.answers |= {
            "register_worker": lambda params: VERSION,
            "unregister_worker": lambda params: None,
            "claim_jobs": lambda params: self.claim(params),
            "heartbeat_jobs": lambda params: self.heartbeat_answer,
            "report_progress": lambda params: {"cancel_requested": False},
            "report_jobs": self.report,
            "maintain_jobs": lambda params: {"leased": True, "next_in": 60},
        }

    def make_worker(self, lifespan: Any = None, **settings: Any) -> Worker:
        values = WorkerSettings(**{"poll_interval": 30, **settings})
        worker = Worker(self.client, values, lifespan=lifespan)
        watch(worker)
        return worker

    def claim(self, params: dict[str, Any]) -> list[dict[str, Any]]:
        count = params["max_jobs"]
        taken, self.jobs = self.jobs[:count], self.jobs[count:]
        return taken

    def report(self, params: dict[str, Any]) -> dict[str, Any]:
        self.reported |= {item["job_id"]: item for item in params["outcomes"]}
        answers = [
            {"job_id": item["job_id"], "outcome": "ok", "status": "x"}
            for item in params["outcomes"]
        ]
        return {"outcomes": answers, "jobs": []}

    def add_job(self, **columns: Any) -> str:
        """Put a job into the queue and return its id."""
        self.jobs.append(self.make_row(**columns))
        job_id: str = self.jobs[-1]["id"]
        return job_id


@pytest.fixture(autouse=True)
def use_fake_connections(monkeypatch):
    """Connect the heartbeat thread and the wake-ups of workers to the fake backend."""

    async def connect(backend: Any) -> Any:
        return backend.for_thread()

    async def aclose() -> None: ...

    def watcher(backend: Any) -> Any:
        return SimpleNamespace(wake_ups=backend.subscriptions, aclose=aclose)

    monkeypatch.setattr("picture_queue._transport.duplicate.for_thread", connect)
    monkeypatch.setattr("picture_queue.worker.worker.Watcher", watcher)


@pytest.fixture
def harness(backend, make_row):
    return Harness(backend, make_row)


class WaitingHandler:
    """A handler that returns once the test sets `may_return`."""

    def __init__(self, worker: Worker) -> None:
        self.started = asyncio.Event()
        self.may_return = asyncio.Event()
        self.context: JobContext
        worker.handler("resize")(self)

    async def __call__(self, payload: dict[str, Any], job: JobContext) -> str:
        self.context = job
        self.started.set()
        await self.may_return.wait()
        return "done"

    async def wait_started(self) -> None:
        await asyncio.wait_for(self.started.wait(), 5)


async def until(condition: Callable[[], Any]) -> None:
    """Run the event loop until a condition is true."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - no event tells when the condition becomes true
            await asyncio.sleep(0)

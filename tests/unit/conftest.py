"""A factory of claimed jobs, and a fake backend whose answers each test defines."""

import asyncio
import inspect
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest

from picture_queue._rpc import Rpc
from picture_queue.records import ClaimedJob

#: The columns of a claimed job.
COLUMNS: dict[str, Any] = {
    "seq": 1,
    "queue": "default",
    "job_type": "resize",
    "payload": {},
    "priority": 0,
    "status": "processing",
    "hold": None,
    "attempt": 1,
    "max_attempts": 3,
    "scheduled_for": None,
    "user_id": None,
    "generation_id": None,
    "idempotency_key": None,
    "progress": 0,
    "message": None,
    "error": None,
    "version": 2,
    "worker": "w",
    "cancel_requested_at": None,
    "created_at": "2026-01-01T00:00:00Z",
    "updated_at": "2026-01-01T00:00:00Z",
    "started_at": "2026-01-01T00:00:00Z",
    "finished_at": None,
    "lease_seconds": 30.0,
    "timeout_seconds": 60.0,
}


@pytest.fixture
def make_row() -> Callable[..., dict[str, Any]]:
    """Return a function that makes the JSON of a claimed job."""

    def make(**columns: Any) -> dict[str, Any]:
        return COLUMNS | {"id": str(uuid4()), "lease_id": str(uuid4())} | columns

    return make


@pytest.fixture
def make_job(make_row: Callable[..., dict[str, Any]]) -> Callable[..., ClaimedJob]:
    """Return a function that makes a claimed job."""
    return lambda **columns: ClaimedJob(make_row(**columns))


def make_attempt(job: Any, *, has_outcome: bool = False, **senders: Any) -> Any:
    """Make a fake attempt with the attributes that a `JobContext` reads.

    ``senders`` are the attributes ``log`` and ``progress``, to which the context passes values.
    """
    return SimpleNamespace(
        job=job,
        **senders,
        has_outcome=has_outcome,
        stop_reason=None,
        cancel_requested=False,
        shutdown_requested=False,
    )


class FakeBackend:
    """A backend without a database; the test defines the answer of each SQL function.

    `answers` maps the name of an SQL function to a Python function, which may be async. The Python
    function gets the parameters of a call and returns the JSON of the answer, or raises an error.
    `calls` has the calls that the test has not read yet.
    """

    database = None

    def __init__(self) -> None:
        self.answers: dict[str, Callable[[dict[str, Any]], Any]] = {}
        self.calls: asyncio.Queue[tuple[str, dict[str, Any]]] = asyncio.Queue()

    async def call(self, rpc: Rpc[Any], timeout: float | None = None) -> Any:
        self.calls.put_nowait((rpc.function, rpc.params))
        answer = self.answers[rpc.function](rpc.params)
        return rpc.parse(await answer if inspect.isawaitable(answer) else answer)

    def for_thread(self) -> "FakeThreadBackend":
        """Return a wrapper of this backend for use in another thread."""
        return FakeThreadBackend(self)

    async def next_call(self, function: str) -> dict[str, Any]:
        """Discard calls until the next call of this function; return its parameters."""
        async with asyncio.timeout(5):
            while True:
                name, params = await self.calls.get()
                if name == function:
                    return params


class FakeThreadBackend:
    """Calls from another thread to a `FakeBackend`, which answers them in the test's event loop."""

    def __init__(self, backend: FakeBackend) -> None:
        self._backend = backend
        self._loop = asyncio.get_running_loop()
        self.closed = threading.Event()

    def call(self, rpc: Rpc[Any], timeout: float | None = None) -> Any:
        future = asyncio.run_coroutine_threadsafe(self._backend.call(rpc), self._loop)
        return future.result(timeout)

    def close(self) -> None:
        self.closed.set()


@pytest.fixture
def backend() -> FakeBackend:
    return FakeBackend()

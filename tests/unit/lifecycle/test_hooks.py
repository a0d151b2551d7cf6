"""Hooks of a worker, and the objects that its handlers share."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from picture_queue import InvalidArgument, JobContext, SyncJobContext
from picture_queue.worker import AttemptEnd, hooks

from .conftest import until


class Database:
    """An object that handlers share."""

    is_open = True


async def run_job(harness: Any, worker: Any, **columns: Any) -> str:
    """Run one job from the start of the worker to its stop; return the id of the job."""
    job = harness.add_job(**columns)
    async with worker:
        await worker._signals.reported.next()
    return job


# --- Lifespan ---


async def test_handlers_get_what_the_lifespan_yields(harness):
    events: list[Any] = []

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[dict[str, Any]]:
        task = asyncio.current_task()
        database = Database()
        yield {"database": database, "name": "main"}
        database.is_open = False
        events.append(asyncio.current_task() is task)

    worker = harness.make_worker(lifespan=lifespan)

    @worker.handler("resize")
    async def resize(payload: dict[str, Any], job: JobContext, *, database: Database) -> None:
        events.append((database.is_open, job.state["database"] is database, job.state["name"]))

    @worker.handler("scale")
    def scale(job: SyncJobContext, *, database: Database) -> None:
        events.append((database.is_open, job.state["database"] is database))

    harness.add_job(job_type="scale")
    await run_job(harness, worker)
    await until(lambda: len(events) == 3)
    assert (True, True, "main") in events
    assert (True, True) in events
    assert events[-1] is True, "the lifespan was left in another task"


async def test_a_lifespan_that_fails_ends_the_start(harness):
    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        raise OSError("no database")
        yield

    worker = harness.make_worker(lifespan=lifespan)
    with pytest.raises(OSError, match="no database"):
        await worker.start()
    assert worker.name is None


async def test_a_worker_whose_lifespan_lacks_an_object_does_not_start(harness):
    left: list[bool] = []

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[dict[str, Any]]:
        yield {}
        left.append(True)

    worker = harness.make_worker(lifespan=lifespan)

    @worker.handler("resize")
    async def resize(*, database: Database) -> None: ...

    with pytest.raises(InvalidArgument, match="yields 0 objects of the type Database"):
        await worker.start()
    assert left == [True]


# --- Notifications ---


async def test_hooks_are_called_at_starts_ends_and_failures(harness):
    worker = harness.make_worker()
    started: list[str] = []
    ended: list[AttemptEnd] = []
    failed: list[AttemptEnd] = []
    worker.on_start(lambda job: started.append(job.id_text))

    @worker.on_end
    async def on_end(end: AttemptEnd) -> None:
        ended.append(end)

    worker.on_failure(failed.append)
    error = ValueError("no disk")

    @worker.handler("resize")
    async def resize(payload: dict[str, Any]) -> None:
        if payload:
            raise error

    good = harness.add_job()
    bad = harness.add_job(payload={"fails": True})
    async with worker:
        for _ in range(2):
            await worker._signals.reported.next()
    assert set(started) == {good, bad}
    assert {(end.job.id_text, end.outcome) for end in ended} == {
        (good, "completed"),
        (bad, "failed"),
    }
    (failure,) = failed
    assert (failure.exception, failure.error) == (error, "ValueError: no disk")


@pytest.mark.parametrize("kind", ["raises", "blocks", "async raises", "async blocks"])
async def test_a_bad_hook_neither_fails_nor_delays_jobs(harness, monkeypatch, caplog, kind):
    monkeypatch.setattr(hooks, "NOTIFICATION_TIMEOUT", 0.05)
    monkeypatch.setattr("picture_queue.worker.supervisor.NOTIFICATION_TIMEOUT", 0.05)
    worker = harness.make_worker(concurrency=1)
    release = threading.Event()

    def sync_hook(value: Any) -> None:
        if kind == "raises":
            raise SystemExit("bad hook")
        release.wait(30)

    async def async_hook(value: Any) -> None:
        if kind == "async raises":
            raise ValueError("bad hook")
        await asyncio.Event().wait()

    hook: Any = async_hook if kind.startswith("async") else sync_hook
    for register in (worker.on_start, worker.on_end, worker.on_failure):
        register(hook)
    worker.handler("resize")(lambda: 1)
    jobs = [harness.add_job() for _ in range(3)]
    try:
        async with worker:
            await until(lambda: set(jobs) <= set(harness.reported))
            expected = "bad hook" if "raises" in kind else "has not ended in"
            await until(lambda: expected in caplog.text)
    finally:
        release.set()
    assert {harness.reported[job]["outcome"] for job in jobs} == {"completed"}


async def test_calls_of_a_hook_that_hangs_are_left_out(harness, monkeypatch, caplog):
    monkeypatch.setattr(hooks, "MAX_NOTIFICATIONS", 1)
    monkeypatch.setattr("picture_queue.worker.supervisor.NOTIFICATION_TIMEOUT", 0.05)
    worker = harness.make_worker()
    calls: list[Any] = []
    release = threading.Event()

    @worker.on_end
    def hang(end: AttemptEnd) -> None:
        calls.append(end)
        release.wait(30)

    worker.handler("resize")(lambda: 1)
    jobs = [harness.add_job() for _ in range(3)]
    try:
        async with worker:
            await until(lambda: set(jobs) <= set(harness.reported))
            await until(lambda: "a call is left out" in caplog.text)
    finally:
        release.set()
    assert len(calls) == 1


# --- Wrappers ---


async def test_wrappers_run_around_each_attempt(harness):
    worker = harness.make_worker()
    events: list[str] = []

    def wrapper(name: str) -> Any:
        @asynccontextmanager
        async def wrap(job: JobContext) -> AsyncIterator[None]:
            events.append(f"{name} enters {job.job_type}")
            try:
                yield
            finally:
                events.append(f"{name} leaves")

        return wrap

    worker.around(wrapper("outer"))
    worker.around(wrapper("inner"))

    @worker.handler("resize")
    def resize() -> None:
        events.append("handler")
        raise ValueError("no disk")

    job = await run_job(harness, worker)
    assert events == [
        *("outer enters resize", "inner enters resize", "handler"),
        *("inner leaves", "outer leaves"),
    ]
    assert harness.reported[job]["error"] == "ValueError: no disk"


async def test_a_wrapper_that_raises_fails_only_its_own_attempt(harness):
    worker = harness.make_worker()

    @worker.around
    @asynccontextmanager
    async def check(job: JobContext) -> AsyncIterator[None]:
        if job.payload:
            raise PermissionError("not today")
        yield

    worker.handler("resize")(lambda: 1)
    bad, good = harness.add_job(payload={"x": 1}), harness.add_job()
    async with worker:
        await until(lambda: {bad, good} <= set(harness.reported))
    assert harness.reported[bad]["error"] == "PermissionError: not today"
    assert harness.reported[good]["outcome"] == "completed"

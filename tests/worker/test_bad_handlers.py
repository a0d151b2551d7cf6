"""Handlers that end in every way that Python permits affect no other jobs of their worker."""

import asyncio
import functools
import itertools
import logging
import sys
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import BaseModel, Field, field_validator, model_serializer

from picture_queue import (
    AsyncPictureQueue,
    JobContext,
    JobFailed,
    JobStatus,
    Park,
    PermanentFailure,
    RateLimited,
    Retry,
    Snooze,
    Worker,
    WorkerSettings,
)
from picture_queue.worker import SyncJobContext

from ..signals import watch

YEAR_SECONDS = 31_536_000


@pytest.fixture(params=["http", "direct"])
async def service(request: pytest.FixtureRequest, stack: Any) -> AsyncIterator[AsyncPictureQueue]:
    """An async client of each transport, with the service key."""
    if request.param == "http":
        client = AsyncPictureQueue(stack.api_url, stack.service_role_key)
    else:
        client = AsyncPictureQueue(database_url=stack.db_url)
    async with client as pq:
        yield pq


class Panic(BaseException):
    """An exception of a Rust extension, which does not inherit from `Exception`."""


class NoHeader(Exception):
    """An exception whose property raises, like `headers["Retry-After"]` without the header."""

    @property
    def retry_after(self) -> float:
        return {}["Retry-After"]


class FailingStr(Exception):
    def __str__(self) -> str:
        raise Panic

    __repr__ = __str__


class EpochRetryAfter(Exception):
    retry_after = 1771404540


class Throttled(Exception):
    uses_attempt = False
    retry_after = 1e9
    pause_key = "k" * 300  # The key is longer than the database accepts, so it is ignored.


class NoOutcome(Snooze):
    def outcome(self, queue: str) -> Any:
        return None


class FailingValidator(BaseModel):
    size: int = Field(default_factory=lambda: raise_error(Panic("in the default")))

    @field_validator("size")
    @classmethod
    def check(cls, size: int) -> int:
        raise Panic("in the validator")


class FailingSerializer(BaseModel):
    @model_serializer
    def serialize(self) -> Any:
        raise Panic("in the serializer")


def raise_error(error: BaseException) -> Any:
    raise error


def nested_list(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def cancel_itself_and_fail() -> Any:
    try:
        asyncio.current_task().cancel()  # type: ignore[union-attr]
    finally:
        raise_error(Panic("in finally"))


async def fail_later(error: BaseException) -> None:
    await asyncio.sleep(0)
    raise error


async def in_a_group(error: BaseException) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(fail_later(error))
        await asyncio.sleep(60)


async def in_a_gather(error: BaseException) -> None:
    await asyncio.gather(asyncio.sleep(60), fail_later(error))


#: Functions that start a task or thread that raises, and the expected error of the job.
FAILING_TASKS: list[tuple[Callable[[], Any], str]] = [
    (lambda: in_a_group(Panic("in a task")), "Panic: in a task"),
    (lambda: in_a_group(SystemExit(3)), "SystemExit: 3"),
    (lambda: in_a_group(KeyboardInterrupt("k")), "KeyboardInterrupt: k"),
    (lambda: in_a_gather(SystemExit(4)), "SystemExit: 4"),
    (lambda: asyncio.create_task(fail_later(KeyboardInterrupt("k"))), "KeyboardInterrupt: k"),
    (lambda: asyncio.to_thread(raise_error, SystemExit(5)), "SystemExit: 5"),
    (lambda: asyncio.wait_for(fail_later(SystemExit(6)), 60), "SystemExit: 6"),
]


def recurse() -> Any:
    return recurse()


#: Functions that raise an exception or return an invalid result, and the expected error of the job.
BAD_ENDS: list[tuple[Callable[[], Any], str]] = [
    (lambda: raise_error(Panic("at the core")), "Panic: at the core"),
    (lambda: raise_error(GeneratorExit("g")), "GeneratorExit: g"),
    (lambda: raise_error(KeyboardInterrupt("k")), "KeyboardInterrupt: k"),
    (lambda: raise_error(StopAsyncIteration("s")), "StopAsyncIteration: s"),
    (lambda: sys.exit(3), "SystemExit: 3"),
    (lambda: raise_error(asyncio.CancelledError()), "CancelledError: the handler cancelled itself"),
    (lambda: raise_error(NoHeader("429")), "NoHeader: 429"),
    (lambda: raise_error(FailingStr()), "FailingStr"),
    (lambda: raise_error(Retry(0, reason=FailingStr())), "FailingStr"),
    (lambda: raise_error(Retry(0, reason=ValueError("why"))), "ValueError: why"),
    (lambda: raise_error(ExceptionGroup("tasks", [FailingStr()])), "FailingStr"),
    (lambda: raise_error(BaseExceptionGroup("tasks", [Panic("one")])), "Panic: one"),
    (recurse, "RecursionError: maximum recursion depth exceeded"),
    (lambda: raise_error(PermanentFailure("the file is no picture")), "the file is no picture"),
    (lambda: raise_error(ValueError("a\x00b\ud800" + "x" * 100_000)), "ValueError: a\ufffdb?xx"),
    (lambda: FailingSerializer(), "The result cannot be stored"),
    (lambda: object(), "The result cannot be stored"),
    (lambda: nested_list(101), "The result is nested deeper than 100 levels"),
    (lambda: nested_list(3000), "The result cannot be stored"),
    (lambda: 10**5000, "The result"),
    (lambda: {"n": 10**400}, "The result has a number beyond 1e308"),
    (lambda: itertools.count(), "The result cannot be stored"),
    (lambda: Snooze, "The handler returned the class Snooze: return an instance"),
    (lambda: NoOutcome(1), "NoOutcome: NoOutcome(seconds=1, until=None, reason=None)"),
    (lambda: raise_error(NoOutcome(1)), "NoOutcome: NoOutcome(seconds=1, until=None, reason=None)"),
    (lambda: raise_error(PermanentFailure(" ")), "PermanentFailure"),
    (lambda: {"text": "\ud800"}, "The result cannot be stored"),
    (lambda: "a\x00b", "The result cannot be stored: result has the character U+0000"),
    (lambda: "x" * 9_000_000, "The result has 9000002 bytes"),
    (
        lambda: fail_later(Panic()),
        "The handler returned a coroutine that it did not await (fail_later)",
    ),
]


def add_handlers(worker: Worker, is_async: bool) -> None:
    """Register the bad handlers, and two ordinary handlers."""

    async def bad(payload: dict[str, int]) -> Any:
        return BAD_ENDS[payload["n"]][0]()

    def bad_in_a_thread(payload: dict[str, int]) -> Any:
        return BAD_ENDS[payload["n"]][0]()

    worker.handler("bad", max_attempts=1)(bad if is_async else bad_in_a_thread)

    @worker.handler("invalid", max_attempts=1)
    async def invalid(payload: FailingValidator) -> None: ...

    @worker.handler("starts", max_attempts=1)
    async def starts(payload: dict[str, int]) -> None:
        await FAILING_TASKS[payload["n"]][0]()

    @worker.handler("finally", max_attempts=1)
    async def in_finally() -> None:
        cancel_itself_and_fail()

    @worker.handler("fine")
    async def fine(payload: dict[str, int]) -> int:
        return payload["n"]

    barrier = asyncio.Barrier(2)

    @worker.handler("barrier", max_attempts=1)
    async def wait_for_each_other() -> str:
        await barrier.wait()
        return "passed"


#: Bad jobs: the job type, the payload, and the expected error of the job.
BAD_JOBS: list[tuple[str, dict[str, int], str]] = [
    *(("bad", {"n": n}, expected) for n, (_, expected) in enumerate(BAD_ENDS)),
    *(("starts", {"n": n}, expected) for n, (_, expected) in enumerate(FAILING_TASKS)),
    ("invalid", {"size": 1}, "Panic: in the validator"),
    ("invalid", {}, "Panic: in the default"),
    ("finally", {}, "Panic: in finally"),
]


@pytest.mark.parametrize("is_async", [True, False])
async def test_a_bad_handler_affects_only_its_job_and_frees_its_slot(
    service, queue, new_worker, caplog, is_async
):
    caplog.set_level(logging.INFO, logger="picture_queue")
    worker = new_worker(concurrency=2, poll_interval=0.1)
    add_handlers(worker, is_async)
    async with worker:
        jobs = []
        for n, (job_type, payload, expected) in enumerate(BAD_JOBS):
            bad_job = await service.jobs.enqueue(job_type, payload, queue=queue)
            ordinary_job = await service.jobs.enqueue("fine", {"n": n}, queue=queue)
            jobs.append((bad_job.id, expected, ordinary_job.id))
        for n, (bad_id, expected, ordinary_id) in enumerate(jobs):
            assert await service.jobs.result(ordinary_id, timeout=15) == n
            with pytest.raises(JobFailed):
                await service.jobs.result(bad_id, timeout=15)
            failed = await service.jobs.get(bad_id)
            assert (failed.attempt, failed.error[: len(expected)]) == (1, expected)
        # All slots are free: each of these two jobs waits for the other.
        pair = [await service.jobs.enqueue("barrier", queue=queue) for _ in range(2)]
        for job in pair:
            assert await service.jobs.result(job.id, timeout=15) == "passed"
    assert "has not stopped and still runs" not in caplog.text
    first_id = jobs[0][0]
    history = await service.jobs.history(first_id)
    assert "raise_error" in history.attempts[0].detail
    assert "Traceback" in caplog.text
    assert f"{first_id} (bad) failed, attempt 1 of 1: Panic: at the core" in caplog.text


async def test_a_result_that_the_database_refuses_is_logged_as_a_failure(
    service, queue, new_worker, caplog
):
    caplog.set_level(logging.INFO, logger="picture_queue")
    worker = new_worker()

    @worker.handler("large")
    async def large() -> str:
        return "x" * 2_000_000  # The setting max_result_bytes allows half of this size.

    async with worker:
        job = await service.jobs.enqueue("large", queue=queue)
        with pytest.raises(JobFailed, match="larger than the project allows"):
            await service.jobs.result(job.id, timeout=15)
    expected = f"{job.id} (large) failed, attempt 1, for good: the database refused its result"
    assert expected in caplog.text
    assert "completed" not in caplog.text


async def test_wake_ups_continue_after_a_handler_closes_the_client_of_its_worker(
    service, stack, queue
):
    async with AsyncPictureQueue(stack.api_url, stack.service_role_key) as other_client:
        # Without wake-ups, the worker would start the jobs after the timeout of the results.
        worker = Worker(service, WorkerSettings(queues=(queue,), poll_interval=300))
        watch(worker)

        @worker.handler("closes")
        async def closes() -> str:
            async with service:
                return "closed"

        async with worker:
            await worker._signals.listening.next()
            for _ in range(3):
                job = await other_client.jobs.enqueue("closes", queue=queue)
                assert await other_client.jobs.result(job.id, timeout=30) == "closed"


# --- Delays that the database would refuse ---


#: Functions that postpone the job, the expected hold, and the expected delay in seconds. None
#: stands for a delay of centuries.
DELAYS: list[tuple[Callable[[], Any], str, float | None]] = [
    (lambda: Snooze(until=datetime.max), "scheduled", None),
    (lambda: Snooze(seconds=40_000_000), "scheduled", YEAR_SECONDS),
    (lambda: Snooze(10**400), "scheduled", YEAR_SECONDS),
    (lambda: Park(1e300), "parked", YEAR_SECONDS),
    (lambda: raise_error(Retry(at=datetime.max)), "scheduled", None),
    (lambda: raise_error(Retry(1e9, reason="later")), "scheduled", YEAR_SECONDS),
    (lambda: RateLimited(1e9, key="an-api-of-this-test"), "scheduled", YEAR_SECONDS),
    (lambda: raise_error(Throttled("429\x00")), "scheduled", YEAR_SECONDS),
    (lambda: Park(1e9, event="\U0001f600" * 200), "parked", YEAR_SECONDS),
    (lambda: raise_error(EpochRetryAfter("busy")), "scheduled", YEAR_SECONDS),
]


async def test_a_delay_is_limited_and_does_not_delay_other_jobs(service, queue, new_worker, until):
    worker = new_worker(concurrency=2, poll_interval=0.1)

    @worker.handler("waits")
    async def waits(payload: dict[str, int]) -> Any:
        return DELAYS[payload["n"]][0]()

    @worker.handler("again")
    async def again(job: JobContext) -> Any:
        runs.append(job.attempt)
        return "done" if len(runs) > 1 else Snooze(until=datetime.min)

    @worker.handler("fine")
    async def fine() -> str:
        return "done"

    runs: list[int] = []
    async with worker:
        waiting = [
            await service.jobs.enqueue("waits", {"n": n}, queue=queue) for n in range(len(DELAYS))
        ]
        at_once = await service.jobs.enqueue("again", queue=queue)
        for _ in range(5):
            job = await service.jobs.enqueue("fine", queue=queue)
            assert await service.jobs.result(job.id, timeout=15) == "done"
        assert await service.jobs.result(at_once.id, timeout=15) == "done"
        for job, (_, hold, seconds) in zip(waiting, DELAYS, strict=True):

            async def is_delayed(job_id: Any = job.id) -> bool:
                return (await service.jobs.get(job_id)).status is not JobStatus.PROCESSING or (
                    await service.jobs.get(job_id)
                ).hold == "parked"

            await until(is_delayed)
            delayed = await service.jobs.get(job.id)
            assert delayed.hold == hold
            delay = (delayed.scheduled_for - delayed.updated_at).total_seconds()
            if seconds is None:
                assert delay > 200 * YEAR_SECONDS
            else:
                assert delay == pytest.approx(seconds, abs=2)
        assert (await service.jobs.get(waiting[-1].id)).error == "EpochRetryAfter: busy"
        await asyncio.wait_for(worker.stop(), 15)


# --- Handlers that check for a stop request ---


@pytest.mark.parametrize("stop_reason", ["timeout", "cancel", "lost lease", "shutdown"])
async def test_a_thread_can_see_the_reason_of_a_stop_request(
    service, queue, new_worker, db, stop_reason
):
    worker = new_worker(lease=3600, shutdown_grace=15)
    loop = asyncio.get_running_loop()
    started, stopped = asyncio.Event(), asyncio.Event()
    requested = SimpleNamespace(cancel=None, shutdown=None)

    @worker.handler("cooperative", timeout=0.3 if stop_reason == "timeout" else 600, max_attempts=1)
    def cooperative(job: SyncJobContext) -> None:
        loop.call_soon_threadsafe(started.set)
        while not job.stop_requested:
            pass
        requested.cancel, requested.shutdown = job.cancel_requested, job.shutdown_requested
        loop.call_soon_threadsafe(stopped.set)
        raise asyncio.CancelledError

    async with worker:
        await worker._signals.listening.next()
        job = await service.jobs.enqueue("cooperative", queue=queue)
        await asyncio.wait_for(started.wait(), 15)
        if stop_reason == "cancel":
            await service.jobs.cancel(job.id)
        elif stop_reason == "lost lease":
            await db.execute(
                "update job_queue set lease_id = gen_random_uuid() where id = $1", job.id
            )
            worker._supervisor._heartbeat.beat_now()
        elif stop_reason == "shutdown":
            await asyncio.wait_for(worker.stop(), 10)
        await asyncio.wait_for(stopped.wait(), 15)
        if stop_reason == "timeout":
            with pytest.raises(JobFailed, match="TimeoutError"):
                await service.jobs.result(job.id, timeout=15)
    assert requested.cancel is (stop_reason == "cancel")
    if stop_reason == "shutdown":
        released = await service.jobs.get(job.id)
        assert (released.status, released.attempt) == (JobStatus.PENDING, 0)


async def test_a_wrapper_is_called_with_the_arguments_of_its_function(service, queue, new_worker):
    worker = new_worker()

    def logged(function: Any) -> Any:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs)

        return wrapper

    @worker.handler("wrapped")
    @logged
    async def wrapped(payload: dict[str, int], job: JobContext) -> list[int]:
        return [payload["n"], job.attempt]

    async with worker:
        job = await service.jobs.enqueue("wrapped", {"n": 7}, queue=queue)
        assert await service.jobs.result(job.id, timeout=15) == [7, 1]

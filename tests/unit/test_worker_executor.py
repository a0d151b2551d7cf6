"""Attempts to run a job: their outcomes, their cancellation and their end."""

import asyncio
import contextlib
import contextvars
import functools
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel, field_validator

from picture_queue.worker import (
    JobContext,
    Retry,
    Snooze,
    SyncJobContext,
    executor,
    verdicts,
)
from picture_queue.worker.executor import Attempt, StopReason
from picture_queue.worker.outcomes import Cancelled, Completed, Failed, Outcome, Released, Snoozed
from picture_queue.worker.registry import Registry


class RecordedAttempt:
    """An attempt, and a listener that records its messages, progress and log lines."""

    def __init__(self, function: Callable[..., Any], job: Any) -> None:
        registry = Registry()
        registry.add("resize", function, {})
        self.messages: list[str] = []
        self.progress: list[int] = []
        self.lines: list[dict[str, Any]] = []
        self._got_outcome = asyncio.Event()
        self._ended = asyncio.Event()
        self.attempt = Attempt(registry["resize"], job, self)

    async def send(self, attempt: Attempt, call: Any, name: str) -> Any:
        if name == "log":
            self.lines += call.params["lines"]
        else:
            self.progress.append(call.params["progress"])

    def on_outcome(self, attempt: Attempt) -> None:
        self.messages.append("outcome")
        self._got_outcome.set()

    def on_end(self, attempt: Attempt) -> None:
        self.messages.append("end")
        self._ended.set()

    async def wait_outcome(self) -> Outcome | None:
        async with asyncio.timeout(5):
            await self._got_outcome.wait()
        return self.attempt.outcome

    async def wait_end(self) -> None:
        async with asyncio.timeout(5):
            await self._ended.wait()
        assert self.messages == ["outcome", "end"]


@pytest.fixture
def run(make_job):
    """Return a function that runs a handler for a new job, and returns a `RecordedAttempt`."""
    return lambda function, **columns: RecordedAttempt(function, make_job(**columns))


@pytest.fixture
def quick_cleanup(monkeypatch):
    monkeypatch.setattr(executor, "CLEANUP_TIMEOUT", 0.01)


class CancellableHandler:
    """An async handler that runs until it is cancelled, and keeps its context for the test.

    After the cancellation it returns the value of `on_cancel`, if the value is not None.
    """

    def __init__(self, on_cancel: Callable[[], Any] = lambda: None) -> None:
        self.started = asyncio.Event()
        self.context: JobContext
        self._on_cancel = on_cancel

    async def __call__(self, payload: dict[str, Any], job: JobContext) -> Any:
        self.context = job
        self.started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if (value := self._on_cancel()) is not None:
                return value
            raise


async def test_the_value_that_a_handler_returns_is_the_result(run):
    async def handle(payload: dict[str, Any]) -> Any:
        return payload

    recorded = run(handle, payload={"a": 1})
    assert await recorded.wait_outcome() == Completed({"a": 1})
    await recorded.wait_end()
    assert 0 <= recorded.attempt.duration < 5


def _circular_list() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    ("value", "in_loop", "outcome"),
    [
        (None, True, Completed),
        ({"n": [1, 2, 3]}, True, Completed),
        ([[]] * 10_000, True, Completed),
        ([[]] * 10_001, False, Completed),
        ({"parts": [{"n": [n] * 100} for n in range(100)]}, False, Completed),
        (_circular_list(), False, Failed),
        ("x" * 1_000_000, True, Completed),
        ("x" * 2_000_000, False, Completed),
        ((n for n in range(3)), False, Completed),
    ],
    ids=[
        "nothing",
        "small",
        "limit",
        "long",
        "nested",
        "circular",
        "text",
        "long text",
        "generator",
    ],
)
async def test_a_large_result_is_encoded_outside_the_event_loop(
    run, monkeypatch, value, in_loop, outcome
):
    threads: list[int] = []
    original = verdicts.from_value

    def from_value(value: object, queue: str) -> Outcome:
        threads.append(threading.get_ident())
        return original(value, queue)

    monkeypatch.setattr(verdicts, "from_value", from_value)

    async def handler() -> object:
        return value

    assert isinstance(await run(handler).wait_outcome(), outcome)
    assert [thread == threading.get_ident() for thread in threads] == [in_loop]


async def test_an_exception_that_a_handler_raises_is_a_failure(run):
    async def handle() -> None:
        raise ValueError("no")

    outcome = await run(handle).wait_outcome()
    assert isinstance(outcome, Failed)
    assert (outcome.error, outcome.retryable) == ("ValueError: no", True)


async def test_a_handler_is_not_called_with_an_invalid_payload(run):
    class Size(BaseModel):
        width: int

    called = False

    async def handle(payload: Any) -> None:
        nonlocal called
        called = True

    handle.__annotations__["payload"] = Size
    outcome = await run(handle, payload={"width": "wide"}).wait_outcome()
    assert isinstance(outcome, Failed)
    assert "payload.width is 'wide'" in outcome.error
    assert not outcome.retryable
    assert not called


async def test_a_handler_that_calls_exit_fails_only_its_job(run):
    async def handle() -> None:
        sys.exit(3)

    outcome = await run(handle).wait_outcome()
    assert isinstance(outcome, Failed)
    assert outcome.error == "SystemExit: 3"


class Panic(BaseException):
    """An exception of a Rust extension, which does not inherit from `Exception`."""


class NoHeader(Exception):
    """An exception whose property raises, like `headers["Retry-After"]` without the header."""

    @property
    def retry_after(self) -> float:
        return {}["Retry-After"]


class Unprintable(Exception):
    def __str__(self) -> str:
        raise Panic


class FailingModel(BaseModel):
    size: int

    @field_validator("size")
    @classmethod
    def check(cls, size: int) -> int:
        raise Panic("in the validator")


def recurse() -> None:
    recurse()


@pytest.mark.parametrize("is_async", [True, False])
@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (Panic("at the core"), "Panic: at the core"),
        (SystemExit(3), "SystemExit: 3"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (GeneratorExit(), "GeneratorExit"),
        (StopAsyncIteration(), "StopAsyncIteration"),
        (NoHeader("429"), "NoHeader: 429"),
        (Unprintable(), "Unprintable"),
        # The documentation of `Retry` permits an exception as the reason.
        (Retry(1, reason=ValueError("no")), "ValueError: no"),
        (BaseExceptionGroup("tasks", [Panic("one")]), "Panic: one"),
        (ExceptionGroup("tasks", [ValueError(), KeyError()]), "ExceptionGroup: tasks (2 sub-ex"),
    ],
)
async def test_an_exception_of_any_kind_becomes_the_outcome(run, error, expected, is_async):
    async def handle() -> None:
        raise error

    def handle_in_a_thread() -> None:
        raise error

    recorded = run(handle if is_async else handle_in_a_thread)
    outcome = await recorded.wait_outcome()
    assert isinstance(outcome, Failed)
    assert outcome.error.startswith(expected)
    await recorded.wait_end()


async def test_a_handler_that_recurses_too_deeply_fails(run):
    async def handle() -> None:
        recurse()

    recorded = run(handle)
    outcome = await recorded.wait_outcome()
    assert isinstance(outcome, Failed)
    assert outcome.error.startswith("RecursionError")
    await recorded.wait_end()


async def test_any_exception_of_a_validator_fails_the_job(run):
    async def handle(payload: Any) -> None: ...
    def handle_in_a_thread(payload: Any) -> None: ...

    for function in (handle, handle_in_a_thread):
        function.__annotations__["payload"] = FailingModel
        recorded = run(function, payload={"size": 1})
        outcome = await recorded.wait_outcome()
        assert isinstance(outcome, Failed)
        assert outcome.error == "Panic: in the validator"
        await recorded.wait_end()


async def test_an_attempt_ends_even_if_its_listener_fails(run):
    async def handle() -> None: ...

    recorded = run(handle)

    def fail(attempt: Attempt) -> None:
        recorded.messages.append("outcome")
        raise RuntimeError("no")

    recorded.on_outcome = fail
    exceptions: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(
        lambda loop, context: exceptions.append(context)
    )
    await recorded.wait_end()
    assert len(exceptions) == 1


async def test_a_wrapper_of_an_async_handler_may_return_a_result_or_a_coroutine(run):
    async def inner(payload: dict[str, Any]) -> str:
        return "awaited"

    @functools.wraps(inner)
    def cached(*args: Any) -> Any:
        return args[0].get("cached") or inner(*args)

    assert await run(cached).wait_outcome() == Completed("awaited")
    assert await run(cached, payload={"cached": "at once"}).wait_outcome() == Completed("at once")


async def test_a_sync_handler_that_returns_a_coroutine_fails_with_a_hint(run):
    async def inner() -> None: ...

    outcome = await run(lambda: inner()).wait_outcome()
    assert isinstance(outcome, Failed)
    assert "returned a coroutine" in outcome.error


async def test_an_async_handler_may_log_from_a_thread(run):
    async def handle(job: JobContext) -> None:
        job.log("before")
        await asyncio.to_thread(job.log, "in a thread")
        job.log("after")

    recorded = run(handle)
    await recorded.wait_end()
    await recorded.attempt.log.flush()
    assert [line["message"] for line in recorded.lines] == ["before", "in a thread", "after"]


async def test_a_cancelled_error_raised_by_the_handler_is_a_failure(run):
    async def handle() -> None:
        raise asyncio.CancelledError

    outcome = await run(handle).wait_outcome()
    assert isinstance(outcome, Failed)
    assert "cancelled itself" in outcome.error


async def test_an_attempt_ends_at_its_timeout(run):
    outcome = await run(CancellableHandler(), timeout_seconds=0.02).wait_outcome()
    assert isinstance(outcome, Failed)
    assert outcome.error == "TimeoutError: the job did not end within 0.02 s"
    assert outcome.retryable
    assert outcome.detail is not None
    assert "in __call__" in outcome.detail, "the traceback does not show where the handler waits"


async def test_a_handler_that_fails_after_its_timeout_has_timed_out(run):
    def fail() -> None:
        raise RuntimeError("in cleanup")

    outcome = await run(CancellableHandler(fail), timeout_seconds=0.02).wait_outcome()
    assert isinstance(outcome, Failed)
    assert outcome.error.startswith("TimeoutError")
    assert outcome.detail is not None
    assert "in cleanup" in outcome.detail


@pytest.mark.parametrize(
    ("reason", "outcome"),
    [(StopReason.CANCEL, Cancelled()), (StopReason.SHUTDOWN, Released()), (StopReason.LOST, None)],
)
async def test_an_attempt_can_be_stopped(run, reason, outcome):
    handler = CancellableHandler()
    recorded = run(handler)
    await handler.started.wait()
    recorded.attempt.stop(reason)
    assert await recorded.wait_outcome() == outcome
    await recorded.wait_end()
    assert handler.context.cancel_requested is (reason is StopReason.CANCEL)


@pytest.mark.parametrize("reason", [StopReason.CANCEL, StopReason.SHUTDOWN, StopReason.LOST])
async def test_an_attempt_can_be_stopped_before_its_first_step(run, reason):
    handler = CancellableHandler()
    recorded = run(handler)
    recorded.attempt.stop(reason)
    await recorded.wait_end()
    assert not handler.started.is_set()


async def test_a_handler_that_returns_after_a_stop_counts_as_finished(run):
    handler = CancellableHandler(lambda: "done")
    recorded = run(handler)
    await handler.started.wait()
    recorded.attempt.stop(StopReason.CANCEL)
    assert await recorded.wait_outcome() == Completed("done")


async def test_a_lost_lease_overrides_an_earlier_stop(run):
    handler = CancellableHandler(lambda: "done")
    recorded = run(handler)
    await handler.started.wait()
    recorded.attempt.stop(StopReason.CANCEL)
    recorded.attempt.stop(StopReason.LOST)
    assert await recorded.wait_outcome() is None


async def test_a_stop_after_the_end_changes_nothing(run):
    async def handle() -> int:
        return 1

    recorded = run(handle)
    await recorded.wait_end()
    for reason in StopReason:
        recorded.attempt.stop(reason)
    recorded.attempt.give_up()
    assert await recorded.wait_outcome() == Completed(1)
    assert recorded.messages == ["outcome", "end"]


async def test_a_handler_that_ignores_its_stop_occupies_only_its_slot(run, quick_cleanup, caplog):
    release = asyncio.Event()

    async def ignore_cancellation() -> str:
        while not release.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await release.wait()
        return "too late"

    recorded = run(ignore_cancellation, timeout_seconds=0.01)
    outcome = await recorded.wait_outcome()
    assert isinstance(outcome, Failed)
    assert outcome.error.startswith("TimeoutError")
    assert recorded.messages == ["outcome"]
    assert "has not stopped and still runs" in caplog.text
    release.set()
    await recorded.wait_end()
    assert await recorded.wait_outcome() is outcome


async def test_a_job_cancelled_while_parked_runs_its_cleanup(run):
    handler = CancellableHandler(lambda: "stopped")
    recorded = run(handler, cancel_requested_at="2026-01-01T00:00:00Z")
    await handler.started.wait()
    assert handler.context.cancel_requested
    # Every heartbeat repeats the cancel request, which must not stop the cleanup.
    recorded.attempt.stop(StopReason.CANCEL)
    recorded.attempt.stop(StopReason.SHUTDOWN)
    assert await recorded.wait_outcome() == Completed("stopped")


async def test_a_handler_can_see_the_shutdown(run):
    handler = CancellableHandler()
    recorded = run(handler)
    await handler.started.wait()
    recorded.attempt.shutdown_requested = True
    assert handler.context.shutdown_requested
    assert not recorded.attempt.has_outcome
    recorded.attempt.stop(StopReason.SHUTDOWN)
    await recorded.wait_end()


async def test_the_last_progress_is_sent_before_a_job_is_snoozed(run):
    async def handle(job: JobContext) -> Snooze:
        await job.progress(10)
        await job.progress(20)
        await job.progress(30)
        return Snooze(5)

    recorded = run(handle)
    assert await recorded.wait_outcome() == Snoozed(5)
    assert recorded.progress[-1] == 30


async def test_a_verdict_raised_during_a_stop_is_the_outcome(run):
    def snooze() -> None:
        raise Snooze(5)

    handler = CancellableHandler(snooze)
    recorded = run(handler)
    await handler.started.wait()
    recorded.attempt.stop(StopReason.SHUTDOWN)
    assert await recorded.wait_outcome() == Snoozed(5)


# Sync handlers


async def test_a_sync_handler_runs_in_a_thread_with_copied_context_variables(run):
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")
    variable.set("kept")

    def handle(payload: dict[str, Any], job: SyncJobContext) -> list[Any]:
        return [variable.get(), threading.current_thread() is threading.main_thread(), job.attempt]

    recorded = run(handle)
    assert await recorded.wait_outcome() == Completed(["kept", False, 1])
    await recorded.wait_end()


@pytest.mark.parametrize(
    "error", [ValueError("no"), SystemExit(3), StopIteration(), KeyboardInterrupt()]
)
async def test_an_exception_in_a_sync_handler_fails_only_its_job(run, error):
    def handle() -> None:
        raise error

    outcome = await run(handle).wait_outcome()
    assert isinstance(outcome, Failed)
    assert outcome.error.startswith(type(error).__name__)


@pytest.mark.parametrize(
    ("reason", "outcome"),
    [(StopReason.CANCEL, Cancelled()), (StopReason.SHUTDOWN, Released()), (StopReason.LOST, None)],
)
async def test_a_stopped_thread_has_its_outcome_at_once_but_ends_later(run, reason, outcome):
    loop = asyncio.get_running_loop()
    started, release = asyncio.Event(), threading.Event()
    stopped: list[BaseException] = []

    def handle(job: SyncJobContext) -> str:
        loop.call_soon_threadsafe(started.set)
        release.wait(5)
        try:
            job.progress(50)
        except asyncio.CancelledError as error:
            stopped.append(error)
            raise
        return "too late"

    recorded = run(handle)
    await started.wait()
    recorded.attempt.stop(reason)
    assert recorded.messages == ["outcome"]
    assert await recorded.wait_outcome() == outcome
    release.set()
    await recorded.wait_end()
    assert len(stopped) == 1
    assert recorded.progress == []


@pytest.mark.parametrize("reason", list(StopReason))
async def test_a_thread_can_see_the_stop_request(run, reason):
    stop_was_requested = threading.Event()
    requests: list[tuple[bool, bool]] = []

    def handle(job: SyncJobContext) -> None:
        stop_was_requested.wait(5)
        requests.append((job.stop_requested, job.cancel_requested))

    recorded = run(handle)
    recorded.attempt.stop(reason)
    stop_was_requested.set()
    await recorded.wait_end()
    assert requests == [(True, reason is StopReason.CANCEL)]


@pytest.mark.parametrize("is_async", [True, False])
async def test_a_handler_that_sees_the_shutdown_can_release_its_job(run, is_async):
    async def handle(job: JobContext) -> None:
        while not job.stop_requested:  # noqa: ASYNC110 - a handler that works in steps polls it
            await asyncio.sleep(0)
        raise asyncio.CancelledError

    def handle_in_a_thread(job: SyncJobContext) -> None:
        while not job.stop_requested:
            time.sleep(0.001)
        raise asyncio.CancelledError

    recorded = run(handle if is_async else handle_in_a_thread)
    recorded.attempt.shutdown_requested = True
    assert await recorded.wait_outcome() == Released()
    await recorded.wait_end()


async def test_cleanup_after_a_cancel_while_parked_gets_no_stop_request(run):
    handler = CancellableHandler()
    recorded = run(handler, cancel_requested_at="2026-01-01T00:00:00Z")
    await handler.started.wait()
    recorded.attempt.stop(StopReason.CANCEL)
    assert not handler.context.stop_requested
    recorded.attempt.stop(StopReason.SHUTDOWN)
    assert handler.context.stop_requested
    await recorded.wait_end()


async def test_an_attempt_in_a_thread_times_out_although_the_thread_still_runs(run):
    release = threading.Event()
    recorded = run(lambda: release.wait(5), timeout_seconds=0.02)
    outcome = await recorded.wait_outcome()
    assert isinstance(outcome, Failed)
    assert outcome.error.startswith("TimeoutError")
    assert recorded.messages == ["outcome"]
    release.set()
    await recorded.wait_end()


# Forks and other event loops


# Python warns of a fork in a process with several threads.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
async def test_a_forked_process_that_returns_from_the_handler_exits(run):
    async def handle() -> str:
        pid = os.fork()
        if pid == 0:
            return "returned by the child"
        _, status = await asyncio.to_thread(os.waitpid, pid, 0)
        return f"the child ended with {os.waitstatus_to_exitcode(status)}"

    assert await run(handle).wait_outcome() == Completed("the child ended with 1")


async def test_a_handler_can_send_progress_and_log_from_another_event_loop(run):
    async def handle(job: JobContext) -> None:
        def work() -> None:
            asyncio.run(job.progress(40))
            job.log("a line")

        await asyncio.to_thread(work)
        await asyncio.sleep(0)

    recorded = run(handle)
    assert await recorded.wait_outcome() == Completed()
    await recorded.attempt.log.flush()
    assert recorded.progress == [40]
    assert [line["message"] for line in recorded.lines] == ["a line"]

"""The ways in which handlers misbehave, by name. app.py runs them; bad_jobs.py uses the names."""

import asyncio
import itertools
import os
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime
from decimal import Decimal
from typing import Any, NoReturn

from pydantic import BaseModel, model_serializer

from picture_queue import JobContext, Retry, Snooze

REASON = "the real reason"


class CustomBaseException(BaseException):
    """An exception that does not derive from `Exception`."""


def make_raiser(error: Callable[[], BaseException]) -> Callable[[], NoReturn]:
    def run() -> NoReturn:
        raise error()

    return run


def make_raiser_with_failing_property(name: str) -> Callable[[], NoReturn]:
    """Return a function that raises an exception with a property that raises."""

    def fail(self: object) -> NoReturn:
        raise KeyError("Retry-After")

    exception_class = type("Throttled", (Exception,), {name: property(fail)})
    return make_raiser(lambda: exception_class(REASON))


class UnreadableText(Exception):
    """An exception whose text cannot be read."""

    def __str__(self) -> str:
        raise RuntimeError(REASON)


class EpochRetryAfter(Exception):
    """An exception whose `retry_after` is a time since the epoch instead of seconds."""

    retry_after = 1_771_404_540


def recurse() -> NoReturn:
    recurse()


# Functions that raise. Async handlers and handlers in threads call them.
RAISES: dict[str, Callable[[], NoReturn]] = {
    "raises BaseException": make_raiser(lambda: CustomBaseException(REASON)),
    "raises a group of BaseException": make_raiser(
        lambda: BaseExceptionGroup("both", [CustomBaseException(REASON), ValueError("no")])
    ),
    "raises KeyboardInterrupt": make_raiser(lambda: KeyboardInterrupt(REASON)),
    "raises GeneratorExit": make_raiser(lambda: GeneratorExit(REASON)),
    "raises StopIteration": make_raiser(lambda: StopIteration(REASON)),
    "raises StopAsyncIteration": make_raiser(lambda: StopAsyncIteration(REASON)),
    "raises CancelledError": make_raiser(lambda: asyncio.CancelledError(REASON)),
    "calls sys.exit": lambda: sys.exit(REASON),
    "recurses without end": recurse,
    "raises 10 MB of text": make_raiser(lambda: ValueError(REASON + "x" * 10_000_000)),
    "raises a lone surrogate": make_raiser(lambda: ValueError(REASON + "\ud83d\x00")),
    "property retry_after raises": make_raiser_with_failing_property("retry_after"),
    "property retryable raises": make_raiser_with_failing_property("retryable"),
    "property counts raises": make_raiser_with_failing_property("counts"),
    "property public raises": make_raiser_with_failing_property("public"),
    "property __notes__ raises": make_raiser_with_failing_property("__notes__"),
    "__str__ raises": make_raiser(UnreadableText),
    "retry with an exception as its reason": make_raiser(
        lambda: Retry(reason=ValueError(REASON))  # type: ignore[arg-type]
    ),
}

# Delays that are out of range: the job waits, or fails with the reason.
WAITS: dict[str, Callable[[], object]] = {
    "snooze until the last moment": lambda: Snooze(until=datetime.max),
    "snooze until the first moment": lambda: Snooze(until=datetime.min),
    "snooze of a year and more": lambda: Snooze(seconds=40_000_000),
    "delay that is a time since the epoch": make_raiser(lambda: EpochRetryAfter(REASON)),
}


def nested_list(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def circular_list() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


async def generate() -> AsyncIterator[int]:
    yield 1


class BrokenModel(BaseModel):
    """A value whose serialiser raises."""

    @model_serializer
    def serialise(self) -> dict[str, Any]:
        raise RuntimeError(REASON)


# Results that the database cannot store or that a client cannot read.
RESULTS: dict[str, Callable[[], object]] = {
    "result that is not JSON": object,
    "result whose serialiser raises": BrokenModel,
    "result with keys that are not text": lambda: {object(): 1},
    "result of 2 MB": lambda: "x" * 2_000_000,
    "result of 9 MB": lambda: "x" * 9_000_000,
    "result of 100 MB": lambda: "x" * 100_000_000,
    "result NaN": lambda: float("nan"),
    "result with infinity": lambda: {"a": [float("-inf")]},
    "result with a lone surrogate": lambda: "\ud83d",
    "result with U+0000": lambda: "a\x00b",
    "result that is not UTF-8": lambda: b"\xff\xfe",
    "circular result": circular_list,
    "result nested 3,000 times": lambda: nested_list(3000),
    "result with a number of 5,000 digits": lambda: 10**5000,
    "result with a decimal beyond floats": lambda: Decimal("1e5000"),
    "result that is a generator": lambda: (n for n in range(3)),
    "result that is an endless iterator": itertools.count,
    "result that is a coroutine": lambda: asyncio.sleep(0),
    "result that is an async generator": lambda: generate(),
}


async def cancel_tasks_of_other_jobs() -> str:
    """Cancel the tasks of all other jobs."""
    for task in asyncio.all_tasks():
        if task is not asyncio.current_task() and "ordinary" in task.get_name():
            task.cancel()
    return "done"


async def wait_for_tasks_of_other_jobs() -> None:
    """Wait for the tasks of all other jobs; cancelling this task also cancels those tasks."""
    tasks = [task for task in asyncio.all_tasks() if "ordinary" in task.get_name()]
    await asyncio.gather(*tasks, asyncio.Event().wait())


async def leave_callback_that_raises() -> str:
    """Leave callbacks and a finalizer that raise."""

    class Finalized:
        def __del__(self) -> None:
            raise CustomBaseException(REASON)

    loop = asyncio.get_running_loop()
    loop.call_soon(make_raiser(lambda: ValueError(REASON)))
    task = asyncio.current_task()
    assert task is not None
    task.add_done_callback(lambda task: make_raiser(lambda: ValueError(REASON))())
    Finalized()
    return "done"


async def fork() -> int:
    """Fork and return in both processes."""
    return os.fork()


# Handlers that disturb other jobs.
DISTURB_OTHERS: dict[str, Callable[[], Awaitable[object]]] = {
    "cancels tasks of other jobs": cancel_tasks_of_other_jobs,
    "waits for tasks of other jobs": wait_for_tasks_of_other_jobs,
    "leaves callbacks that raise": leave_callback_that_raises,
    "returns in two processes after a fork": fork,
}


async def ignore_cancellation() -> NoReturn:
    """Ignore cancellations."""
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            continue


async def leave_task() -> None:
    task = asyncio.create_task(ignore_cancellation())
    _LEFT_TASKS.append(task)
    await asyncio.sleep(0.01)


_LEFT_TASKS: list["asyncio.Task[Any]"] = []


async def block_loop() -> str:
    time.sleep(BLOCK_SECONDS)  # noqa: ASYNC251 - this is the misbehaviour
    return "done"


BLOCK_SECONDS = 8.0  # Longer than two leases of 3 seconds.


async def block_in_executor() -> None:
    await asyncio.to_thread(threading.Event().wait)


# Handlers that do not end, or that keep other handlers from running.
STUCK: dict[str, Callable[[], Awaitable[object]]] = {
    "ignores cancellation": ignore_cancellation,
    "leaves a task that ignores cancellation": leave_task,
    "waits in a thread of asyncio forever": block_in_executor,
    "blocks the event loop": block_loop,
}
NEVER_ENDS = "never ends in its thread"
HARMLESS = "returns at once"


async def misbehave(name: str, job: JobContext) -> object:
    """Run the async bad handler of this name."""
    if name in STUCK or name in DISTURB_OTHERS:
        return await {**STUCK, **DISTURB_OTHERS}[name]()
    return misbehave_in_thread(name)


def misbehave_in_thread(name: str) -> object:
    """Run the bad handler of this name, which the worker calls in a thread."""
    if name == NEVER_ENDS:
        threading.Event().wait()
    if name == HARMLESS:
        return "done"
    return {**RAISES, **WAITS, **RESULTS}[name]()

"""Isolations of the worker, and a mutation that removes each. The worker of the suite imports them.

Each mutation replaces functions of the worker. A mutation fails if its function no longer exists.
Then this list must be changed with the worker.
"""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

from picture_queue._runtime import loop_monitor, tasks
from picture_queue._transport import errors, unreadable
from picture_queue.worker import executor, heartbeat, reporter, supervisor
from picture_queue.worker import verdicts as verdicts_module
from picture_queue.worker import worker as worker_module


def replace(owner: object, name: str, new: Callable[..., Any]) -> Callable[..., Any]:
    """Replace a function and return the old one. `new` makes the replacement from it."""
    old: Callable[..., Any] = getattr(owner, name)
    setattr(owner, name, new)
    return old


def catch_no_base_exception() -> None:
    """Let a BaseException of a handler leave its attempt."""

    def outcome_of_error(self: Any, error: BaseException) -> Any:
        if not isinstance(error, Exception):
            raise error
        return old(self, error)

    old = replace(executor.Attempt, "_outcome_of_error", outcome_of_error)


def read_properties_unguarded() -> None:
    """Read the attributes of exceptions without a guard."""
    replace(verdicts_module, "_attribute", lambda error, name: getattr(error, name, None))
    replace(verdicts_module, "from_error", verdicts_module._outcome_of)


def leave_waits_unbounded() -> None:
    """Send delays exactly as the handler set them."""
    replace(verdicts_module, "wait_seconds", lambda value: value)
    replace(verdicts_module, "wait_until", lambda at: at.isoformat())


def let_handlers_cancel_others() -> None:
    """Let a handler cancel the tasks of other jobs."""
    replace(tasks.HandlerTask, "cancel", asyncio.Task.cancel)


def store_any_json() -> None:
    """Send results that no client can read, and do not fail a job whose outcome is refused."""
    replace(verdicts_module, "plain_result", lambda value: (value, 0))
    replace(reporter.Reporter, "_fail_job", lambda self, report, error: None)


def read_all_or_nothing() -> None:
    """Parse an answer completely or not at all."""

    def members(text: str) -> Any:
        raise ValueError("The answer cannot be read")

    replace(unreadable, "_split_members", members)


def beat_in_the_event_loop() -> None:
    """Let heartbeats wait for the event loop of the handlers."""

    def beat(self: Any, *args: Any) -> Any:
        ran = threading.Event()
        self._notify(ran.set)
        ran.wait()
        return old(self, *args)

    old = replace(heartbeat.HeartbeatLoop, "_beat", beat)


def name_no_blocker() -> None:
    """Do not watch the event loop."""
    replace(loop_monitor.LoopMonitor, "check", lambda self, limit: None)


def wait_for_stuck_handlers() -> None:
    """Give a handler that does not stop an hour of grace."""
    for module in (executor, supervisor):
        assert module.CLEANUP_TIMEOUT
        module.CLEANUP_TIMEOUT = 3600.0  # type: ignore[misc]


def wait_for_stuck_tasks() -> None:
    """Let the end of the event loop wait for tasks that ignore their cancellation."""
    replace(tasks, "abandon", lambda task: None)


def wait_for_stuck_threads() -> None:
    """Let the end of the event loop wait for threads."""
    replace(worker_module, "use_daemon_threads", lambda concurrency: None)


def ignore_retry_after() -> None:
    """Ignore the Retry-After header."""
    replace(errors, "parse_retry_after", lambda text: None)


MUTATIONS: dict[str, Callable[[], None]] = {
    mutation.__name__: mutation
    for mutation in (
        catch_no_base_exception,
        read_properties_unguarded,
        leave_waits_unbounded,
        let_handlers_cancel_others,
        store_any_json,
        read_all_or_nothing,
        beat_in_the_event_loop,
        name_no_blocker,
        wait_for_stuck_handlers,
        wait_for_stuck_tasks,
        wait_for_stuck_threads,
        ignore_retry_after,
    )
}


def apply(name: str) -> None:
    """Remove the isolation of this name, and print it."""
    MUTATIONS[name]()
    print("took out:", name, flush=True)

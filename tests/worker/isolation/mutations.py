"""Mutations of the worker: each removes one mechanism that isolates jobs from each other.

The worker process imports this module. A mutation replaces functions of the worker, and fails if a
function no longer exists. In that case, adapt the mutation to the changed worker.
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
    """Replace a function of `owner` with `new`, and return the old function."""
    old: Callable[..., Any] = getattr(owner, name)
    setattr(owner, name, new)
    return old


def catch_no_base_exception() -> None:
    """Catch only exceptions of handlers that derive from `Exception`."""

    def outcome_of_error(self: Any, error: BaseException) -> Any:
        if not isinstance(error, Exception):
            raise error
        return old(self, error)

    old = replace(executor.Attempt, "_outcome_of_error", outcome_of_error)


def read_properties_unguarded() -> None:
    """Read the attributes of exceptions without catching their errors."""
    replace(verdicts_module, "_read_attribute", lambda error, name: getattr(error, name, None))
    replace(verdicts_module, "from_error", verdicts_module._outcome_of)


def send_delays_without_limits() -> None:
    """Send delays exactly as the handler set them."""
    replace(verdicts_module, "wait_seconds", lambda value: value)
    replace(verdicts_module, "wait_until", lambda at: at.isoformat())


def let_handlers_cancel_others() -> None:
    """Let a handler cancel the tasks of other jobs."""
    replace(tasks.HandlerTask, "cancel", asyncio.Task.cancel)


def store_any_json() -> None:
    """Send results that no client can read, and do not fail jobs whose outcome is refused."""
    replace(verdicts_module, "plain_result", lambda value: (value, 0))
    replace(reporter.Reporter, "_fail_job", lambda self, report, error: None)


def read_all_or_nothing() -> None:
    """Refuse a whole answer if one field cannot be parsed."""

    def members(text: str) -> Any:
        raise ValueError("The answer cannot be read")

    replace(unreadable, "_split_members", members)


def send_heartbeats_in_the_event_loop() -> None:
    """Let heartbeats wait for the event loop of the handlers."""

    def beat(self: Any, *args: Any) -> Any:
        loop_ran = threading.Event()
        self._notify(loop_ran.set)
        loop_ran.wait()
        return old(self, *args)

    old = replace(heartbeat.HeartbeatLoop, "_beat", beat)


def do_not_watch_the_event_loop() -> None:
    """Do not detect that a handler blocks the event loop."""
    replace(loop_monitor.LoopMonitor, "check", lambda self, limit: None)


def wait_for_stuck_handlers() -> None:
    """Wait an hour for a handler that does not stop."""
    for module in (executor, supervisor):
        assert module.CLEANUP_TIMEOUT
        module.CLEANUP_TIMEOUT = 3600.0  # type: ignore[misc]


def wait_for_stuck_tasks() -> None:
    """At the end of the event loop, wait for tasks that ignore their cancellation."""
    replace(tasks, "abandon", lambda task: None)


def wait_for_stuck_threads() -> None:
    """At the end of the event loop, wait for threads."""
    replace(worker_module, "use_daemon_threads", lambda concurrency: None)


def ignore_retry_after() -> None:
    """Ignore the Retry-After header."""
    replace(errors, "parse_retry_after", lambda text: None)


MUTATIONS: dict[str, Callable[[], None]] = {
    mutation.__name__: mutation
    for mutation in (
        catch_no_base_exception,
        read_properties_unguarded,
        send_delays_without_limits,
        let_handlers_cancel_others,
        store_any_json,
        read_all_or_nothing,
        send_heartbeats_in_the_event_loop,
        do_not_watch_the_event_loop,
        wait_for_stuck_handlers,
        wait_for_stuck_tasks,
        wait_for_stuck_threads,
        ignore_retry_after,
    )
}


def apply(name: str) -> None:
    """Apply the mutation of this name, and print the name."""
    MUTATIONS[name]()
    print("applied mutation:", name, flush=True)

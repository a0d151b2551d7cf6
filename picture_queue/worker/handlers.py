"""The methods of a worker that register handlers and hooks."""

from collections.abc import Callable
from typing import Any, TypeVar

from picture_queue.errors import InvalidArgument
from picture_queue.options import Backoff
from picture_queue.worker._callbacks import Callback
from picture_queue.worker.executor_choice import ExecutorChoice
from picture_queue.worker.hooks import HookMethods
from picture_queue.worker.registry import Registry, policy_of

F = TypeVar("F", bound=Callable[..., Any])


class HandlerMethods(HookMethods):
    """The methods of a worker that register handlers and hooks."""

    def __init__(self) -> None:
        super().__init__()
        self._registry = Registry()
        self._after_stop: list[Callback] = []

    @property
    def _is_running(self) -> bool:
        raise NotImplementedError

    @property
    def job_types(self) -> tuple[str, ...]:
        """The job types that have a handler."""
        return self._registry.job_types

    def handler(
        self,
        job_type: str,
        *,
        queue: str | None = None,
        timeout: float | None = None,
        max_attempts: int | None = None,
        lease: float | None = None,
        backoff: Backoff | float | None = None,
        backoff_cap: float | None = None,
        executor: ExecutorChoice | None = None,
    ) -> Callable[[F], F]:
        """Register the decorated function as the handler of a job type.

        The first argument of the function is the payload. If it is annotated with a pydantic model,
        a dataclass or a TypedDict, the payload is validated first, and an invalid payload fails the
        job. The second argument, if the function has one, is the `JobContext`. A plain ``def`` runs
        in a thread and gets a `SyncJobContext`. The result must be JSON. An exception fails the
        attempt, and `PermanentFailure` fails the job. To choose another outcome, return or raise a
        `Snooze`, `Retry`, `RateLimited`, `Park` or `Cancel`.

        Args:
            job_type: The job type: letters, digits and ``_ . : -``.
            queue: The queue of such jobs, unless the call that enqueues a job names another one.
            timeout: Seconds that one attempt may take.
            max_attempts: Attempts before the job fails.
            lease: Length of a lease in seconds; heartbeats extend it.
            backoff: A `Backoff`, or the delay before the second attempt in seconds.
            backoff_cap: The longest delay in seconds, if ``backoff`` is a number; a `Backoff` has
                the field ``cap``.
            executor: The place of a plain ``def``: ``"thread"`` (the default), ``"process"`` for a
                process that can be ended at any time, or a function without arguments that returns
                a `concurrent.futures.Executor`, such as that of loky or Dask. See
                ``docs/howto/executors.md``.

        Raises:
            InvalidArgument: A name or a number is invalid, the function cannot be called with
                payload and context, the type has a handler already, or the worker is running.
        """
        if not isinstance(job_type, str):
            raise InvalidArgument(
                f"The job type of a handler is {job_type!r}, not text",
                hint='Use @worker.handler("<job type>")',
            )
        if self._is_running:
            hint = "Register handlers before the worker starts"
            raise InvalidArgument(f"The handler of {job_type!r} was registered too late", hint=hint)
        policy = policy_of(queue, max_attempts, timeout, lease, backoff, backoff_cap)

        def register(function: F) -> F:
            self._registry.add(job_type, function, policy, executor)
            return function

        return register

    def after_stop(self, callback: Callback) -> None:
        """Call a function at the end of each stop, to close what the handlers use.

        Args:
            callback: A plain or async function without arguments. It gets 10 seconds, and its
                exceptions are logged.
        """
        self._after_stop.append(callback)

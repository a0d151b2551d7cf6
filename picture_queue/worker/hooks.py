"""Functions of the user that a worker calls about its jobs, and what handlers share.

No hook decides about a job that is not its own. A notification (`on_start`, `on_end`, `on_failure`)
runs in the background, with a timeout, and its exceptions are logged. A wrapper (`around`) runs
inside the attempt, so an exception fails only this attempt.
"""

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from picture_queue._log import Lines, Log
from picture_queue._runtime.threads import run_in_thread
from picture_queue._text import describe_error, traceback_of
from picture_queue.errors import InvalidArgument
from picture_queue.records import ClaimedJob
from picture_queue.worker._callbacks import call_with_timeout
from picture_queue.worker.outcomes import Failed

if TYPE_CHECKING:
    from picture_queue.worker.reporter import Report

_log = Log(__name__)

#: Seconds that a notification gets.
NOTIFICATION_TIMEOUT = 10.0
#: Maximum number of notifications of one hook at the same time; more are dropped.
MAX_NOTIFICATIONS = 100


@dataclass(frozen=True, slots=True)
class AttemptEnd:
    """The end of an attempt, after the database has recorded its outcome.

    Attributes:
        job: The job as it was claimed.
        outcome: ``completed``, ``failed``, ``snoozed``, ``parked``, ``released`` or ``cancelled``.
        status: The state of the job afterwards: a failed attempt leaves it ``pending`` if it is
            tried again, and ``failed`` if not.
        error: The error of a failed attempt in one line; otherwise None.
        exception: The exception of the handler; None if there was none, or if the handler ran in
            another process.
        seconds: Duration of the attempt.
    """

    job: ClaimedJob
    outcome: str
    status: str | None
    error: str | None
    exception: BaseException | None = field(repr=False)
    seconds: float


Notification = Callable[[Any], Any]
Wrapper = Callable[[Any], AbstractAsyncContextManager[Any]]
Lifespan = Callable[[], AbstractAsyncContextManager[Any]]

N = TypeVar("N", bound=Notification)
W = TypeVar("W", bound=Wrapper)


class Hooks:
    """The hooks of a worker, by event."""

    def __init__(self) -> None:
        self.start: list[Notification] = []
        self.end: list[Notification] = []
        self.failure: list[Notification] = []
        self.wrappers: list[Wrapper] = []
        self._running: dict[Notification, int] = {}  # notifications by hook
        self._tasks: set[asyncio.Task[None]] = set()

    def on_start(self, job: ClaimedJob) -> None:
        """Notify the hooks that an attempt starts."""
        self._notify(self.start, job)

    @property
    def needs_exceptions(self) -> bool:
        """True if a hook gets the exceptions of handlers."""
        return bool(self.end or self.failure)

    def on_end(self, report: "Report", status: str | None) -> None:
        """Notify the hooks that the database has recorded the end of an attempt."""
        if not self.needs_exceptions:
            return
        outcome = report.outcome
        end = AttemptEnd(
            report.job,
            outcome.name,
            status,
            outcome.error if isinstance(outcome, Failed) else None,
            report.exception,
            report.duration or 0.0,
        )
        self._notify(self.end, end)
        if isinstance(outcome, Failed) or status == "failed":
            self._notify(self.failure, end)

    def _notify(self, hooks: list[Notification], value: Any) -> None:
        for hook in hooks:
            running = self._running.get(hook, 0)
            if running >= MAX_NOTIFICATIONS:
                _log.warning(
                    "%d calls of the hook %s have not ended: a call is left out",
                    *(running, _name_of(hook)),
                )
                continue
            self._running[hook] = running + 1
            task = asyncio.create_task(self._call(hook, value))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _call(self, hook: Notification, value: Any) -> None:
        description = f"The hook {_name_of(hook)}"
        try:
            if inspect.iscoroutinefunction(hook):
                await call_with_timeout(NOTIFICATION_TIMEOUT, description, lambda: hook(value))
            else:
                await self._call_in_thread(hook, value, description)
        finally:
            self._running[hook] -= 1

    async def _call_in_thread(self, hook: Notification, value: Any, description: str) -> None:
        def call() -> None:
            try:
                hook(value)
            except BaseException as error:
                trace = Lines(traceback_of(error) or "")
                _log.error("%s failed: %s%s", description, describe_error(error), trace)

        thread = run_in_thread(description, call)
        _, running = await asyncio.wait({thread}, timeout=NOTIFICATION_TIMEOUT)
        if running:
            _log.error("%s has not ended in %g s", description, NOTIFICATION_TIMEOUT)
            await asyncio.wait({thread})  # it counts until its thread ends

    async def wait(self, seconds: float) -> None:
        """Wait for the notifications that run; those that take longer are left running."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=seconds)

    @asynccontextmanager
    async def wrap(self, job: Any) -> AsyncIterator[None]:
        """Enter the wrappers of an attempt, the first one outermost."""
        async with AsyncExitStack() as stack:
            for wrapper in self.wrappers:
                await stack.enter_async_context(wrapper(job))
            yield


class HookMethods:
    """The decorators of a worker that register hooks."""

    def __init__(self) -> None:
        self._hooks = Hooks()

    def on_start(self, hook: N) -> N:
        """Call a function with each job that starts, in the background.

        The functions of `on_start`, `on_end` and `on_failure` may be plain or async. A call gets 10
        seconds, and its exceptions are logged. It neither delays nor fails any job.
        """
        self._hooks.start.append(hook)
        return hook

    def on_end(self, hook: N) -> N:
        """Call a function with the `AttemptEnd` of each attempt; see `on_start`."""
        self._hooks.end.append(hook)
        return hook

    def on_failure(self, hook: N) -> N:
        """Call a function with the `AttemptEnd` of each attempt that failed; see `on_start`.

        Example:
            >>> @worker.on_failure
            ... async def report(end: AttemptEnd) -> None:
            ...     sentry_sdk.capture_exception(end.exception)
        """
        self._hooks.failure.append(hook)
        return hook

    def around(self, wrapper: W) -> W:
        """Run each attempt inside an async context manager.

        Args:
            wrapper: A function that takes the context of the job and returns the context manager.
                Its time counts towards the timeout of the job. If it raises, the attempt fails.

        Example:
            >>> @worker.around
            ... @asynccontextmanager
            ... async def trace(job):
            ...     with tracer.start_as_current_span(job.job_type):
            ...         yield
        """
        self._hooks.wrappers.append(wrapper)
        return wrapper


def _name_of(hook: Any) -> str:
    return str(getattr(hook, "__qualname__", hook))


class Shared:
    """Objects that the handlers of a worker share: the value that its lifespan yields.

    One task enters and leaves the lifespan, since code such as `anyio.create_task_group` has to be
    left in the task that entered it.

    Attributes:
        value: The value; None if there is no lifespan, or the worker is not running.
    """

    def __init__(self) -> None:
        self.value: Any = None
        self._task: asyncio.Task[None] | None = None
        self._may_end = asyncio.Event()

    async def open(self, lifespan: Lifespan | None) -> None:
        """Enter the lifespan.

        Raises:
            Exception: The lifespan has failed.
        """
        if lifespan is None:
            return
        entered: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._may_end = asyncio.Event()

        async def run() -> None:
            async with lifespan() as value:
                entered.set_result(value)
                await self._may_end.wait()

        self._task = asyncio.create_task(run(), name="lifespan")
        await asyncio.wait({self._task, entered}, return_when=asyncio.FIRST_COMPLETED)
        if not entered.done():
            entered.cancel()
            task, self._task = self._task, None
            await task  # raises the exception of the lifespan
            raise InvalidArgument("The lifespan has ended without a yield")
        self.value = entered.result()

    async def aclose(self) -> None:
        """Leave the lifespan; the caller limits the time."""
        self._may_end.set()
        task, self._task = self._task, None
        if task is not None:
            await task
        self.value = None

    def find(self, kind: Any) -> Any:
        """Return the shared object of a type: the value, or a value of the mapping.

        Raises:
            InvalidArgument: There is no such object, or more than one.
        """
        values = list(self.value.values()) if isinstance(self.value, Mapping) else [self.value]
        found = [value for value in values if isinstance(value, kind)]
        if len(found) != 1:
            name = getattr(kind, "__name__", kind)
            raise InvalidArgument(
                f"The lifespan of the worker yields {len(found)} objects of the type {name}",
                hint="Yield one, or a mapping with one, or read job.state",
            )
        return found[0]

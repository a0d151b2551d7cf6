"""The worker, as its user meets it."""

import asyncio
import contextlib
import logging
import signal
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, Self, TypeVar

from picture_queue._async.client import AsyncPictureQueue
from picture_queue.arguments import Backoff
from picture_queue.errors import InvalidArgument, WorkerStuck
from picture_queue.settings import WorkerSettings
from picture_queue.worker._signals import Signals
from picture_queue.worker.registry import Policy, Registry, as_backoff
from picture_queue.worker.supervisor import Supervisor

_log = logging.getLogger(__name__)

F = TypeVar("F", bound=Callable[..., Any])


class Worker:
    """Claims jobs and runs their handlers.

    Args:
        client: The project, with a service key; it stays the caller's to close. Without it one is
            made from the environment when the worker starts.
        settings: How to work.
        queues: Queues to claim from, instead of those of the settings: names, or names with their
            weights.

    Attributes:
        settings: How to work; read when it starts.

    Example:
        >>> worker = Worker()
        >>> @worker.handler("resize", timeout=60, max_attempts=5)
        ... async def resize(payload: Resize, job: JobContext) -> dict[str, str]:
        ...     await job.progress(40, "downloading")
        ...     return {"path": "small.png"}
        >>> asyncio.run(worker.run())
    """

    def __init__(
        self,
        client: AsyncPictureQueue | None = None,
        settings: WorkerSettings | None = None,
        *,
        queues: Sequence[str] | Mapping[str, float] | None = None,
    ) -> None:
        self.settings = settings or WorkerSettings()
        if queues is not None:
            self.settings = replace(self.settings, queues=queues)
        self._client = client
        self._own_client: AsyncPictureQueue | None = None
        self._registry = Registry()
        self._signals = Signals()
        self._after_stop: list[Callable[[], Awaitable[None]]] = []
        self._supervisor: Supervisor | None = None
        self._stopping: asyncio.Task[None] | None = None
        self._stop_asked = asyncio.Event()
        self._recycle = False

    @property
    def job_types(self) -> tuple[str, ...]:
        """The job types that have a handler."""
        return self._registry.job_types

    @property
    def name(self) -> str | None:
        """The worker's name in the database while it runs, else None."""
        return self._supervisor.name if self._supervisor else None

    @property
    def is_ready(self) -> bool:
        """Whether it runs and its project answers; false while the project refuses its key."""
        return self._supervisor is not None and self._supervisor.is_ready

    @property
    def recycle(self) -> bool:
        """Whether it stops, or stopped, since only a new process can free what handlers hold.

        A thread cannot be ended from outside. A handler that goes on ``stuck_after`` seconds after
        its timeout, its cancel or the loss of its lease counts as stuck; when half of the slots are
        held that way, the worker lets the other jobs finish and stops.
        """
        return self._recycle

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
    ) -> Callable[[F], F]:
        """Registers the function below it as the handler of a job type.

        Its first argument is the payload. Annotated with a pydantic model, a dataclass or a
        TypedDict, the payload is validated before the function runs; one that does not fit fails
        its job. Its second argument, if there is one, is the `JobContext`. A plain ``def`` runs in
        a thread and gets a `SyncJobContext`. What it returns must be JSON; an exception fails the
        attempt, `PermanentFailure` the job. A `Snooze`, `Retry`, `RateLimited`, `Park` or `Cancel`,
        returned or raised, does what it says.

        Args:
            job_type: Letters, digits and ``_ . : -``.
            queue: Where such jobs are enqueued unless the enqueuer says otherwise.
            timeout: Longest run of one attempt, seconds.
            max_attempts: Attempts before the job fails.
            lease: Length of a lease, seconds; heartbeats prolong it.
            backoff: The pauses between attempts, as a `Backoff`, or the first one in seconds.
            backoff_cap: The longest one, seconds, where ``backoff`` is no `Backoff`.

        Raises:
            InvalidArgument: A name or a number is out of range, the function cannot be called with
                payload and context, the type has a handler already, or the worker runs.
        """
        if self._supervisor is not None:
            raise InvalidArgument(
                f"{job_type!r} comes too late", hint="Register handlers before the worker starts"
            )
        pauses = as_backoff(backoff, backoff_cap)
        policy = Policy(queue, max_attempts, timeout, lease, pauses)

        def register(function: F) -> F:
            self._registry.add(job_type, function, policy)
            return function

        return register

    def after_stop(self, callback: Callable[[], Awaitable[None]]) -> None:
        """Has something called at the end of each stop, to close what the handlers use."""
        self._after_stop.append(callback)

    async def run(self) -> None:
        """Works until SIGTERM or SIGINT, or until `stop` is called from another task.

        The first signal lets running jobs finish for ``shutdown_grace`` seconds, a second one
        releases them at once.

        Raises:
            WorkerStuck: It ended by itself: see `recycle`. End the process, or start it anew.
            PictureQueueError: The project does not answer, refuses the key, or does not fit.
        """
        with self._handling_signals():
            try:
                await self._start_unless_stopped()
                await self._stop_asked.wait()
            finally:
                await self.stop()
        if self._recycle:
            raise WorkerStuck(
                "Handlers that do not end hold half of the worker's slots",
                hint="Start a new process, and give what they wait for a timeout of its own",
            )

    async def _start_unless_stopped(self) -> None:
        """Starts; a signal that comes before the project's answer ends the wait for it."""
        starting = asyncio.ensure_future(self.start())
        stopping = asyncio.ensure_future(self._stop_asked.wait())
        try:
            await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                starting.result()
        finally:
            for task in (starting, stopping):
                task.cancel()
            await asyncio.wait({starting, stopping})

    async def start(self) -> None:
        """Registers the worker and begins to claim; returns then.

        Raises:
            PictureQueueError: The project does not answer, refuses the key, or does not fit.
        """
        if self._supervisor is not None:
            return
        self._stop_asked.clear()
        self._stopping = None
        self._recycle = False
        client = self._client
        if client is None:
            client = self._own_client = AsyncPictureQueue.from_env()
        self._supervisor = Supervisor(
            client._project,
            client._watcher.wake_ups,
            self._registry,
            self.settings,
            self._stop_to_recycle,
            self._signals,
        )
        try:
            await self._supervisor.start()
        except BaseException:
            self._supervisor = None
            await self._close()
            raise

    async def stop(self) -> None:
        """Lets running jobs finish for ``shutdown_grace`` seconds, releases the rest, and ends."""
        self._begin_to_stop()
        if self._stopping is not None:
            await asyncio.shield(self._stopping)

    def _stop_to_recycle(self) -> None:
        _log.error("Stuck handlers hold half of the slots: the worker finishes the rest and ends")
        self._recycle = True
        self._begin_to_stop()

    def _begin_to_stop(self) -> None:
        self._stop_asked.set()
        if self._stopping is None and self._supervisor is not None:
            self._stopping = asyncio.create_task(self._stop(self._supervisor))

    async def _stop(self, supervisor: Supervisor) -> None:
        try:
            await supervisor.stop()
        finally:
            self._supervisor = None
            await self._close()

    async def _close(self) -> None:
        for callback in self._after_stop:
            try:
                await callback()
            except Exception:
                _log.exception("A callback after the stop failed")
        if self._own_client is not None:
            await self._own_client.aclose()
            self._own_client = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()

    def _signalled(self) -> None:
        if self._recycle:
            _log.info("Stopping for good")
            self._recycle = False
        elif self._stop_asked.is_set():
            _log.warning("Stopping now: running jobs are released")
            if self._supervisor is not None:
                self._supervisor.stop_now()
        else:
            _log.info("Stopping: running jobs get %g s", self.settings.shutdown_grace)
            self._stop_asked.set()

    @contextlib.contextmanager
    def _handling_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        taken = []
        for number in (signal.SIGTERM, signal.SIGINT):
            # Not from another thread than the main one, and not on Windows: stop() works there.
            with contextlib.suppress(NotImplementedError, ValueError, RuntimeError):
                loop.add_signal_handler(number, self._signalled)
                taken.append(number)
        try:
            yield
        finally:
            for number in taken:
                loop.remove_signal_handler(number)

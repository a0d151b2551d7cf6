"""The public interface of a worker."""

import asyncio
import gc
import inspect
import math
import sys
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, Self

from picture_queue._async.client import AsyncPictureQueue
from picture_queue._log import Log
from picture_queue._realtime.follow import Watcher
from picture_queue._runtime.stop_signals import on_stop_signal
from picture_queue._runtime.tasks import guard_tasks
from picture_queue._runtime.threads import use_daemon_threads
from picture_queue.errors import ConnectionFailed, InvalidArgument, PictureQueueError, WorkerStuck
from picture_queue.settings import WorkerSettings
from picture_queue.worker._callbacks import Callback, call_with_timeout
from picture_queue.worker.drain import DrainResult
from picture_queue.worker.handlers import HandlerMethods
from picture_queue.worker.hooks import Lifespan, Shared
from picture_queue.worker.supervisor import Supervisor

_log = Log(__name__)

#: Seconds that a stop waits for a registration in progress.
_REGISTRATION_TIMEOUT = 3.0
#: Timeout in seconds of each callback after a stop, and of closing the connections.
_CLOSE_TIMEOUT = 10.0


class Worker(HandlerMethods):
    """A worker, which claims jobs and runs their handlers.

    Args:
        client: A client with a service key; the worker does not close it. None: the worker creates
            a client from the environment when it starts, and closes it when it stops.
        settings: The settings of the worker; None: the defaults.
        queues: Queues to claim from, instead of the ``queues`` of the settings: a list of names, or
            weights by name.
        lifespan: A function that returns an async context manager, which the worker enters before
            it claims and leaves after its last job. Handlers get the value of the context manager
            as ``job.state``; the value, or a value of it if it is a mapping, is also passed to
            arguments such as ``*, http: httpx.AsyncClient``, by their type.

    Attributes:
        settings: The settings; the worker reads them when it starts.

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
        lifespan: Lifespan | None = None,
    ) -> None:
        super().__init__()
        self._lifespan = lifespan
        self._shared = Shared()
        self.settings = settings or WorkerSettings()
        if queues is not None:
            self.settings = replace(self.settings, queues=queues)
        self._client = client
        self._emit: Callable[..., None] = lambda *event: None  # tests replace it
        # Functions that raise if the client cannot do what a handler needs; called by `start`.
        self._client_checks: list[Callable[[AsyncPictureQueue], None]] = []
        self._running_client: AsyncPictureQueue | None = None
        # Functions that close the connections of this run, by description for the log; the function
        # that was added last is called first.
        self._closers: dict[str, Callback] = {}
        self._supervisor: Supervisor | None = None
        # The reason why the worker stops, if nobody requested the stop.
        self._failure: PictureQueueError | None = None
        self._was_run = False
        self._stop_asked = False
        # Objects of the event loop of this run; the next run may use another loop.
        self._loop: asyncio.AbstractEventLoop | None = None
        self._starting: asyncio.Task[None] | None = None
        self._stopping: asyncio.Task[None] | None = None
        self._wake_run = asyncio.Event()

    @property
    def _is_running(self) -> bool:
        return self._supervisor is not None

    @property
    def name(self) -> str | None:
        """The worker's name in the database while it runs, else None."""
        return self._supervisor.name if self._supervisor else None

    @property
    def is_ready(self) -> bool:
        """True while the worker runs and the project answers and accepts its key."""
        return self._supervisor is not None and self._supervisor.is_ready

    @property
    def recycle(self) -> bool:
        """True if the worker stops, or stopped, because stuck handlers hold half of its slots.

        Only a new process can free these slots, since a thread cannot be ended from outside. A
        handler is stuck if it still runs ``stuck_after`` seconds after its attempt was given up.
        An attempt is given up at its timeout, its cancellation or the loss of its lease; with an
        async handler, up to 25 seconds later. The worker lets other jobs finish before it stops.
        """
        return isinstance(self._failure, WorkerStuck)

    def run(self, *, handles_signals: bool = True) -> Coroutine[Any, Any, None]:
        """Work until SIGTERM or SIGINT, or until `stop` is called from another task.

        The first signal lets running jobs finish for ``shutdown_grace`` seconds, a second one
        releases them at once, a third one ends the process. All workers of a process stop together.
        The worker may be run again afterwards, in another event loop as well.

        Args:
            handles_signals: False in a web server, which handles the signals itself.

        Raises:
            WorkerStuck: Handlers are stuck; see `recycle`. End or restart the process.
            PictureQueueError: The project does not answer, refuses the key, or has an incompatible
                version; or other code cancelled a task of the worker.
            InvalidArgument: The worker runs in another event loop.
        """
        # A plain function, so that the request to stop is reset when `run` is called. A coroutine
        # function would reset it later, and undo a stop() that is called after run().
        if self._was_run:
            self._stop_asked = False  # the request was made to the previous run
        self._was_run = True
        return self._run(handles_signals)

    if sys.version_info >= (3, 12):
        inspect.markcoroutinefunction(run)  # for frameworks that call iscoroutinefunction()

    async def _run(self, handles_signals: bool) -> None:
        with on_stop_signal(self._on_stop_signal) if handles_signals else nullcontext():
            try:
                if not self._stop_asked:
                    await self.start()
                    # A full garbage collection blocks the event loop for 40 ms with the objects
                    # of all imported modules, which live as long as the process.
                    gc.freeze()
                    await self._wake_run.wait()
            finally:
                await self.stop()
                if self._failure is not None:
                    raise self._failure

    async def drain(
        self,
        *,
        max_jobs: int | None = None,
        time_limit: float | None = None,
        handles_signals: bool = False,
    ) -> DrainResult:
        """Run the jobs that are due, and return when no job is due any more.

        Jobs that become due meanwhile are run too, such as the next job of a chain. A job whose
        next attempt starts after a backoff is left pending. Jobs that were claimed and have not
        started at the end are released, which does not count as an attempt.

        Args:
            max_jobs: Number of jobs to run at most; None: ``max_jobs`` of the settings.
            time_limit: Seconds after which no job starts. Jobs that run at that time get
                ``shutdown_grace`` seconds to finish, and are then released. None: no limit.
            handles_signals: Whether SIGTERM and SIGINT end the drain, as they end `run`. Set it in
                a program of your own, not in a web server.

        Returns:
            The number of attempts that have succeeded and failed.

        Raises:
            InvalidArgument: The worker runs already, or an argument is invalid.
            ConnectionFailed: The project did not answer within the time limit.
            PictureQueueError: As `run` raises.
        """
        settings = self.settings if max_jobs is None else replace(self.settings, max_jobs=max_jobs)
        if time_limit is not None and not 0 < time_limit < math.inf:
            raise InvalidArgument(
                f"time_limit is {time_limit!r}", hint="Choose a number of seconds above 0"
            )
        self._discard_closed_loop()
        if self._supervisor is not None:
            raise InvalidArgument(
                "The worker is running already", hint="Wait for its end, or create another Worker"
            )
        self._was_run, self._stop_asked = True, False
        supervisor = None
        with on_stop_signal(self._on_stop_signal) if handles_signals else nullcontext():
            try:
                async with asyncio.timeout(time_limit):
                    supervisor = await self._start(settings, drains=True)
                    await self._wake_run.wait()
            except TimeoutError as error:
                if supervisor is None:
                    raise ConnectionFailed("The project did not answer in time") from error
            finally:
                await self.stop()
        if self._failure is not None:
            raise self._failure
        return supervisor.result if supervisor else DrainResult()

    async def start(self) -> None:
        """Register the worker, begin to claim, and return.

        Raises:
            PictureQueueError: The project does not answer, refuses the key, or has an incompatible
                version.
            InvalidArgument: The worker runs in another event loop.
        """
        self._discard_closed_loop()
        self._was_run = True
        self._stop_asked = False
        if self._supervisor is not None:
            if self._stopping is None:
                return
            await asyncio.shield(self._stopping)
            if self._stop_asked:
                return
        await self._start(self.settings)

    async def _start(self, settings: WorkerSettings, drains: bool = False) -> Supervisor:
        self._failure = None
        self._stopping = None
        self._loop = asyncio.get_running_loop()
        self._wake_run = asyncio.Event()
        client = await self._open_client()
        self._closers = {} if self._client else {"Closing the connections": client.aclose}
        await self._open_shared()
        use_daemon_threads(settings.concurrency)
        guard_tasks()
        # Not the watcher of the client, since a handler may close the client.
        watcher = Watcher(client._backend)
        self._closers["Closing the wake-ups"] = watcher.aclose
        events = None if drains else watcher.wake_ups
        on_end = self._begin_to_stop
        supervisor = self._supervisor = Supervisor(
            *(client._backend, events, self._registry, settings, self._shared, self._hooks),
            *(self._fail, self._emit, on_end, drains),
        )
        starting = self._starting = asyncio.create_task(supervisor.start())
        try:
            await asyncio.wait({starting})
        except asyncio.CancelledError:
            await self.stop()
            raise
        if starting.cancelled() or starting.exception() is not None:
            await self.stop()  # to unregister the worker: its registration may have been written
        if not starting.cancelled():
            starting.result()
        return supervisor

    async def _open_shared(self) -> None:
        """Enter the lifespan, and check that it yields what the handlers take."""
        try:
            await self._shared.open(self._lifespan)
            self._closers["Leaving the lifespan"] = self._shared.aclose
            for handler in self._registry.values():
                handler.bind(self._shared, self._hooks)
        except BaseException:
            await self._close()
            raise

    async def _close(self) -> None:
        while self._closers:
            await call_with_timeout(_CLOSE_TIMEOUT, *self._closers.popitem())
        self._running_client = None

    async def _open_client(self) -> AsyncPictureQueue:
        """Return the client of this run, which handlers of this package use.

        Raises:
            SettingsError: The client cannot do what a handler needs, such as store pictures.
        """
        client = self._client or AsyncPictureQueue.from_env()
        try:
            for check in self._client_checks:
                check(client)
        except PictureQueueError:
            if self._client is None:
                await client.aclose()
            raise
        self._running_client = client
        return client

    async def stop(self) -> None:
        """Let running jobs finish for ``shutdown_grace`` seconds, release the rest, and end.

        If it is called before the first `run`, that `run` returns at once.

        Raises:
            InvalidArgument: The worker runs in another event loop.
        """
        self._discard_closed_loop()
        self._begin_to_stop()
        if self._stopping is not None:
            await asyncio.shield(self._stopping)

    def _discard_closed_loop(self) -> None:
        """Discard the state of a run whose event loop was closed before the worker stopped."""
        if self._loop is None or self._loop is asyncio.get_running_loop():
            return
        if self._supervisor is not None and not self._loop.is_closed():
            raise InvalidArgument(
                "The worker runs in another event loop",
                hint="Call it there: asyncio.run_coroutine_threadsafe(worker.stop(), loop)",
            )
        self._supervisor = self._stopping = None

    def _fail(self, error: PictureQueueError) -> None:
        if self._failure is None:
            self._failure = error
            _log.error("The worker stops after its running jobs: %s", error)
            self._begin_to_stop()

    def _begin_to_stop(self) -> None:
        self._stop_asked = True
        self._wake_run.set()
        if self._stopping is None and self._supervisor is not None:
            self._stopping = asyncio.create_task(self._stop(self._supervisor))

    async def _stop(self, supervisor: Supervisor) -> None:
        try:
            if self._starting is not None:
                # Wait for the registration. If it were written after `unregister_worker`, it would
                # remain.
                await asyncio.wait({self._starting}, timeout=_REGISTRATION_TIMEOUT)
                self._starting.cancel()
                await asyncio.wait({self._starting})
            await supervisor.stop()
        except (Exception, asyncio.CancelledError):
            _log.exception("The stop of the worker failed")
        # Not in a finally clause: Python would also run the clause when it destroys the coroutine
        # of a closed event loop. At that time, the worker may be running again.
        self._supervisor = None
        for callback in self._after_stop:
            await call_with_timeout(_CLOSE_TIMEOUT, "A callback after the stop", callback)
        await self._close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def _on_stop_signal(self) -> None:
        if self._failure is not None:
            # Clear the failure, so that run() does not raise it and the CLI does not restart the
            # worker.
            _log.info("Stopping without a restart")
            self._failure = None
        elif self._stop_asked:
            _log.warning("Stopping now: running jobs are released")
            if self._starting is not None:
                self._starting.cancel()
            if self._supervisor is not None:
                self._supervisor.stop_now()
        else:
            _log.info("Stopping: running jobs get %g s", self.settings.shutdown_grace)
            self._begin_to_stop()

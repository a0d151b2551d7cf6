"""`follow` for callers without an event loop: the async one, in an event loop of a thread.

supabase-py has Realtime in its async client only. So the first watch of a client opens a second,
async connection to the same project, which all its watches share.
"""

import asyncio
import contextlib
import os
import queue
import threading
import weakref
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import CancelledError, Future
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from picture_queue._realtime import follow as asynchronous
from picture_queue._rpc import Rpc
from picture_queue._transport.backend import AsyncBackend
from picture_queue._transport.backend_sync import Backend
from picture_queue.errors import ConnectionFailed
from picture_queue.records import Job, JobEvent

if TYPE_CHECKING:
    from picture_queue._transport.postgrest import AsyncPostgrest
    from picture_queue._transport.postgrest_sync import Postgrest

T = TypeVar("T")
_Events: TypeAlias = queue.SimpleQueue[JobEvent | None]
_Work: TypeAlias = Callable[[asynchronous.Watcher, _Events], Coroutine[Any, Any, T]]

_CHECK_INTERVAL = 1.0  # seconds between two checks that the thread is still there
_STOP_TIMEOUT = 5.0  # seconds to close the connections


class Watcher:
    """The event loop in which the watches of one sync client run.

    It ends with `close`, when the client is forgotten, and at the end of the process.

    Args:
        project: The project as the sync client reaches it.
    """

    def __init__(self, project: Backend) -> None:
        self._project = project
        self._lock = threading.Lock()
        self._background: _Background | None = None

    def run(self, work: _Work[T]) -> Generator[JobEvent, None, T]:
        """Run a coroutine in the loop, yield the events that it puts, and return its result."""
        events: _Events = queue.SimpleQueue()
        with self._lock:
            if self._background is None or not self._background.is_alive:
                self._background = _Background(self._project)
                weakref.finalize(self, self._background.stop)
            background = self._background
            running = background.submit(work, events)
        try:
            while (event := background.next(events)) is not None:
                yield event
            return running.result()
        except CancelledError as error:
            raise ConnectionFailed(
                "The client was closed during the wait", hint="Keep it open until the job ends"
            ) from error
        finally:
            running.cancel()

    def close(self) -> None:
        """End all watches and close their connections."""
        with self._lock:
            background, self._background = self._background, None
        if background is not None:
            background.stop()


def follow(
    watcher: Watcher, target: Rpc[Any], timeout: float | None = None
) -> Generator[JobEvent, None, None]:
    """Yield what the async `follow` does; see there."""
    asynchronous.check_timeout(timeout)
    return watcher.run(lambda source, events: _forward(source, target, timeout, events))


def wait_for_job(watcher: Watcher, target: Rpc[Any], timeout: float | None = None) -> Job:
    """Do what the async `wait_for_job` does; see there."""
    running = watcher.run(lambda source, _: asynchronous.wait_for_job(source, target, timeout))
    with contextlib.closing(running):
        try:
            next(running)
        except StopIteration as end:
            job: Job = end.value
            return job
    raise AssertionError("unreachable: it puts no events")


async def _forward(
    source: asynchronous.Watcher, target: Rpc[Any], timeout: float | None, events: _Events
) -> None:
    async with contextlib.aclosing(asynchronous.follow(source, target, timeout)) as states:
        async for event in states:
            events.put(event)


class _Background:
    """A thread with an event loop, and the async connection to the project of a sync client.

    Args:
        project: The project as the sync client reaches it.
    """

    def __init__(self, project: Backend) -> None:
        api = None if project.api is None else _same_caller(project.api)
        database = project.database.settings if project.database is not None else None
        self._project = AsyncBackend(api, database)
        self._watcher = asynchronous.Watcher(self._project)
        self._running: set[Future[Any]] = set()
        self._stopping = asyncio.Event()
        self._process = os.getpid()
        # With a factory: else it would become the current loop of the caller's thread.
        self._runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        self._loop = self._runner.get_loop()
        # A daemon: a watch that is still referenced must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="picture-queue watch", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """True if the loop runs: a fork has no threads of its parent."""
        return self._thread.is_alive()

    def submit(self, work: _Work[T], events: _Events) -> Future[T]:
        """Run a coroutine in the loop; None among the events says that it has ended."""
        running = asyncio.run_coroutine_threadsafe(work(self._watcher, events), self._loop)
        self._running.add(running)
        running.add_done_callback(self._running.discard)
        running.add_done_callback(lambda _: events.put(None))
        return running

    def next(self, events: _Events) -> JobEvent | None:
        """Wait for the next event.

        Raises:
            ConnectionFailed: The loop is gone.
        """
        while True:
            try:
                return events.get(timeout=_CHECK_INTERVAL)
            except queue.Empty:
                if not self.is_alive and events.empty():
                    raise ConnectionFailed(
                        "The wait began in another process", hint="Wait again in this one"
                    ) from None

    def stop(self) -> None:
        """End what runs, close the connections and end the thread."""
        if os.getpid() != self._process or not self._thread.is_alive():
            return
        for running in list(self._running):
            running.cancel()
        with contextlib.suppress(RuntimeError):  # the loop has just ended
            self._loop.call_soon_threadsafe(self._stopping.set)
        if threading.current_thread() is not self._thread:  # the garbage collector's choice
            self._thread.join(_STOP_TIMEOUT)

    def _run(self) -> None:
        with self._runner as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        await self._stopping.wait()
        await self._watcher.aclose()
        await self._project.aclose()


def _same_caller(api: "Postgrest") -> "AsyncPostgrest":
    """Return the async API for the caller that the sync API has at each moment."""
    from picture_queue._transport.postgrest import AsyncPostgrest

    class SameCaller(AsyncPostgrest):
        async def client(self) -> Any:
            client = await super().client()
            authorization = f"Bearer {api.access_token()}"
            if client.options.headers.get("Authorization") != authorization:
                client.options.headers["Authorization"] = authorization
                client.postgrest.headers["Authorization"] = authorization
            return client

    return SameCaller(api.settings)

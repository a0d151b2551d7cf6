"""`follow` for callers without an event loop: run the async `follow` in a background thread.

supabase-py supports Realtime only in its async client. So the first wait of a sync client opens an
async connection to the same project, which all waits of the client share.
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
Events: TypeAlias = queue.SimpleQueue[Any]  # None ends them
_Work: TypeAlias = Callable[[asynchronous.Watcher, Events], Coroutine[Any, Any, T]]

_CHECK_INTERVAL = 1.0  # seconds between two checks that the thread is alive
_STOP_TIMEOUT = 5.0  # seconds to close the connections


class Watcher:
    """The background thread in which the waits of one sync client run.

    The thread ends when `close` is called, when the client is garbage-collected, or when the
    process ends.

    Args:
        backend: The backend of the sync client.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._lock = threading.Lock()
        self._background: _LoopThread | None = None

    def run(self, work: _Work[T]) -> Generator[Any, None, T]:
        """Run a coroutine in the thread, yield the events that it queues, and return its result."""
        events: Events = queue.SimpleQueue()
        with self._lock:
            if self._background is None or not self._background.is_alive:
                self._background = _LoopThread(self._backend)
                weakref.finalize(self, self._background.stop)
            background = self._background
            future = background.submit(work, events)
        try:
            while (event := background.next(events)) is not None:
                yield event
            return future.result()
        except CancelledError as error:
            raise ConnectionFailed(
                "The client was closed during the wait", hint="Keep it open until the job ends"
            ) from error
        finally:
            future.cancel()

    def close(self) -> None:
        """End all waits and close their connections."""
        with self._lock:
            background, self._background = self._background, None
        if background is not None:
            background.stop()


def follow(
    watcher: Watcher, target: Rpc[Any], timeout: float | None = None
) -> Generator[JobEvent, None, None]:
    """Yield the states of a job until it has finished; see the async `follow`."""
    asynchronous.check_timeout(timeout)
    return watcher.run(
        lambda async_watcher, events: _forward(async_watcher, target, timeout, events)
    )


def wait_for_job(watcher: Watcher, target: Rpc[Any], timeout: float | None = None) -> Job:
    """Wait until a job has finished, and return its row; see the async `wait_for_job`."""
    events = watcher.run(
        lambda async_watcher, _: asynchronous.wait_for_job(async_watcher, target, timeout)
    )
    with contextlib.closing(events):
        try:
            next(events)
        except StopIteration as end:
            job: Job = end.value
            return job
    raise AssertionError("unreachable: wait_for_job queues no events")


async def _forward(
    watcher: asynchronous.Watcher, target: Rpc[Any], timeout: float | None, events: Events
) -> None:
    """Put the states of a job into the queue that the thread of the caller reads."""
    async with contextlib.aclosing(asynchronous.follow(watcher, target, timeout)) as states:
        async for event in states:
            events.put(event)


class _LoopThread:
    """A thread with an event loop, and an async connection to the project of a sync client.

    Args:
        backend: The backend of the sync client.
    """

    def __init__(self, backend: Backend) -> None:
        api = None if backend.api is None else _duplicate_for_caller(backend.api)
        database = backend.database.settings if backend.database is not None else None
        self._backend = AsyncBackend(api, database)
        self._watcher = asynchronous.Watcher(self._backend)
        self._futures: set[Future[Any]] = set()
        self._stopping = asyncio.Event()
        self._pid = os.getpid()
        # Without `loop_factory`, the runner would make its loop the current event loop of this
        # thread, which belongs to the caller.
        self._runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        self._loop = self._runner.get_loop()
        # A daemon thread, so that an unfinished wait does not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="picture-queue watch", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """True if the thread runs; after a fork, it runs only in the parent process."""
        return self._thread.is_alive()

    def submit(self, work: _Work[T], events: Events) -> Future[T]:
        """Run a coroutine in the loop; queue None after its events when it has ended."""
        future = asyncio.run_coroutine_threadsafe(work(self._watcher, events), self._loop)
        self._futures.add(future)
        future.add_done_callback(self._futures.discard)
        future.add_done_callback(lambda _: events.put(None))
        return future

    def next(self, events: Events) -> Any:
        """Wait for the next event.

        Raises:
            ConnectionFailed: The thread does not run.
        """
        while True:
            try:
                return events.get(timeout=_CHECK_INTERVAL)
            except queue.Empty:
                if not self.is_alive and events.empty():
                    raise ConnectionFailed(
                        "The wait began in another process", hint="Wait again in this process"
                    ) from None

    def stop(self) -> None:
        """Cancel the running coroutines, close the connections and end the thread."""
        if os.getpid() != self._pid or not self._thread.is_alive():
            return
        for future in list(self._futures):
            future.cancel()
        with contextlib.suppress(RuntimeError):  # the loop has just ended
            self._loop.call_soon_threadsafe(self._stopping.set)
        # The garbage collector may call this in the thread itself, which cannot join itself.
        if threading.current_thread() is not self._thread:
            self._thread.join(_STOP_TIMEOUT)

    def _run(self) -> None:
        with self._runner as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        await self._stopping.wait()
        await self._watcher.aclose()
        await self._backend.aclose()


def _duplicate_for_caller(api: "Postgrest") -> "AsyncPostgrest":
    """Return an async API client that always uses the current token of the sync API client."""
    from picture_queue._transport.postgrest import AsyncPostgrest
    from picture_queue._transport.tls import find_ssl_context

    class SameCaller(AsyncPostgrest):
        async def client(self) -> Any:
            client = await super().client()
            # Copy all headers: a gateway may require some that the caller set in the client.
            client.postgrest.headers.update(api.client().postgrest.headers)
            for headers in (client.options.headers, client.postgrest.headers):
                headers["Authorization"] = f"Bearer {api.access_token()}"
            return client

    session = api.client().postgrest.session
    return SameCaller(api.settings, ssl_context=find_ssl_context(session, api.settings.url))

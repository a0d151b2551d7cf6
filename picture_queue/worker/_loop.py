"""The life cycle of a background task of a worker."""

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable

from picture_queue._log import Log
from picture_queue.errors import PictureQueueError
from picture_queue.worker._calls import RetryDelay, WorkerCalls

_log = Log(__name__)

_CANCEL_TIMEOUT = 1.0  # seconds a cancelled tick gets to end


class BackgroundLoop(ABC):
    """A task that repeats `_tick` until it is stopped, with a growing delay after failures."""

    def __init__(self, calls: WorkerCalls) -> None:
        self._calls = calls
        self._delay = RetryDelay()
        self._task: asyncio.Task[None] | None = None
        self._woken = asyncio.Event()
        self._stop_asked = asyncio.Event()
        self._cancelled_by_stop = False

    def start(self, on_failure: Callable[[PictureQueueError], None] | None = None) -> None:
        """Start with the first tick.

        Args:
            on_failure: Called if other code cancels the task, as `asyncio.run` does at its end. The
                task is not restarted before `stop`, since the other code most likely also cancelled
                tasks on which this task depends.
        """

        def on_end(task: asyncio.Task[None]) -> None:
            if task.cancelled() and not self._cancelled_by_stop and on_failure is not None:
                on_failure(
                    PictureQueueError(
                        f"Other code cancelled the {task.get_name()} of the worker",
                        hint="Cancel only your own tasks, not all of asyncio.all_tasks()",
                    )
                )

        self._task = asyncio.create_task(self._run(), name=type(self).__name__)
        self._task.add_done_callback(on_end)

    async def stop(self, timeout: float) -> None:
        """End after the current tick, or as soon as `_is_finished` permits.

        Args:
            timeout: Seconds to wait for the end; then the current tick is cancelled.
        """
        self._stop_asked.set()
        self.wake()
        if self._task is None:
            return
        await asyncio.wait({self._task}, timeout=timeout)
        if self._task.cancelled() and not self._cancelled_by_stop:
            self.start()  # other code cancelled the task: finish its work
            await asyncio.wait({self._task}, timeout=timeout)
        self._cancelled_by_stop = True
        self._task.cancel()
        await asyncio.wait({self._task}, timeout=_CANCEL_TIMEOUT)

    @property
    def stopping(self) -> bool:
        """True once `stop` was called."""
        return self._stop_asked.is_set()

    def wake(self) -> None:
        """End the current or the next `_wait`."""
        self._woken.set()

    @abstractmethod
    async def _tick(self) -> None:
        """Do the work that is due, or wait if there is none."""

    def _is_finished(self) -> bool:
        """Return whether a stop may end the loop now."""
        return True

    def _log_failure(self, error: Exception) -> None:
        """Log the failure of a tick, unless `WorkerCalls` has logged it as a failed call."""
        if not isinstance(error, PictureQueueError):
            _log.error("%s failed and continues", type(self).__name__, exc_info=error)

    async def _run(self) -> None:
        while not (self.stopping and self._is_finished()):
            try:
                await self._tick()
            except Exception as error:
                self._log_failure(error)
                await self._sleep(self._delay.next())
            else:
                self._delay.reset()

    async def _wait(self, seconds: float | None) -> None:
        """Wait until `wake` is called or the seconds have passed."""
        await wait_for(self._woken, seconds)
        self._woken.clear()

    async def _sleep(self, seconds: float) -> None:
        """Sleep. A stop ends the sleep, unless work is left, whose retries need the delay."""
        if self.stopping and not self._is_finished():
            await asyncio.sleep(seconds)
        else:
            await wait_for(self._stop_asked, seconds)


async def wait_for(event: asyncio.Event, seconds: float | None) -> None:
    """Wait until an event is set or the seconds have passed."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


async def run_stop_step(step: Awaitable[object]) -> bool:
    """Await a step of the stop; return False if other code cancelled it."""
    try:
        await step
    except asyncio.CancelledError:
        _log.warning("Other code cancelled a step of the worker's stop")
        return False
    return True


async def stop_loop(loop: BackgroundLoop, timeout: float) -> None:
    """Stop a loop as a step of the stop of the worker."""
    if not await run_stop_step(loop.stop(timeout)):
        # The other code most likely cancelled the loop as well, before its work was finished.
        await run_stop_step(loop.stop(timeout))

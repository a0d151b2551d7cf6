"""A worker that runs beside an ASGI app, in the same process."""

import asyncio
import random
from types import TracebackType
from typing import Self

from picture_queue._log import Log
from picture_queue.errors import (
    NotAllowed,
    NotAuthenticated,
    PictureQueueError,
    SettingsError,
    VersionMismatch,
    WorkerStuck,
)
from picture_queue.worker import Worker

_log = Log(__name__)

#: Seconds in which a refusal of the project keeps the app from starting. An app whose project does
#: not answer starts, and its worker waits for the project.
_START_TIMEOUT = 5.0
_FIRST_PAUSE = 1.0  # seconds before the worker is run again; each failure doubles it
_MAX_PAUSE = 30.0
#: Errors that a new attempt cannot solve; only a new process or another setting can.
_FINAL = (NotAllowed, NotAuthenticated, SettingsError, VersionMismatch, WorkerStuck)


class BackgroundWorker:
    """A worker that runs while a block does, such as the lifespan of an ASGI app.

    After an outage of the project the worker is run again. At the end of the block running jobs get
    ``shutdown_grace`` seconds, and are then released, which does not count as an attempt.

    Args:
        worker: A worker that is not running.
        handles_signals: Whether SIGTERM and SIGINT stop the worker. False if a web server handles
            these signals and then ends the block.

    Attributes:
        worker: The worker.
        failure: The error that has ended the worker; None while it runs or waits for the project.

    Example:
        >>> @asynccontextmanager
        ... async def lifespan(app: FastAPI):
        ...     async with BackgroundWorker(worker):
        ...         yield
        >>> app = FastAPI(lifespan=lifespan)
    """

    def __init__(self, worker: Worker, *, handles_signals: bool = False) -> None:
        self.worker = worker
        self.failure: Exception | None = None
        self._handles_signals = handles_signals
        self._has_failed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._has_started = asyncio.Event()
        self._is_closing = False

    @property
    def is_ready(self) -> bool:
        """True while the worker runs and the project answers."""
        return self.worker.is_ready

    async def __aenter__(self) -> Self:
        """Run the worker.

        Raises:
            PictureQueueError: The project refuses the key, or has an incompatible version.
        """
        self.failure = None
        self._has_failed.clear()
        self._is_closing = False
        self._has_started.clear()
        self._task = asyncio.create_task(self._run(), name="picture-queue worker")
        started = asyncio.create_task(self._has_started.wait())
        await asyncio.wait(
            {self._task, started}, timeout=_START_TIMEOUT, return_when=asyncio.FIRST_COMPLETED
        )
        started.cancel()
        if self.failure is not None:
            raise self.failure
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._task is None:
            return
        self._is_closing = True
        await self.worker.stop()
        self._task.cancel()  # in case it waits to run the worker again
        await asyncio.wait({self._task})

    async def wait_for_failure(self) -> Exception:
        """Wait until an error has ended the worker, and return the error."""
        await self._has_failed.wait()
        assert self.failure is not None  # noqa: S101 - it is set before the event
        return self.failure

    def _fail(self, error: Exception) -> None:
        self.failure = error
        self._has_failed.set()

    async def _run(self) -> None:
        pause = _FIRST_PAUSE
        while True:
            try:
                await self.worker.start()
                self._has_started.set()
                if not self._is_closing:
                    await self.worker.run(handles_signals=self._handles_signals)
                return
            except _FINAL as error:
                _log.error("The worker has ended: %s", error)
                self._fail(error)
                return
            except (PictureQueueError, TimeoutError) as error:
                _log.warning("The worker starts again in %g s: %s", pause, error)
            except Exception as error:
                _log.exception("The worker has ended")
                self._fail(error)
                return
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
            pause = min(pause * 2, _MAX_PAUSE)

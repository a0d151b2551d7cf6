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

    It installs no signal handlers, since the server has some. After an outage of the project the
    worker is run again. At the end of the block running jobs get ``shutdown_grace`` seconds, and
    are then released, which does not count as an attempt.

    Args:
        worker: A worker that is not running.

    Attributes:
        failure: The error that has ended the worker; None while it runs or waits for the project.

    Example:
        >>> @asynccontextmanager
        ... async def lifespan(app: FastAPI):
        ...     async with BackgroundWorker(worker):
        ...         yield
        >>> app = FastAPI(lifespan=lifespan)
    """

    def __init__(self, worker: Worker) -> None:
        self.failure: Exception | None = None
        self._worker = worker
        self._task: asyncio.Task[None] | None = None
        self._has_started = asyncio.Event()
        self._is_closing = False

    @property
    def is_ready(self) -> bool:
        """True while the worker runs and the project answers."""
        return self._worker.is_ready

    async def __aenter__(self) -> Self:
        """Run the worker.

        Raises:
            PictureQueueError: The project refuses the key, or has an incompatible version.
        """
        self.failure = None
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
        await self._worker.stop()
        self._task.cancel()  # in case it waits to run the worker again
        await asyncio.wait({self._task})

    async def _run(self) -> None:
        pause = _FIRST_PAUSE
        while True:
            try:
                await self._worker.start()
                self._has_started.set()
                if not self._is_closing:
                    await self._worker.run(handles_signals=False)
                return
            except _FINAL as error:
                _log.error("The worker has ended: %s", error)
                self.failure = error
                return
            except (PictureQueueError, TimeoutError) as error:
                _log.warning("The worker starts again in %g s: %s", pause, error)
            except Exception as error:
                _log.exception("The worker has ended")
                self.failure = error
                return
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
            pause = min(pause * 2, _MAX_PAUSE)

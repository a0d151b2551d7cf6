"""``GET /healthz`` and ``GET /readyz``: the state of the process, without details."""

import asyncio
import time

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from picture_queue._async.client import AsyncPictureQueue
from picture_queue.errors import PictureQueueError
from picture_queue.web.background_worker import BackgroundWorker
from picture_queue.web.responses import respond

_TIMEOUT = 3.0  # seconds for the check of the database
_INTERVAL = 1.0  # seconds for which the result of the check is used again


class Health:
    """The routes that show whether the process works, and whether it can serve requests.

    ``/healthz`` fails if the process has to be restarted: its worker has ended. ``/readyz`` fails
    while the database does not answer, or the worker cannot claim jobs.

    Args:
        client: A client with a service key.
        background: The worker of the process; None if there is none.
    """

    def __init__(self, client: AsyncPictureQueue, background: BackgroundWorker | None) -> None:
        self._client = client
        self._background = background
        self._lock = asyncio.Lock()
        self._checked_at = float("-inf")
        self._database_answers = False
        self.routes: list[BaseRoute] = [
            Route("/healthz", self._respond_health),
            Route("/readyz", self._respond_readiness),
        ]

    async def _respond_health(self, _: Request) -> Response:
        if self._background is not None and self._background.failure is not None:
            return respond({"status": "failed"}, 503)
        return respond({"status": "ok"})

    async def _respond_readiness(self, _: Request) -> Response:
        async with self._lock:  # one check for all requests of a second
            if time.monotonic() - self._checked_at >= _INTERVAL:
                self._database_answers = await self._ask_database()
                self._checked_at = time.monotonic()
        if self._database_answers and (self._background is None or self._background.is_ready):
            return respond({"status": "ready"})
        return respond({"status": "not ready"}, 503)

    async def _ask_database(self) -> bool:
        try:
            async with asyncio.timeout(_TIMEOUT):
                await self._client.version()
        except (PictureQueueError, TimeoutError):
            return False
        return True

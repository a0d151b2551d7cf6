"""The ASGI app of a project: the webhooks of providers, and the state of the process.

Serve it with any ASGI server::

    uvicorn --factory picture_queue.web:create_app --port 8080
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from picture_queue._async.client import AsyncPictureQueue
from picture_queue._log import Log
from picture_queue.errors import PictureQueueError
from picture_queue.providers import registry
from picture_queue.settings import ReplicateSettings
from picture_queue.web.webhooks import ProviderWebhooks

_log = Log(__name__)

_READY_TIMEOUT = 3.0  # seconds for the check of the database
_READY_INTERVAL = 1.0  # seconds for which the result of the check is used again


def create_app(
    client: AsyncPictureQueue | None = None, replicate: ReplicateSettings | None = None
) -> Starlette:
    """Create the app.

    Its routes are ``POST /webhooks/replicate``, which accepts only signed webhooks of Replicate,
    and ``GET /healthz`` and ``GET /readyz``, which are open and return only a status.

    The lifespan of the app closes its connections. Starlette does not run the lifespan of a mounted
    app, so run ``app.router.lifespan_context(app)`` in the lifespan of the outer app.

    Args:
        client: A client with a service key; None: one from the environment, which the app closes.
        replicate: The token of Replicate, and the secret of its webhooks; None: from the
            environment. Without a token there is no route for webhooks.

    Raises:
        SettingsError: A setting is missing or invalid; the error names it.
        ValueError: The secret of the webhooks is invalid.
    """
    is_owned = client is None
    project = AsyncPictureQueue.from_env() if client is None else client
    settings = replicate or ReplicateSettings.from_env()
    provider = None if settings is None else registry.replicate(settings)
    routes: list[BaseRoute] = [
        Route("/healthz", _healthz),
        Route("/readyz", _Readiness(project).get),
    ]
    if provider is None:
        _log.warning("REPLICATE_API_TOKEN is not set: the app has no route for webhooks")
    else:
        endpoint = ProviderWebhooks(project, provider)
        routes.append(Route("/webhooks/replicate", endpoint.receive, methods=["POST"]))

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[Mapping[str, object]]:
        try:
            yield {}
        finally:
            if provider is not None:
                await provider.aclose()
            if is_owned:
                await project.aclose()

    return Starlette(routes=routes, lifespan=lifespan)


async def _healthz(_: Request) -> Response:
    return JSONResponse({"status": "ok"})


class _Readiness:
    """The route that shows whether the database answers; it is called at most once a second."""

    def __init__(self, client: AsyncPictureQueue) -> None:
        self._client = client
        self._lock = asyncio.Lock()
        self._checked_at = float("-inf")
        self._is_ready = False

    async def get(self, _: Request) -> Response:
        async with self._lock:
            if time.monotonic() - self._checked_at >= _READY_INTERVAL:
                try:
                    async with asyncio.timeout(_READY_TIMEOUT):
                        await self._client.version()
                    self._is_ready = True
                except (PictureQueueError, TimeoutError):
                    self._is_ready = False
                self._checked_at = time.monotonic()
        if self._is_ready:
            return JSONResponse({"status": "ready"})
        return JSONResponse({"status": "not ready"}, 503)

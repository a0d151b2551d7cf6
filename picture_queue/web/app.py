"""The ASGI app of a project: start of generations, webhooks of providers, state of the process.

Serve it with any ASGI server::

    uvicorn --factory picture_queue.web:create_app --port 8080
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from picture_queue._async.client import AsyncPictureQueue
from picture_queue._log import Log
from picture_queue.errors import PictureQueueError
from picture_queue.providers import registry
from picture_queue.settings import ReplicateSettings
from picture_queue.web.key_set import KeySet
from picture_queue.web.responses import respond_to_http_error
from picture_queue.web.settings import WebSettings
from picture_queue.web.start_generation import StartGeneration
from picture_queue.web.tokens import TokenVerifier
from picture_queue.web.webhooks import ProviderWebhooks

_log = Log(__name__)

_READY_TIMEOUT = 3.0  # seconds for the check of the database
_READY_INTERVAL = 1.0  # seconds for which the result of the check is used again


def create_app(
    client: AsyncPictureQueue | None = None,
    replicate: ReplicateSettings | None = None,
    *,
    settings: WebSettings | None = None,
) -> Starlette:
    """Create the app.

    Its routes are:

    - ``POST /start-generation``, for signed-in users;
    - ``POST /webhooks/replicate``, which accepts only signed webhooks of Replicate;
    - ``GET /healthz`` and ``GET /readyz``, which are open and return only a status.

    The lifespan of the app closes its connections. Starlette does not run the lifespan of a mounted
    app, so run ``app.router.lifespan_context(app)`` in the lifespan of the outer app.

    Args:
        client: A client with a service key; None: one from the environment, which the app closes.
            Without the URL of the project's API there is no route ``/start-generation``.
        replicate: The token of Replicate, and the secret of its webhooks; None: from the
            environment. Without a token there is no route for webhooks.
        settings: The secrets and limits of the routes; None: from the environment.

    Raises:
        SettingsError: A setting is missing or invalid; the error names it.
        ValueError: The secret of the webhooks is invalid.
    """
    settings = settings or WebSettings.from_env()
    is_owned = client is None
    project = AsyncPictureQueue.from_env() if client is None else client
    replicate = replicate or ReplicateSettings.from_env()
    provider = None if replicate is None else registry.replicate(replicate)
    routes: list[BaseRoute] = [
        Route("/healthz", _healthz),
        Route("/readyz", _Readiness(project).get),
    ]
    if project._backend.api is None:
        _log.warning("SUPABASE_URL is not set: the app has no route /start-generation")
    else:
        keys = KeySet(f"{project._backend.api.settings.url}/auth/v1/.well-known/jwks.json")
        tokens = TokenVerifier(keys, settings.jwt_secret, settings.audience)
        routes.append(StartGeneration(project, tokens, settings).route)
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

    app = Starlette(
        routes=routes,
        lifespan=lifespan,
        exception_handlers={HTTPException: respond_to_http_error},
    )
    # The redirect would have the host that the request names.
    app.router.redirect_slashes = False
    return app


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

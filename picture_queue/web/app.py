"""The ASGI app of a project: start and run of jobs, webhooks of providers, state of the process.

Serve it with any ASGI server::

    uvicorn --factory picture_queue.web:create_app --port 8080
"""

import contextlib
from collections.abc import AsyncIterator, Mapping

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.routing import Route

from picture_queue._async.client import AsyncPictureQueue
from picture_queue._log import Log
from picture_queue.generations.builtin import builtin_worker
from picture_queue.installation.keys import recognise_key
from picture_queue.providers import registry
from picture_queue.settings import ReplicateSettings
from picture_queue.web.access import ServiceAccess
from picture_queue.web.background_worker import BackgroundWorker
from picture_queue.web.health import Health
from picture_queue.web.job_runner import JobRunner
from picture_queue.web.key_set import KeySet
from picture_queue.web.process import ProcessRoutes
from picture_queue.web.responses import respond_to_http_error
from picture_queue.web.settings import WebSettings
from picture_queue.web.start_generation import StartGeneration
from picture_queue.web.tokens import TokenVerifier
from picture_queue.web.webhooks import ProviderWebhooks
from picture_queue.worker import Worker

_log = Log(__name__)


def create_app(
    client: AsyncPictureQueue | None = None,
    replicate: ReplicateSettings | None = None,
    *,
    settings: WebSettings | None = None,
    worker: Worker | BackgroundWorker | None = None,
) -> Starlette:
    """Create the app.

    Its routes are:

    - ``POST /start-generation``, for signed-in users;
    - ``POST /process-jobs`` and ``POST /process-generation``, for services with a secret;
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
        worker: A worker that runs jobs for ``/process-jobs`` and ``/process-generation`` only, or a
            `BackgroundWorker`, which runs during the lifespan of the app; None: the built-in
            worker, which generates pictures, for these routes.

    Raises:
        SettingsError: A setting is missing or invalid; the error names it.
        ValueError: The secret of the webhooks is invalid.
    """
    settings = settings or WebSettings.from_env()
    is_owned = client is None
    project = AsyncPictureQueue.from_env() if client is None else client
    replicate = replicate or ReplicateSettings.from_env()
    provider = None if replicate is None else registry.replicate(replicate)
    access = ServiceAccess(_service_secrets(project, settings))
    if worker is None and access.has_secrets:
        worker = builtin_worker(project, replicate=replicate)
    background, on_demand = (
        (worker, None) if isinstance(worker, BackgroundWorker) else (None, worker)
    )
    runner = JobRunner(project, on_demand, settings.process_seconds)
    health = Health(project, background)
    routes = health.routes
    if project._backend.api is None:
        _log.warning("SUPABASE_URL is not set: the app has no route /start-generation")
    else:
        keys = KeySet(f"{project._backend.api.settings.url}/auth/v1/.well-known/jwks.json")
        tokens = TokenVerifier(keys, settings.jwt_secret, settings.audience)
        routes.append(StartGeneration(project, tokens, settings).route)
    if not access.has_secrets:
        _log.warning("PICTURE_QUEUE_PROCESS_SECRET is not set: the app has no routes to run jobs")
    else:
        routes += ProcessRoutes(project, access, runner).routes
    if provider is None:
        _log.warning("REPLICATE_API_TOKEN is not set: the app has no route for webhooks")
    else:
        endpoint = ProviderWebhooks(project, provider)
        routes.append(Route("/webhooks/replicate", endpoint.receive, methods=["POST"]))

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[Mapping[str, object]]:
        async with contextlib.AsyncExitStack() as stack:
            if is_owned:
                stack.push_async_callback(project.aclose)
            if provider is not None:
                stack.push_async_callback(provider.aclose)
            stack.push_async_callback(runner.aclose)
            if background is not None:
                await stack.enter_async_context(background)
            yield {}

    app = Starlette(
        routes=routes,
        lifespan=lifespan,
        exception_handlers={HTTPException: respond_to_http_error},
    )
    # The redirect would have the host that the request names.
    app.router.redirect_slashes = False
    return app


def _service_secrets(client: AsyncPictureQueue, settings: WebSettings) -> list[str]:
    """Return the secrets with which a service may run jobs."""
    secrets = [settings.process_secret] if settings.process_secret else []
    api = client._backend.api
    # A publishable key is no secret.
    if api is not None and recognise_key(api.settings.key, api.settings.url).access == "service":
        secrets.append(api.settings.key)
    return secrets

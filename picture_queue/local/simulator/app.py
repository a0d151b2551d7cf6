"""The routes of the simulator, and the checks of tokens and admin keys."""

import base64
import hashlib
import hmac
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from picture_queue.local import json_body
from picture_queue.local.origin_check import OriginCheck
from picture_queue.local.simulator import model_routes, outputs, predictions, uploads
from picture_queue.local.simulator.faults import Call, Fault
from picture_queue.local.simulator.inputs import InputReader
from picture_queue.local.simulator.requests import base_url, simulator_of
from picture_queue.local.simulator.responses import (
    Handler,
    answer,
    problem,
    refuse_large_body,
    translate_http_error,
    with_faults,
)
from picture_queue.local.simulator.state import Simulator, SimulatorSettings
from picture_queue.local.simulator.webhooks import WebhookSender

_HANDLERS: Final = {HTTPException: translate_http_error, json_body.BodyTooLarge: refuse_large_body}

_METHODS: Final = ("GET", "POST", "PUT", "PATCH", "DELETE", "QUERY")


def _route(path: str, call: Call, handler: Handler, *, method: str = "GET") -> Route:
    """Return the route of a call to which faults apply."""
    return Route(path, with_faults(call, handler), methods=[method])


def create_app(
    settings: SimulatorSettings | None = None, *, clock: Callable[[], float] = time.time
) -> OriginCheck:
    """Create the simulator.

    Args:
        settings: See `SimulatorSettings`.
        clock: A function that returns the Unix time. A test can pass another one to skip an hour.

    Returns:
        An ASGI app: the API below ``/v1``, which needs the token, pictures below ``/files``, and
        admin routes below ``/_simulator``, which need an admin key. The app needs no lifespan.
    """
    simulator = Simulator(settings or SimulatorSettings(), clock)
    api = Starlette(
        routes=[
            _route("/account", "account", _get_account),
            _route("/webhooks/default/secret", "secret", _get_webhook_secret),
            Route("/hardware", model_routes.list_hardware),
            _route("/models", "model", model_routes.list_models),
            _route("/models", "model", model_routes.search_models, method="QUERY"),
            _route("/models/{owner}/{name}", "model", model_routes.get_model),
            _route("/models/{owner}/{name}/versions", "model", model_routes.list_versions),
            _route("/models/{owner}/{name}/versions/{id}", "model", model_routes.get_version),
            _route(
                "/models/{owner}/{name}/predictions",
                "create",
                predictions.create_official,
                method="POST",
            ),
            _route("/predictions", "list", predictions.list_all),
            _route("/predictions", "create", predictions.create_by_version, method="POST"),
            _route("/predictions/{id}", "get", predictions.get),
            _route("/predictions/{id}/cancel", "cancel", predictions.cancel, method="POST"),
            Route("/files", uploads.list_files),
            _route("/files", "upload", uploads.create_file, method="POST"),
            Route("/files/{id}", uploads.get_file),
            Route("/files/{id}", uploads.delete_file, methods=["DELETE"]),
            Route("/{rest:path}", _respond_not_found, methods=_METHODS),
        ],
        exception_handlers=_HANDLERS,
    )
    admin_app = Starlette(
        routes=[
            Route("/faults", _list_or_add_faults, methods=["GET", "POST"]),
            Route("/predictions", _list_predictions),
            Route("/reset", _reset, methods=["POST"]),
        ],
        exception_handlers=_HANDLERS,
    )
    app = Starlette(
        routes=[
            Mount("/v1", _TokenRequired(api, simulator.settings.token)),
            _route("/files/{id}/{name}", "file", outputs.get_output),
            Mount("/_simulator", _AdminKeyRequired(admin_app, simulator.settings.admin_keys)),
        ],
        exception_handlers=_HANDLERS,
    )
    webhooks, files = WebhookSender(_webhook_secret(simulator), clock), uploads.Uploads()
    # The reader may read outputs, and rendering an output may need the reader.
    inputs = InputReader(
        files, simulator.settings.storage_url, lambda path: _render_output(path), clock
    )

    async def _render_output(path: str) -> bytes | None:
        output = outputs.find_output(simulator, path)
        return None if output is None else await pictures.render(*output)

    pictures = outputs.OutputPictures(inputs)

    for starlette_app in (api, admin_app, app):
        state = starlette_app.state
        state.simulator, state.webhooks = simulator, webhooks
        state.uploads, state.inputs, state.pictures = files, inputs, pictures
    return OriginCheck(app, url=simulator.settings.base_url or "", pictures="/files/")


class _TokenRequired:
    """ASGI middleware that requires the token. An empty token refuses all requests."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._token = token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app: ASGIApp = self._app
        scheme, _, value = HTTPConnection(scope).headers.get("authorization", "").partition(" ")
        is_token = hmac.compare_digest(value.strip().encode(), self._token)
        if not (self._token and is_token and scheme.lower() == "bearer"):
            app = problem(
                401, "You did not pass a valid authentication token", title="Unauthenticated"
            )
        await app(scope, receive, send)


class _AdminKeyRequired:
    """ASGI middleware that requires an admin key, and JSON if there is a body.

    Without keys in the settings, the middleware refuses all requests.
    """

    def __init__(self, app: ASGIApp, keys: tuple[str, ...]) -> None:
        self._app = app
        self._keys = [key.encode() for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app: ASGIApp = self._app
        request = HTTPConnection(scope)
        value = request.headers.get("apikey", "").encode()
        if not any([hmac.compare_digest(value, key) for key in self._keys]):
            app = problem(
                403, "Paths below /_simulator need the stack's secret key as apikey header."
            )
        elif request.headers.get("content-type") and not json_body.is_json(request):
            # A browser sends text and forms without a preflight, even from another site's page.
            app = problem(415, "Send application/json.")
        await app(scope, receive, send)


async def _get_account(request: Request) -> Response:
    return answer({"type": "user", "username": "simulator", "name": "Replicate simulator"})


async def _get_webhook_secret(request: Request) -> Response:
    return answer({"key": request.app.state.webhooks.secret})


def _webhook_secret(simulator: Simulator) -> str:
    """Return the secret of the webhooks, which is derived from the token."""
    digest = hashlib.sha256(f"webhooks of {simulator.settings.token}".encode()).digest()
    return f"whsec_{base64.b64encode(digest).decode()}"


async def _respond_not_found(request: Request) -> Response:
    route = f"{request.method} /v1/{request.path_params['rest']}"
    return problem(501, f"The Replicate simulator does not have {route}.")


async def _list_or_add_faults(request: Request) -> Response:
    simulator = simulator_of(request)
    if request.method == "POST":
        try:
            simulator.faults.add(Fault.model_validate_json(await json_body.receive(request)))
        except ValueError as error:
            return problem(422, str(error))
    return JSONResponse([fault.model_dump() for fault in simulator.faults])


async def _list_predictions(request: Request) -> Response:
    simulator, base = simulator_of(request), base_url(request)
    now = simulator.clock()
    return JSONResponse(
        [
            {
                **prediction.as_json(now, base),
                "created_by": prediction.created_by,
                "plan": asdict(prediction.plan),
            }
            for prediction in simulator.predictions.values()
        ]
    )


async def _reset(request: Request) -> Response:
    request.app.state.webhooks.cancel_all()
    request.app.state.uploads.clear()
    request.app.state.inputs.clear()
    simulator_of(request).reset()
    return Response(status_code=204)

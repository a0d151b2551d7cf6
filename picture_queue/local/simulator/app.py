"""The routes of the simulator, and the checks of tokens and switch keys."""

import asyncio
import base64
import hashlib
import hmac
import re
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
from picture_queue.local.simulator import predictions
from picture_queue.local.simulator.faults import Fault
from picture_queue.local.simulator.pictures import MIME_TYPES, draw
from picture_queue.local.simulator.requests import base_url, simulator_of
from picture_queue.local.simulator.responses import (
    answer,
    http_fault,
    not_found,
    problem,
    refuse_large_body,
    translate_http_error,
)
from picture_queue.local.simulator.state import Simulator, SimulatorSettings
from picture_queue.local.simulator.webhooks import WebhookSender
from picture_queue.providers.replicate.catalog import models

_HANDLERS: Final = {HTTPException: translate_http_error, json_body.BodyTooLarge: refuse_large_body}


def create_app(
    settings: SimulatorSettings | None = None, *, clock: Callable[[], float] = time.time
) -> OriginCheck:
    """Create the simulator.

    Args:
        settings: See `SimulatorSettings`.
        clock: A function that returns the Unix time; tests pass their own to skip an hour.

    Returns:
        An ASGI app: the API below ``/v1``, which needs the token, pictures below ``/files``, and
        switches below ``/_simulator``, which need a switch key. The app needs no lifespan.
    """
    simulator = Simulator(settings or SimulatorSettings(), clock)
    api = Starlette(
        routes=[
            Route("/account", _account),
            Route("/webhooks/default/secret", _webhook_secret),
            Route("/models/{owner}/{name}", _model),
            Route(
                "/models/{owner}/{name}/predictions", predictions.create_official, methods=["POST"]
            ),
            Route("/predictions", predictions.list_all),
            Route("/predictions", predictions.create_by_version, methods=["POST"]),
            Route("/predictions/{id}", predictions.get),
            Route("/predictions/{id}/cancel", predictions.cancel, methods=["POST"]),
            Route(
                "/{rest:path}",
                _respond_not_found,
                methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
            ),
        ],
        exception_handlers=_HANDLERS,
    )
    switches = Starlette(
        routes=[
            Route("/faults", _faults, methods=["GET", "POST"]),
            Route("/predictions", _predictions),
            Route("/reset", _reset, methods=["POST"]),
        ],
        exception_handlers=_HANDLERS,
    )
    api.state.simulator = switches.state.simulator = simulator
    api.state.webhooks = switches.state.webhooks = WebhookSender(_secret(simulator), clock)
    app = Starlette(
        routes=[
            Mount("/v1", _TokenRequired(api, simulator.settings.token)),
            Route("/files/{id}/{name}", _file),
            Mount("/_simulator", _SwitchKeyRequired(switches, simulator.settings.switch_keys)),
        ],
        exception_handlers=_HANDLERS,
    )
    app.state.simulator = simulator
    return OriginCheck(app, url=simulator.settings.base_url or "", pictures="/files/")


class _TokenRequired:
    """ASGI middleware that requires the token; without one in the settings, it refuses all."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._token = token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app: ASGIApp = self._app
        scheme, _, given = HTTPConnection(scope).headers.get("authorization", "").partition(" ")
        is_token = hmac.compare_digest(given.strip().encode(), self._token)
        if not (self._token and is_token and scheme.lower() == "bearer"):
            app = problem(
                401, "You did not pass a valid authentication token", title="Unauthenticated"
            )
        await app(scope, receive, send)


class _SwitchKeyRequired:
    """ASGI middleware that requires a switch key, and JSON if there is a body.

    Without keys in the settings, it refuses all requests.
    """

    def __init__(self, app: ASGIApp, keys: tuple[str, ...]) -> None:
        self._app = app
        self._keys = [key.encode() for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app: ASGIApp = self._app
        request = HTTPConnection(scope)
        given = request.headers.get("apikey", "").encode()
        if not any([hmac.compare_digest(given, key) for key in self._keys]):
            app = problem(403, "The switches need the stack's secret key in the header apikey.")
        elif request.headers.get("content-type") and not json_body.is_json(request):
            # For text and forms, a browser sends no preflight, even from the page of another site.
            app = problem(415, "Send application/json.")
        await app(scope, receive, send)


async def _model(request: Request) -> Response:
    owner, name = request.path_params["owner"], request.path_params["name"]
    model = models().get(f"{owner}/{name}")
    if model is None:
        return not_found()
    file = {"type": "string", "format": "uri"}
    properties = {}
    for known in model.inputs:
        given = known.model_dump(exclude={"name", "required", "unknown"})
        properties[known.name] = {key: value for key, value in given.items() if value is not None}
        if known.type == "array" and properties[known.name].pop("format", None):
            properties[known.name]["items"] = file
    schema: dict[str, object] = {
        "Input": {
            "type": "object",
            "properties": properties,
            "required": [known.name for known in model.inputs if known.required],
        }
    }
    if model.output is not None:
        schema["Output"] = file if model.output == "uri" else {"type": "array", "items": file}
    return answer(
        {
            "url": f"https://replicate.com/{owner}/{name}",
            "owner": owner,
            "name": name,
            "visibility": "public",
            "is_official": bool(model.official),
            "latest_version": {
                "id": model.version,
                "openapi_schema": {"components": {"schemas": schema}},
            },
            "default_example": None,
        }
    )


async def _account(request: Request) -> Response:
    return answer({"type": "user", "username": "simulator", "name": "Replicate simulator"})


async def _webhook_secret(request: Request) -> Response:
    return answer({"key": request.app.state.webhooks.secret})


def _secret(simulator: Simulator) -> str:
    """Return the secret of the webhooks; it stays the same as long as the token does."""
    digest = hashlib.sha256(f"webhooks of {simulator.settings.token}".encode()).digest()
    return f"whsec_{base64.b64encode(digest).decode()}"


async def _respond_not_found(request: Request) -> Response:
    route = f"{request.method} /v1/{request.path_params['rest']}"
    return problem(501, f"The Replicate simulator does not have {route}.")


async def _file(request: Request) -> Response:
    if refused := http_fault(request, "file"):
        return refused
    simulator, now = simulator_of(request), simulator_of(request).clock()
    prediction = simulator.predictions.get(request.path_params["id"])
    match = re.fullmatch(r"out-(\d{1,2})\.(\w+)", request.path_params["name"])
    if (
        prediction is None
        or match is None
        or prediction.status(now) != "succeeded"
        or prediction.is_removed(now)
    ):
        return not_found()
    spec = prediction.picture(int(match[1]))
    if int(match[1]) >= prediction.pictures or spec.format != match[2]:
        return not_found()
    return Response(await asyncio.to_thread(draw, spec), media_type=MIME_TYPES[spec.format])


async def _faults(request: Request) -> Response:
    simulator = simulator_of(request)
    if request.method == "POST":
        try:
            simulator.faults.add(Fault.model_validate_json(await json_body.receive(request)))
        except ValueError as error:
            return problem(422, str(error))
    return JSONResponse([fault.model_dump() for fault in simulator.faults])


async def _predictions(request: Request) -> Response:
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
    simulator_of(request).reset()
    return Response(status_code=204)

"""The simulator's HTTP side: routes, checks and error documents of Replicate's API."""

import asyncio
import contextlib
import hmac
import re
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import pydantic
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from picture_queue.local import json_body
from picture_queue.local.origin_check import OriginCheck
from picture_queue.local.simulator.faults import Call, Fault
from picture_queue.local.simulator.pictures import MIME_TYPES, draw
from picture_queue.local.simulator.state import Simulator, SimulatorSettings
from picture_queue.local.simulator.validation import complaints
from picture_queue.providers.replicate.catalog import CatalogModel, models

_PAGE = 100
_BODY_KEYS = {"input", "version", "stream", "webhook", "webhook_events_filter"}


def create_app(
    settings: SimulatorSettings | None = None, *, clock: Callable[[], float] = time.time
) -> OriginCheck:
    """Make the simulator.

    Args:
        settings: See `SimulatorSettings`.
        clock: Gives the unix time; a test's own clock lets it jump an hour.

    Returns:
        An ASGI app: the API below ``/v1``, pictures below ``/files``, switches below
        ``/_simulator``, for whoever has a switch key. It needs no lifespan.
    """
    simulator = Simulator(settings or SimulatorSettings(), clock)
    api = Starlette(
        routes=[
            Route("/account", _account),
            Route("/models/{owner}/{name}", _model),
            Route("/models/{owner}/{name}/predictions", _create_official, methods=["POST"]),
            Route("/predictions", _list),
            Route("/predictions", _create_by_version, methods=["POST"]),
            Route("/predictions/{id}", _get),
            Route("/predictions/{id}/cancel", _cancel, methods=["POST"]),
            Route("/{rest:path}", _absent, methods=["GET", "POST", "PUT", "PATCH", "DELETE"]),
        ],
        exception_handlers={HTTPException: _problem_of},
    )
    switches = Starlette(
        routes=[
            Route("/faults", _faults, methods=["GET", "POST"]),
            Route("/predictions", _predictions),
            Route("/reset", _reset, methods=["POST"]),
        ],
        exception_handlers={HTTPException: _problem_of},
    )
    api.state.simulator = switches.state.simulator = simulator
    app = Starlette(
        routes=[
            Mount("/v1", _TokenRequired(api)),
            Route("/files/{id}/{name}", _file),
            Mount("/_simulator", _SwitchKeyRequired(switches, simulator.settings.switch_keys)),
        ],
        exception_handlers={HTTPException: _problem_of},
    )
    app.state.simulator = simulator
    return OriginCheck(app, url=simulator.settings.base_url or "", pictures="/files/")


class _TokenRequired:
    """Lets requests through that carry anything that looks like a token."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer: ASGIApp = self._app
        scheme, _, token = Request(scope).headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not re.fullmatch(r"r8_\S+", token.strip()):
            answer = _problem(
                401, "You did not pass a valid authentication token", title="Unauthenticated"
            )
        await answer(scope, receive, send)


class _SwitchKeyRequired:
    """Lets requests through that carry a key of the stack's owner, and no body but JSON.

    Without keys in the settings nobody has one.
    """

    def __init__(self, app: ASGIApp, keys: tuple[str, ...]) -> None:
        self._app = app
        self._keys = [key.encode() for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer: ASGIApp = self._app
        request = Request(scope)
        given = request.headers.get("apikey", "").encode()
        if not any([hmac.compare_digest(given, key) for key in self._keys]):
            answer = _problem(403, "The switches need the stack's secret key in the header apikey.")
        elif request.headers.get("content-type") and not json_body.is_json(request):
            # A page of another site can send text and forms without asking the server first.
            answer = _problem(415, "Send application/json.")
        await answer(scope, receive, send)


class _LostAnswer(Response):
    """Begins an answer and breaks off, as a connection that dies."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._seconds):
                # The request has been read: what comes next is the client hanging up.
                await receive()
                return
        await send(
            {
                "type": "http.response.start",
                "status": 201,
                "headers": [(b"content-type", b"application/json"), (b"content-length", b"4096")],
            }
        )


async def _create_official(request: Request) -> Response:
    if refused := _http_fault(request, "create"):
        return refused
    model = models().get(f"{request.path_params['owner']}/{request.path_params['name']}")
    if model is None or not model.official:
        return _not_found()
    return await _create(request, model, _BODY_KEYS - {"version"})


async def _create_by_version(request: Request) -> Response:
    if refused := _http_fault(request, "create"):
        return refused
    version = (await _json_object(request)).get("version")
    if not isinstance(version, str):
        return _refused_body("version is required")
    model = _by_version(version)
    if model is None:
        return _problem(
            422,
            "The specified version does not exist"
            " (or perhaps you don't have permission to use it?)",
            title="Invalid version or not permitted",
        )
    return await _create(request, model, _BODY_KEYS)


async def _create(request: Request, model: CatalogModel, keys: set[str]) -> Response:
    body = await _json_object(request)
    if unknown := sorted(set(body) - keys):
        return _refused_body(f"Additional property {unknown[0]} is not allowed")
    if "webhook" in body:
        return _problem(501, "The simulator has no webhooks: leave out `webhook` and poll.")
    given = body.get("input")
    if not isinstance(given, dict):
        return _refused_body("input is required")
    if wrong := complaints(model, given):
        return _problem(
            422,
            "".join(f"- {one['field']}: {one['description']}\n" for one in wrong),
            title="Input validation failed",
            invalid_fields=wrong,
        )
    simulator = _simulator(request)
    token = request.headers["authorization"].strip()
    created_by = {"token": token[-4:], "user_agent": request.headers.get("user-agent", "")}
    run = simulator.create(model, given, _cancel_after(request), created_by)
    if lost := simulator.faults.take("create", "lose_answer"):
        if lost.status is not None:
            return _problem(lost.status, "Internal server error")
        return _LostAnswer(lost.seconds or 0.0)
    return _answer(run.view(simulator.clock(), _base_url(request)), 201)


async def _get(request: Request) -> Response:
    return _http_fault(request, "get") or _show(request)


async def _cancel(request: Request) -> Response:
    if refused := _http_fault(request, "cancel"):
        return refused
    simulator = _simulator(request)
    if run := simulator.runs.get(request.path_params["id"]):
        run.cancel(simulator.clock())
    return _show(request)


def _show(request: Request) -> Response:
    simulator = _simulator(request)
    run = simulator.runs.get(request.path_params["id"])
    return _answer(run.view(simulator.clock(), _base_url(request))) if run else _not_found()


async def _list(request: Request) -> Response:
    if refused := _http_fault(request, "list"):
        return refused
    simulator, base = _simulator(request), _base_url(request)
    after, before = (_moment(request, name) for name in ("created_after", "created_before"))
    cursor = request.query_params.get("cursor", "")
    newest = int(cursor) if re.fullmatch("[0-9]{1,18}", cursor) else None
    fitting = [
        run
        for run in reversed(simulator.runs.values())
        if (after is None or run.created >= after)
        and (before is None or run.created < before)
        and (newest is None or run.number < newest)
    ]
    page, more = fitting[:_PAGE], len(fitting) > _PAGE
    following = request.url.include_query_params(cursor=page[-1].number).query if more else None
    now = simulator.clock()
    return _answer(
        {
            "previous": None,
            "next": f"{base}/v1/predictions?{following}" if following else None,
            "results": [run.view(now, base) for run in page],
        }
    )


async def _model(request: Request) -> Response:
    owner, name = request.path_params["owner"], request.path_params["name"]
    model = models().get(f"{owner}/{name}")
    if model is None:
        return _not_found()
    properties = {
        known.name: {
            key: value
            for key, value in known.model_dump(exclude={"name", "required", "unknown"}).items()
            if value is not None
        }
        for known in model.inputs
    }
    schema = {
        "Input": {
            "type": "object",
            "properties": properties,
            "required": [known.name for known in model.inputs if known.required],
        }
    }
    return _answer(
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
    return _answer({"type": "user", "username": "simulator", "name": "Replicate simulator"})


async def _absent(request: Request) -> Response:
    what = f"{request.method} /v1/{request.path_params['rest']}"
    return _problem(501, f"The Replicate simulator does not have {what}.")


async def _file(request: Request) -> Response:
    if refused := _http_fault(request, "file"):
        return refused
    simulator, now = _simulator(request), _simulator(request).clock()
    run = simulator.runs.get(request.path_params["id"])
    match = re.fullmatch(r"out-(\d{1,2})\.(\w+)", request.path_params["name"])
    if run is None or match is None or run.status(now) != "succeeded" or run.removed(now):
        return _not_found()
    spec = run.picture(int(match[1]))
    if int(match[1]) >= run.pictures or spec.format != match[2]:
        return _not_found()
    return Response(await asyncio.to_thread(draw, spec), media_type=MIME_TYPES[spec.format])


async def _faults(request: Request) -> Response:
    simulator = _simulator(request)
    if request.method == "POST":
        try:
            simulator.faults.add(Fault.model_validate_json(await request.body()))
        except pydantic.ValidationError as error:
            return _problem(422, str(error))
    return JSONResponse([fault.model_dump() for fault in simulator.faults])


async def _predictions(request: Request) -> Response:
    simulator, base = _simulator(request), _base_url(request)
    now = simulator.clock()
    return JSONResponse(
        [
            {**run.view(now, base), "created_by": run.created_by, "plan": asdict(run.plan)}
            for run in simulator.runs.values()
        ]
    )


async def _reset(request: Request) -> Response:
    _simulator(request).reset()
    return Response(status_code=204)


def _http_fault(request: Request, call: Call) -> Response | None:
    fault = _simulator(request).faults.take(call, "rate_limit", "server_error", "out_of_credit")
    if fault is None:
        return None
    if fault.kind == "server_error":
        return _problem(fault.status or 500, "Internal server error")
    if fault.kind == "out_of_credit":
        told = (
            "You have insufficient credit to run this model. Go to"
            " https://replicate.com/account/billing#billing to purchase credit."
        )
        return _problem(402, told, title="Insufficient credit")
    response = _problem(429, "Request was throttled.")
    if fault.seconds is not None:
        response.headers["retry-after"] = f"{fault.seconds:g}"
    return response


def _by_version(version: str) -> CatalogModel | None:
    """The model of ``<64 hex>``, ``owner/name:<64 hex>`` or, if it is official, ``owner/name``."""
    if "/" in version and ":" not in version:
        model = models().get(version)
        return model if model is not None and model.official else None
    name, _, pin = version.rpartition(":")
    # Official models hide their version and do not run by it.
    return next(
        (
            model
            for model in models().values()
            if model.version == pin and not model.official and name in ("", model.id)
        ),
        None,
    )


_SPAN = re.compile(r"(?:(\d{1,9})h)?(?:(\d{1,9})m)?(?:(\d{1,9})s?)?")


def _cancel_after(request: Request) -> float | None:
    text = request.headers.get("cancel-after")
    if text is None:
        return None
    match = _SPAN.fullmatch(text.strip())
    hours, minutes, seconds = (int(part or 0) for part in match.groups()) if match else (0, 0, 0)
    span = hours * 3600 + minutes * 60 + seconds
    if span < 5:
        raise HTTPException(400, "Cancel-After must be a duration of at least 5 seconds")
    return float(span)


def _moment(request: Request, name: str) -> float | None:
    text = request.query_params.get(name)
    if text is None:
        return None
    try:
        return pydantic.TypeAdapter(pydantic.AwareDatetime).validate_python(text).timestamp()
    except pydantic.ValidationError:
        raise HTTPException(400, f"{name} must be a date and time with its zone") from None


async def _json_object(request: Request) -> dict[str, Any]:
    try:
        body = json_body.parse(await request.body())
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise HTTPException(400, "The body must be a JSON object")
    return body


def _simulator(request: Request) -> Simulator:
    simulator: Simulator = request.app.state.simulator
    return simulator


def _base_url(request: Request) -> str:
    fixed = _simulator(request).settings.base_url
    return (fixed or f"{request.url.scheme}://{request.url.netloc}").rstrip("/")


def _answer(body: dict[str, Any], status: int = 200) -> Response:
    remaining = "599" if status == 201 else "2999"
    headers = {"ratelimit-remaining": remaining, "ratelimit-reset": "1"}
    return JSONResponse(body, status, headers)


def _problem(status: int, detail: str, **more: Any) -> JSONResponse:
    body = {**more, "detail": detail, "status": status}
    return JSONResponse(body, status, media_type="application/problem+json")


def _problem_of(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for it
    return _problem(error.status_code, error.detail)


def _not_found() -> Response:
    return _problem(404, "The requested resource could not be found.")


def _refused_body(description: str) -> Response:
    field = {"type": "invalid", "field": "", "description": description}
    return _problem(
        422, f"- {description}\n", title="Input validation failed", invalid_fields=[field]
    )

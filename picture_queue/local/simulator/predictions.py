"""The routes of predictions: create, get, list and cancel."""

import asyncio
import re
import time
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from picture_queue.local.simulator.requests import (
    base_url,
    cancel_after,
    json_object,
    read_time,
    simulator_of,
    wait_seconds,
)
from picture_queue.local.simulator.responses import (
    answer,
    not_found,
    problem,
    refused_body,
)
from picture_queue.local.simulator.state import Prediction, Simulator
from picture_queue.local.simulator.validation import find_errors
from picture_queue.local.simulator.versions import can_run_by_name, find_model, find_version
from picture_queue.local.simulator.webhooks import DEFAULT_EVENTS, EVENTS, subscribe
from picture_queue.providers.replicate.catalog import CatalogModel

_PAGE_SIZE = 100
_POLL_INTERVAL = 0.02  # seconds between two checks in a call that waits for the end
_BODY_KEYS = {"input", "version", "stream", "webhook", "webhook_events_filter"}


async def create_official(request: Request) -> Response:
    """``POST /models/{owner}/{name}/predictions``."""
    model = find_model(request.path_params["owner"], request.path_params["name"])
    if model is None or not can_run_by_name(model):
        return not_found()
    return await _create(request, await json_object(request), model, _BODY_KEYS - {"version"})


async def create_by_version(request: Request) -> Response:
    """``POST /predictions``."""
    body = await json_object(request)
    version = body.get("version")
    if not isinstance(version, str):
        return refused_body("version is required")
    model = find_version(version)
    if model is None:
        return problem(
            422,
            "The specified version does not exist"
            " (or perhaps you don't have permission to use it?)",
            title="Invalid version or not permitted",
        )
    return await _create(request, body, model, _BODY_KEYS)


async def _create(
    request: Request, body: dict[str, Any], model: CatalogModel, keys: set[str]
) -> Response:
    if unknown := sorted(set(body) - keys):
        return refused_body(f"Additional property {unknown[0]} is not allowed")
    if webhook_error := _find_webhook_error(body):
        return refused_body(webhook_error)
    inputs = body.get("input")
    if not isinstance(inputs, dict):
        return refused_body("input is required")
    if errors := find_errors(model, inputs):
        return problem(
            422,
            "".join(f"- {error['field']}: {error['description']}\n" for error in errors),
            title="Input validation failed",
            invalid_fields=errors,
        )
    simulator = simulator_of(request)
    token = request.headers["authorization"].strip()
    created_by = {"token": token[-4:], "user_agent": request.headers.get("user-agent", "")}
    prediction = simulator.create(model, inputs, cancel_after(request), created_by)
    if url := body.get("webhook"):
        events = body.get("webhook_events_filter") or DEFAULT_EVENTS
        if subscription := subscribe(url, tuple(events), simulator.faults):
            request.app.state.webhooks.send(prediction, subscription, base_url(request))
    request.app.state.inputs.read(prediction, base_url(request))
    seconds = wait_seconds(request)
    has_ended = seconds is not None and await _wait(simulator, prediction, seconds)
    response = prediction.as_json(simulator.clock(), base_url(request))
    if seconds is None:
        return answer(response, 201)
    if not has_ended:
        # When the wait is over, Replicate shows a prediction as `starting` even if it runs.
        return answer(response | {"status": "starting"}, 202)
    if output := response["output"]:
        files = await request.app.state.pictures.data_uris(prediction)
        response["output"] = files if isinstance(output, list) else files[0]
    return answer(response, 201)


async def _wait(simulator: Simulator, prediction: Prediction, seconds: float) -> bool:
    """Wait until a prediction has ended; return False if it has not ended in time."""
    deadline = time.monotonic() + seconds
    # Poll, because no code runs at the end of a prediction that could set an event.
    while prediction.ended_at(simulator.clock()) is None and time.monotonic() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(_POLL_INTERVAL)
    return prediction.ended_at(simulator.clock()) is not None


def _find_webhook_error(body: dict[str, Any]) -> str | None:
    """Return the error in the webhook of a request; None if there is no error."""
    url, events = body.get("webhook"), body.get("webhook_events_filter")
    if url is not None and not (isinstance(url, str) and re.match(r"https?://[^\s/]", url)):
        return "webhook must be an HTTPS URL"
    if events is not None and not (
        isinstance(events, list) and set(map(str, events)) <= set(EVENTS)
    ):
        return f"webhook_events_filter must be a list of {', '.join(EVENTS)}"
    return None


async def get(request: Request) -> Response:
    """``GET /predictions/{id}``."""
    return _show(request)


async def cancel(request: Request) -> Response:
    """``POST /predictions/{id}/cancel``."""
    simulator = simulator_of(request)
    if prediction := simulator.predictions.get(request.path_params["id"]):
        prediction.cancel(simulator.clock())
    return _show(request)


def _show(request: Request) -> Response:
    simulator = simulator_of(request)
    prediction = simulator.predictions.get(request.path_params["id"])
    return (
        answer(prediction.as_json(simulator.clock(), base_url(request)))
        if prediction
        else not_found()
    )


async def list_all(request: Request) -> Response:
    """``GET /predictions``."""
    simulator, base = simulator_of(request), base_url(request)
    after, before = (read_time(request, name) for name in ("created_after", "created_before"))
    cursor = request.query_params.get("cursor", "")
    # Predictions are listed newest first. The cursor is the number of the last one shown.
    last_number = int(cursor) if re.fullmatch("[0-9]{1,18}", cursor) else None
    matching = [
        prediction
        for prediction in reversed(simulator.predictions.values())
        if (after is None or prediction.created >= after)
        and (before is None or prediction.created < before)
        and (last_number is None or prediction.number < last_number)
    ]
    page, has_more = matching[:_PAGE_SIZE], len(matching) > _PAGE_SIZE
    next_query = (
        request.url.include_query_params(cursor=page[-1].number).query if has_more else None
    )
    now = simulator.clock()
    return answer(
        {
            "previous": None,
            "next": f"{base}/v1/predictions?{next_query}" if next_query else None,
            "results": [prediction.as_json(now, base) for prediction in page],
        }
    )

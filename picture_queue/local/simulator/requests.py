"""Parsing of requests to the simulator."""

import re
from typing import Any

import pydantic
from starlette.exceptions import HTTPException
from starlette.requests import Request

from picture_queue.local import json_body
from picture_queue.local.simulator.state import Simulator

_WAIT = re.compile(r"wait(?:=(\d{1,3}))?")
_DURATION = re.compile(r"(?:(\d{1,9})h)?(?:(\d{1,9})m)?(?:(\d{1,9})s?)?")


def simulator_of(request: Request) -> Simulator:
    """Return the simulator of a request's app."""
    simulator: Simulator = request.app.state.simulator
    return simulator


def base_url(request: Request) -> str:
    """Return the URL of the simulator, without a slash at the end."""
    fixed = simulator_of(request).settings.base_url
    return (fixed or f"{request.url.scheme}://{request.url.netloc}").rstrip("/")


async def json_object(request: Request) -> dict[str, Any]:
    """Return the body of a request, a JSON object.

    Raises:
        HTTPException: The body is not a JSON object.
        BodyTooLarge: The body is larger than 1 MiB.
    """
    try:
        body = json_body.parse(await json_body.receive(request))
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise HTTPException(400, "The body must be a JSON object")
    return body


def read_time(request: Request, name: str) -> float | None:
    """Return a time in the query string as Unix time; None if it is missing.

    Raises:
        HTTPException: The value is not a date and time with a time zone.
    """
    text = request.query_params.get(name)
    if text is None:
        return None
    try:
        return pydantic.TypeAdapter(pydantic.AwareDatetime).validate_python(text).timestamp()
    except pydantic.ValidationError:
        raise HTTPException(400, f"{name} must be a date and time with a time zone") from None


def cancel_after(request: Request) -> float | None:
    """Return the header ``Cancel-After`` in seconds; None if it is missing.

    Raises:
        HTTPException: The value is not a duration, or is below 5 seconds.
    """
    text = request.headers.get("cancel-after")
    if text is None:
        return None
    match = _DURATION.fullmatch(text.strip())
    hours, minutes, seconds = (int(part or 0) for part in match.groups()) if match else (0, 0, 0)
    total = hours * 3600 + minutes * 60 + seconds
    if total < 5:
        raise HTTPException(400, "Cancel-After must be a duration of at least 5 seconds")
    return float(total)


def wait_seconds(request: Request) -> float | None:
    """Return the seconds of the header ``Prefer: wait``; None if the client does not wait."""
    match = _WAIT.fullmatch(request.headers.get("prefer", "").strip())
    return None if match is None else min(60.0, float(match[1] or 60))

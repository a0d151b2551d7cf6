"""The simulator's answers, with the texts of Replicate."""

import asyncio
import contextlib
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from picture_queue.local.simulator.faults import Call
from picture_queue.local.simulator.requests import simulator_of


def answer(body: dict[str, Any], status: int = 200) -> Response:
    """Return an answer with the rate limit headers."""
    remaining = "599" if status == 201 else "2999"
    headers = {"ratelimit-remaining": remaining, "ratelimit-reset": "1"}
    return JSONResponse(body, status, headers)


def problem(status: int, detail: str, **more: Any) -> JSONResponse:
    """Return an error document."""
    body = {**more, "detail": detail, "status": status}
    return JSONResponse(body, status, media_type="application/problem+json")


def translate_http_error(request: Request, error: Exception) -> Response:
    """Return the error document of an HTTP exception."""
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for this class
    return problem(error.status_code, error.detail)


def refuse_large_body(request: Request, error: Exception) -> Response:
    """Return the error document of a body with too many bytes."""
    return problem(413, str(error))


def not_found() -> Response:
    """Return the answer for an unknown resource."""
    return problem(404, "The requested resource could not be found.")


def refused_body(description: str) -> Response:
    """Return the answer for an invalid body."""
    field = {"type": "invalid", "field": "", "description": description}
    return problem(
        422, f"- {description}\n", title="Input validation failed", invalid_fields=[field]
    )


def http_fault(request: Request, call: Call) -> Response | None:
    """Return the answer of a fault that applies to this call; None if there is no fault."""
    fault = simulator_of(request).faults.take(call, "rate_limit", "server_error", "out_of_credit")
    if fault is None:
        return None
    if fault.kind == "server_error":
        return problem(fault.status or 500, "Internal server error")
    if fault.kind == "out_of_credit":
        detail = (
            "You have insufficient credit to run this model. Go to"
            " https://replicate.com/account/billing#billing to purchase credit."
        )
        return problem(402, detail, title="Insufficient credit")
    response = problem(429, "Request was throttled.")
    if fault.seconds is not None:
        response.headers["retry-after"] = f"{fault.seconds:g}"
    return response


class LostAnswer(Response):
    """An answer that breaks off after its head, like a lost connection."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._seconds):
                # The request has been read, so the next message is the disconnect of the client.
                await receive()
                return
        await send(
            {
                "type": "http.response.start",
                "status": 201,
                "headers": [(b"content-type", b"application/json"), (b"content-length", b"4096")],
            }
        )

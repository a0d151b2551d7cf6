"""The simulator's answers, with the error texts of Replicate."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from picture_queue.local.simulator.faults import Call
from picture_queue.local.simulator.requests import simulator_of

Handler = Callable[[Request], Awaitable[Response]]

_WEB_PAGE = "<!doctype html><title>Sign in</title><p>Please sign in to use this network."


def answer(body: dict[str, Any], status: int = 200) -> Response:
    """Return an answer with the rate limit headers."""
    remaining = "599" if status == 201 else "2999"
    headers = {"ratelimit-remaining": remaining, "ratelimit-reset": "1"}
    return JSONResponse(body, status, headers)


def problem(status: int, detail: str, **fields: Any) -> JSONResponse:
    """Return an error document (RFC 9457, Problem Details) with further fields."""
    body = {**fields, "detail": detail, "status": status}
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


def with_faults(call: Call, handler: Handler) -> Handler:
    """Wrap the handler of a call, so that the faults of the call apply."""

    async def handle(request: Request) -> Response:
        if refusal := _refuse_call(request, call):
            return refusal
        response = await handler(request)
        if response.status_code >= 300:
            return response
        return _replace_response(request, call, response)

    return handle


def _refuse_call(request: Request, call: Call) -> Response | None:
    """Return the answer of a fault that prevents the call; None if no such fault is on."""
    fault = simulator_of(request).faults.take(
        call, "rate_limit", "server_error", "client_error", "out_of_credit"
    )
    if fault is None:
        return None
    if fault.kind == "server_error":
        return problem(fault.status or 500, "Internal server error")
    if fault.kind == "client_error":
        return problem(fault.status or 404, "The request could not be handled.")
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


def _replace_response(request: Request, call: Call, response: Response) -> Response:
    """Return the answer of a fault instead of a call's own; without a fault, return the call's."""
    fault = simulator_of(request).faults.take(call, "lose_answer", "html", "cut_body")
    if fault is None:
        return response
    if fault.kind == "html":
        return Response(_WEB_PAGE, media_type="text/html")
    if fault.kind == "cut_body":
        return CutAnswer(response)
    if fault.status is not None:
        return problem(fault.status, "Internal server error")
    return LostAnswer(fault.seconds or 0.0)


class LostAnswer(Response):
    """An answer that breaks off after its head, as when the connection is lost.

    Args:
        seconds: Seconds before the head is sent.
    """

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


class CutAnswer(Response):
    """An answer that breaks off after half of its body.

    Args:
        response: The complete answer.
    """

    def __init__(self, response: Response) -> None:
        super().__init__()
        self._response = response

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        response, body = self._response, bytes(self._response.body)
        head = {
            "type": "http.response.start",
            "status": response.status_code,
            "headers": response.raw_headers,
        }
        await send(head)
        half = body[: len(body) // 2]
        await send({"type": "http.response.body", "body": half, "more_body": True})

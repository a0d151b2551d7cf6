"""Images are stored after a single invalid response of Replicate or of its file host."""

import logging
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from picture_queue.providers import errors
from picture_queue.worker import PermanentFailure, RateLimited, Retry

from .world import FakeJobContext, World, assert_paid_once, raises_verdict


class _FaultyTransport(httpx.AsyncBaseTransport):
    """A transport that answers a number of matching requests with a fixed response."""

    def __init__(
        self,
        transport: httpx.AsyncBaseTransport,
        matches: Callable[[httpx.Request], bool],
        times: int,
        status: int,
        **content: Any,
    ) -> None:
        self._transport, self._matches, self._times = transport, matches, times
        self._status, self._content = status, content

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if self._times > 0 and self._matches(request):
            self._times -= 1
            return httpx.Response(self._status, request=request, **self._content)
        return await self._transport.handle_async_request(request)


def _is_read(request: httpx.Request) -> bool:
    return request.method == "GET" and request.url.path.startswith("/v1/predictions/")


def _is_create(request: httpx.Request) -> bool:
    return request.method == "POST" and request.url.path.endswith("/predictions")


def _is_download(request: httpx.Request) -> bool:
    return request.method == "GET" and not request.url.path.startswith(("/v1", "/_simulator"))


_OTHER = {"id": "other", "status": "failed", "created_at": "2026-01-01T00:00:00Z"}


@pytest.mark.parametrize("status", [302, 400, 401, 403, 404, 409])
@pytest.mark.parametrize("matches", [_is_read, _is_download], ids=["read", "download"])
async def test_a_single_error_response_loses_no_image(
    world: World, matches: Any, status: int
) -> None:
    world.http._transport = _FaultyTransport(
        world.http._transport, matches, 1, status, json={"detail": "unexpected"}
    )
    generation = world.generation(num_outputs=2)
    await world.run(generation)
    await assert_paid_once(world, generation)


async def test_an_html_page_in_place_of_an_image_loses_no_image(world: World) -> None:
    world.http._transport = _FaultyTransport(
        world.http._transport, _is_download, 1, 200, text="<html>Sign in"
    )
    generation = world.generation(num_outputs=2)
    await world.run(generation)
    await assert_paid_once(world, generation)


async def test_a_prediction_with_another_id_is_ignored(world: World) -> None:
    world.http._transport = _FaultyTransport(world.http._transport, _is_read, 1, 200, json=_OTHER)
    generation = world.generation(num_outputs=2)
    await world.run(generation)
    await assert_paid_once(world, generation)


@pytest.mark.parametrize(
    ("matches", "status", "verdict", "kind", "state"),
    [
        (_is_read, 401, RateLimited, errors.Unauthorized, "created"),
        (_is_read, 403, Retry, errors.Forbidden, "created"),
        (_is_read, 404, PermanentFailure, errors.OutputExpired, "lost"),
        (_is_download, 403, PermanentFailure, errors.OutputError, "failed"),
        (_is_download, 404, PermanentFailure, errors.OutputExpired, "failed"),
    ],
)
async def test_a_repeated_error_response_ends_the_attempt(
    world: World,
    matches: Any,
    status: int,
    verdict: type[Exception],
    kind: type[errors.ProviderError],
    state: str,
) -> None:
    world.http._transport = _FaultyTransport(world.http._transport, matches, 99, status)
    with raises_verdict(verdict, kind):
        await world.run(world.generation())
    assert [row.state for row in world.db.predictions] == [state]


@pytest.mark.parametrize(
    ("status", "verdict", "kind"),
    [(401, RateLimited, errors.Unauthorized), (403, Retry, errors.Forbidden)],
)
async def test_a_create_with_a_refused_token_does_not_fail_the_job_for_good(
    world: World, status: int, verdict: type[Exception], kind: type[errors.ProviderError]
) -> None:
    """Check that the job waits until the operator replaces the token, or uses another attempt."""
    world.http._transport = _FaultyTransport(
        world.http._transport, _is_create, 1, status, json={"detail": "unexpected"}
    )
    generation = world.generation()
    with raises_verdict(verdict, kind) as raised:
        await world.run(generation)
    if isinstance(raised.verdict, RateLimited):
        assert raised.verdict.key == "provider:replicate", "all jobs of the provider would fail"
    assert [row.state for row in world.db.predictions] == ["failed"]
    await world.run(generation)
    assert len(await world.paid()) == 1


class _UnreachableLog(logging.Handler):
    """A logging handler of the caller that cannot reach its log server."""

    def emit(self, record: logging.LogRecord) -> None:
        raise ConnectionError("the log server is down")


async def test_a_logging_handler_that_raises_loses_no_image(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(logging.getLogger("picture_queue"), "handlers", [_UnreachableLog()])
    world.http._transport = _FaultyTransport(
        world.http._transport, _is_read, 1, 403, json={"detail": "unexpected"}
    )
    generation = world.generation(num_outputs=2)
    await world.run(generation)
    await assert_paid_once(world, generation)
    assert "ConnectionError: the log server is down" in capsys.readouterr().err


@pytest.mark.parametrize("status", [400, 404, 409])
async def test_a_refused_create_is_retried_once(world: World, status: int) -> None:
    world.http._transport = _FaultyTransport(
        world.http._transport, _is_create, 2, status, json={"detail": "unexpected"}
    )
    generation = world.generation(num_outputs=2)
    with pytest.raises(Retry):
        await world.run(generation)
    with pytest.raises(PermanentFailure):
        await world.run(generation, FakeJobContext(attempt=2))
    await world.run(generation)
    assert len(await world.paid()) == 1

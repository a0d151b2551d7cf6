"""A single invalid response of Replicate, or of its file host, loses no paid image."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from picture_queue.providers.replicate import errors
from picture_queue.worker import PermanentFailure

from .world import World, assert_paid_once, raises_verdict


class _FaultyTransport(httpx.AsyncBaseTransport):
    """A transport that answers a number of matching requests itself."""

    def __init__(
        self,
        behind: httpx.AsyncBaseTransport,
        matches: Callable[[httpx.Request], bool],
        times: int,
        status: int,
        **content: Any,
    ) -> None:
        self._behind, self._matches, self._times = behind, matches, times
        self._status, self._content = status, content

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if self._times > 0 and self._matches(request):
            self._times -= 1
            return httpx.Response(self._status, request=request, **self._content)
        return await self._behind.handle_async_request(request)


def _is_read(request: httpx.Request) -> bool:
    return request.method == "GET" and request.url.path.startswith("/v1/predictions/")


def _is_download(request: httpx.Request) -> bool:
    return request.method == "GET" and not request.url.path.startswith(("/v1", "/_simulator"))


_OTHER = {"id": "other", "status": "failed", "created_at": "2026-01-01T00:00:00Z"}


@pytest.mark.parametrize("status", [302, 400, 401, 403, 404, 409])
@pytest.mark.parametrize("matches", [_is_read, _is_download], ids=["read", "download"])
async def test_a_single_refusal_loses_no_image(world: World, matches: Any, status: int) -> None:
    world.http._transport = _FaultyTransport(
        world.http._transport, matches, 1, status, json={"detail": "odd"}
    )
    generation = world.generation(num_outputs=2)
    await world.run(generation)
    await assert_paid_once(world, generation)


async def test_a_html_page_in_place_of_an_image_loses_no_image(world: World) -> None:
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
    ("matches", "status", "kind", "state"),
    [
        (_is_read, 403, errors.Unauthorized, "created"),
        (_is_read, 404, errors.OutputExpired, "lost"),
        (_is_download, 403, errors.OutputError, "failed"),
        (_is_download, 404, errors.OutputExpired, "failed"),
    ],
)
async def test_a_repeated_refusal_fails_the_job(
    world: World, matches: Any, status: int, kind: type[errors.ReplicateError], state: str
) -> None:
    world.http._transport = _FaultyTransport(world.http._transport, matches, 99, status)
    with raises_verdict(PermanentFailure, kind):
        await world.run(world.generation())
    assert [row.state for row in world.db.rows] == [state]

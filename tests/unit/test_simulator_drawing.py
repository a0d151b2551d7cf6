"""The threads of the simulator's drawings, and the cache of the files."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from picture_queue.local.gateway.auth.passwords import hash_password
from picture_queue.local.simulator import SimulatorSettings, drawing, outputs
from picture_queue.local.simulator.drawing import DrawingPool

from ..simulator import Clock, open_simulator


class BlockedDraw:
    """A stand-in for `draw`. Each call waits until the test calls `release`."""

    def __init__(self) -> None:
        self.calls: list[object] = []
        self.has_started = threading.Event()
        self._released = threading.Event()

    def __call__(self, spec: object) -> bytes:
        self.calls.append(spec)
        self.has_started.set()
        assert self._released.wait(60)
        return b"picture"

    def release(self) -> None:
        self._released.set()


@contextmanager
def blocked_draw() -> Iterator[BlockedDraw]:
    draw = BlockedDraw()
    try:
        yield draw
    finally:
        draw.release()  # also after a failure, since the interpreter waits for the threads


@pytest.fixture
async def output(request: Any) -> AsyncIterator[tuple[httpx.AsyncClient, str]]:
    """Yield a client of a simulator, and the URL of an output that has not been drawn."""
    clock, headers = Clock(), {"authorization": "Bearer r8_test"}
    settings = SimulatorSettings(base_url="http://simulator/", token="r8_test")
    async with open_simulator(settings, clock, headers, "http://simulator") as http:
        path = "/v1/models/black-forest-labs/flux-schnell/predictions"
        created = (await http.post(path, json={"input": {"prompt": "a boat"}})).json()
        clock.now += 60
        finished = (await http.get(created["urls"]["get"])).json()
        yield http, finished["output"][0]


async def wait_until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - no event is set for some of the conditions
            await asyncio.sleep(0)


async def test_drawings_leave_the_default_executor_to_auth(output, monkeypatch):
    http, url = output
    with blocked_draw() as draw, ThreadPoolExecutor(1) as one_thread:
        monkeypatch.setattr(outputs, "draw", draw)
        asyncio.get_running_loop().set_default_executor(one_thread)
        download = asyncio.create_task(http.get(url))
        await wait_until(draw.has_started.is_set)
        async with asyncio.timeout(30):
            assert await hash_password("password-1234")
        draw.release()
        assert (await download).content == b"picture"


async def test_downloads_of_an_output_share_one_drawing(output, monkeypatch):
    http, url = output
    with blocked_draw() as draw:
        monkeypatch.setattr(outputs, "draw", draw)
        downloads = [asyncio.create_task(http.get(url)) for _ in range(3)]
        await wait_until(draw.has_started.is_set)
        draw.release()
        answers = [await download for download in downloads]
        answers.append(await http.get(url))
    assert [answer.content for answer in answers] == [b"picture"] * 4
    assert len(draw.calls) == 1


async def test_a_drawing_ends_if_its_only_client_has_gone_away(output, monkeypatch):
    http, url = output
    app, sent = http._transport.app, []

    async def disconnect() -> dict[str, str]:
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    path = httpx.URL(url).path
    scope = {"type": "http", "method": "GET", "path": path, "raw_path": path.encode()}
    scope |= {"headers": [(b"host", b"simulator")], "query_string": b"", "root_path": ""}
    with blocked_draw() as draw:
        monkeypatch.setattr(outputs, "draw", draw)
        async with asyncio.timeout(30):
            await app(scope, disconnect, send)
    assert sent[0]["status"] == 400


async def test_a_drawing_that_has_not_started_is_dropped_with_its_last_caller():
    pool = DrawingPool()
    with blocked_draw() as draw:
        running = [
            asyncio.create_task(pool.draw(n, lambda n=n: draw(n)))
            for n in range(drawing._MAX_DRAWINGS)
        ]
        unwanted = [asyncio.create_task(pool.draw("unwanted", lambda: draw("x"))) for _ in "ab"]
        await wait_until(lambda: "unwanted" in pool._drawings)
        for caller in unwanted:
            caller.cancel()
        await asyncio.wait(unwanted)
        assert "unwanted" not in pool._drawings
        draw.release()
        await asyncio.gather(*running)
        # The calls run in the order of their submission.
        assert await pool.draw("wanted", lambda: draw("wanted")) == b"picture"
    assert set(draw.calls) == {*range(drawing._MAX_DRAWINGS), "wanted"}


async def test_a_caller_that_leaves_takes_the_drawing_from_no_other_caller():
    pool = DrawingPool()
    with blocked_draw() as draw:
        first, second = (asyncio.create_task(pool.draw("a", lambda: draw("a"))) for _ in "ab")
        await wait_until(draw.has_started.is_set)
        first.cancel()
        draw.release()
        assert await second == b"picture"
    assert len(draw.calls) == 1


async def test_a_failed_drawing_is_tried_again():
    pool = DrawingPool()

    def fail() -> bytes:
        raise OSError("no memory")

    with pytest.raises(OSError, match="no memory"):
        await pool.draw("a", fail)
    assert await pool.draw("a", lambda: b"picture") == b"picture"


async def test_the_cache_keeps_the_newest_files_within_its_size(monkeypatch):
    monkeypatch.setattr(drawing, "_MAX_CACHED_BYTES", 10)
    pool, drawn = DrawingPool(), []

    def draw(name: str) -> bytes:
        drawn.append(name)
        return b"1234"

    for name in "abacb":  # "c" takes the place of "b", since "a" was used later
        assert await pool.draw(name, lambda name=name: draw(name)) == b"1234"
    assert drawn == ["a", "b", "c", "b"]
    assert sum(map(len, pool._files.values())) == pool._cached_bytes <= 10

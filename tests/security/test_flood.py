"""One client's flood reaches the limits of nobody else."""

import asyncio
from typing import Any

import asyncpg
import httpx
import pytest
import websockets

from picture_queue.local.gateway import RealtimeLimits
from picture_queue.local.gateway.realtime import limits
from picture_queue.local.gateway.realtime.limits import SharedRate
from tests.integration.conftest import Platform, new_platform, platform  # noqa: F401 - fixtures
from tests.security.line import Line, dial
from tests.security.world import World


@pytest.fixture
def second(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second that does not end."""
    monkeypatch.setattr(limits, "monotonic", lambda: 100.0)


@pytest.fixture
def served(platform: Platform, second: None) -> Any:  # noqa: F811
    """A gateway that allows five messages, and eight joins, in this second."""
    most = RealtimeLimits(messages_per_second=5, joins_per_second=8)
    with platform.serve(realtime_limits=most) as url:
        yield url


async def flood(url: str, key: str) -> None:
    """Broadcasts with nothing but the publishable key until the server closes the channel."""
    async with dial(url, key) as line:
        assert await line.join("flooded", key, private=False) is None
        sent = [await line.broadcast("flooded", "e") for _ in range(6)]
        assert not sent[-1]
        assert [frame["event"] for frame in line.heard] == ["system", "phx_close"]


async def send(platform: Platform, event: str) -> None:  # noqa: F811
    """Send an event to the topic `quiet`, as the queue does."""
    async with platform.connect() as sql:
        await sql.execute("select realtime.send('{}', $1, 'quiet', false)", event)


async def test_a_flood_of_broadcasts_hides_no_event_of_the_database(
    served: str,
    platform: Platform,  # noqa: F811
):
    key = platform.settings.anon_key
    async with dial(served, key) as line:
        assert await line.join("quiet", key, private=False) is None
        await flood(served, key)
        await flood(served, key)
        for n in range(5):
            await send(platform, f"event {n}")
            await line.until(f"event {n}")


async def test_a_flood_over_http_hides_no_event_of_the_database(
    served: str,
    platform: Platform,  # noqa: F811
):
    key = platform.settings.publishable_key
    async with dial(served, key) as line, httpx.AsyncClient(base_url=served) as http:
        assert await line.join("quiet", key, private=False) is None
        for status in (202, 429):
            answer = await http.post(
                "/realtime/v1/api/broadcast",
                json={"messages": [{"topic": "a", "event": "e", "payload": {}}] * 5},
                headers={"apikey": key},
            )
            assert answer.status_code == status
        await send(platform, "event")
        await line.until("event")


async def test_a_flood_of_broadcasts_closes_no_other_channel(
    served: str,
    platform: Platform,  # noqa: F811
):
    key = platform.settings.anon_key
    async with dial(served, key) as line, httpx.AsyncClient(base_url=served) as http:
        assert await line.join("quiet", key, private=False) is None
        await flood(served, key)
        assert await line.broadcast("quiet", "one")
        answer = await http.post(
            "/realtime/v1/api/broadcast",
            json={"messages": [{"topic": "quiet", "event": "two", "payload": {}}]},
            headers={"apikey": platform.settings.secret_key},
        )
        assert answer.status_code == 202
        await line.until("two")


async def test_a_flood_of_joins_keeps_nobody_out(served: str, platform: Platform):  # noqa: F811
    key = platform.settings.anon_key
    async with dial(served, key) as flooding, dial(served, key) as line:
        refused = [await flooding.join(f"t{n}", key, private=False) for n in range(9)]
        assert refused[-1] is not None and "ClientJoinRateLimitReached" in refused[-1]
        assert await line.join("quiet", key, private=False) is None


async def test_events_of_one_topic_hide_no_other(served: str, platform: Platform):  # noqa: F811
    key = platform.settings.anon_key
    async with dial(served, key) as line:
        for topic in ("busy", "quiet"):
            assert await line.join(topic, key, private=False) is None
        async with platform.connect() as sql:
            await sql.execute(
                "select realtime.send('{}', 'e', 'busy', false) from generate_series(1, 10)"
            )
        await send(platform, "event")
        await line.until("event")


async def test_half_a_character_ends_the_sender_and_nobody_else(world: World, arena: Any):
    async with dial(arena.api_url, arena.publishable_key) as line:
        assert await line.join("shared", arena.publishable_key, private=False) is None
        for text in ('"\\ud800"', "NaN", "1e999", "[" * 5000 + "]" * 5000, "9" * 5000):
            frame = (
                '{"topic": "realtime:shared", "event": "broadcast", "ref": null, "payload":'
                f' {{"type": "broadcast", "event": "odd", "payload": {{"a": {text}}}}}}}'
            )
            async with dial(arena.api_url, arena.publishable_key) as sender:
                assert await sender.join("shared", arena.publishable_key, private=False) is None
                with pytest.raises(websockets.ConnectionClosed):
                    await sender._socket.send(frame)
                    async with asyncio.timeout(15):
                        while True:
                            await sender._socket.recv()
            await expect_open(line)


async def expect_open(line: Line) -> None:
    """A channel is joined still, and hears its own broadcasts acknowledged."""
    assert await line.broadcast("shared", "still here")


async def test_an_odd_notification_of_the_database_hides_no_other(
    world: World, admin: "asyncpg.Connection[asyncpg.Record]", arena: Any
):
    """Everybody who may speak SQL may NOTIFY."""
    owner = world.users["owner"]
    async with dial(arena.api_url, arena.publishable_key) as line:
        assert await line.join(f"pq:user:{owner}", world.tokens["owner"]) is None
        for n, note in enumerate(("[" * 7000, "nonsense", '{"topic": 1}', '{"id": 1}', "9" * 7000)):
            # One statement each: the events follow at once.
            await admin.execute("select pg_notify('realtime_messages', $1)", note)
            await admin.execute(
                "select realtime.send('{}', $1, $2, true)", f"odd {n}", f"pq:user:{owner}"
            )
            await line.until(f"odd {n}")


def test_whoever_used_a_limit_up_leaves_others_their_share(monkeypatch: pytest.MonkeyPatch):
    now = 100.0
    monkeypatch.setattr(limits, "monotonic", lambda: now)
    rate = SharedRate(10)
    assert [rate.take("a") for _ in range(12)] == [True] * 10 + [False] * 2
    assert [rate.take("b") for _ in range(6)] == [True] * 5 + [False]
    assert [rate.take("c", 2) for _ in range(2)] == [True, False]
    assert not rate.take("a")
    now += 1
    assert rate.take("a", 10) and not rate.take("a")


def test_nothing_may_be_taken_of_nothing():
    assert not SharedRate(0).take("a")

"""Rate limits of Realtime: a flood from one client does not affect other clients."""

import asyncio
from typing import Any

import asyncpg
import httpx
import pytest
import websockets

from picture_queue.local.gateway import RealtimeLimits
from picture_queue.local.gateway.realtime import limits
from picture_queue.local.gateway.realtime.limits import FairRateLimit
from tests.integration.conftest import Platform, new_platform, platform  # noqa: F401 - fixtures
from tests.security.realtime_socket import RealtimeSocket, open_socket
from tests.security.sample_project import SampleProject


@pytest.fixture
def frozen_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop the clock, so that the first second of the rate limit does not end."""
    monkeypatch.setattr(limits, "monotonic", lambda: 100.0)


@pytest.fixture
def served(platform: Platform, frozen_clock: None) -> Any:  # noqa: F811
    """A gateway that permits five messages, and eight joins, in the frozen second."""
    limits = RealtimeLimits(messages_per_second=5, joins_per_second=8)
    with platform.serve(realtime_limits=limits) as url:
        yield url


async def flood(url: str, key: str) -> None:
    """Send broadcasts with only the publishable key until the server closes the channel."""
    async with open_socket(url, key) as socket:
        assert await socket.join("flooded", key, private=False) is None
        sent = [await socket.broadcast("flooded", "e") for _ in range(6)]
        assert not sent[-1]
        assert [frame["event"] for frame in socket.messages] == ["system", "phx_close"]


async def send(platform: Platform, event: str) -> None:  # noqa: F811
    """Send an event to the topic `quiet`, as the queue does."""
    async with platform.connect() as sql:
        await sql.execute("select realtime.send('{}', $1, 'quiet', false)", event)


async def test_a_flood_of_broadcasts_does_not_drop_events_of_the_database(
    served: str,
    platform: Platform,  # noqa: F811
):
    key = platform.settings.anon_key
    async with open_socket(served, key) as socket:
        assert await socket.join("quiet", key, private=False) is None
        await flood(served, key)
        await flood(served, key)
        for n in range(5):
            await send(platform, f"event {n}")
            await socket.receive_until(f"event {n}")


async def test_a_flood_over_http_does_not_drop_events_of_the_database(
    served: str,
    platform: Platform,  # noqa: F811
):
    key = platform.settings.publishable_key
    async with open_socket(served, key) as socket, httpx.AsyncClient(base_url=served) as http:
        assert await socket.join("quiet", key, private=False) is None
        for status in (202, 429):
            answer = await http.post(
                "/realtime/v1/api/broadcast",
                json={"messages": [{"topic": "a", "event": "e", "payload": {}}] * 5},
                headers={"apikey": key},
            )
            assert answer.status_code == status
        await send(platform, "event")
        await socket.receive_until("event")


async def test_a_flood_of_broadcasts_closes_no_other_channel(
    served: str,
    platform: Platform,  # noqa: F811
):
    key = platform.settings.anon_key
    async with open_socket(served, key) as socket, httpx.AsyncClient(base_url=served) as http:
        assert await socket.join("quiet", key, private=False) is None
        await flood(served, key)
        assert await socket.broadcast("quiet", "one")
        answer = await http.post(
            "/realtime/v1/api/broadcast",
            json={"messages": [{"topic": "quiet", "event": "two", "payload": {}}]},
            headers={"apikey": platform.settings.secret_key},
        )
        assert answer.status_code == 202
        await socket.receive_until("two")


async def test_a_flood_of_joins_does_not_block_other_clients(served: str, platform: Platform):  # noqa: F811
    key = platform.settings.anon_key
    async with open_socket(served, key) as flooding, open_socket(served, key) as socket:
        refused = [await flooding.join(f"t{n}", key, private=False) for n in range(9)]
        assert refused[-1] is not None and "ClientJoinRateLimitReached" in refused[-1]
        assert await socket.join("quiet", key, private=False) is None


async def test_many_events_of_one_topic_do_not_drop_events_of_another_topic(
    served: str,
    platform: Platform,  # noqa: F811
):
    key = platform.settings.anon_key
    async with open_socket(served, key) as socket:
        for topic in ("busy", "quiet"):
            assert await socket.join(topic, key, private=False) is None
        async with platform.connect() as sql:
            await sql.execute(
                "select realtime.send('{}', 'e', 'busy', false) from generate_series(1, 10)"
            )
        await send(platform, "event")
        await socket.receive_until("event")


async def test_a_malformed_frame_closes_only_the_socket_of_its_sender(
    project: SampleProject, sandbox: Any
):
    async with open_socket(sandbox.api_url, sandbox.publishable_key) as socket:
        assert await socket.join("shared", sandbox.publishable_key, private=False) is None
        for text in ('"\\ud800"', "NaN", "1e999", "[" * 5000 + "]" * 5000, "9" * 5000):
            frame = (
                '{"topic": "realtime:shared", "event": "broadcast", "ref": null, "payload":'
                f' {{"type": "broadcast", "event": "odd", "payload": {{"a": {text}}}}}}}'
            )
            async with open_socket(sandbox.api_url, sandbox.publishable_key) as sender:
                assert await sender.join("shared", sandbox.publishable_key, private=False) is None
                with pytest.raises(websockets.ConnectionClosed):
                    await sender._socket.send(frame)
                    async with asyncio.timeout(15):
                        while True:
                            await sender._socket.recv()
            await expect_open(socket)


async def expect_open(socket: RealtimeSocket) -> None:
    """Check that a channel is still joined: the server acknowledges its broadcast."""
    assert await socket.broadcast("shared", "still here")


async def test_a_malformed_notification_does_not_drop_events(
    project: SampleProject, admin: "asyncpg.Connection[asyncpg.Record]", sandbox: Any
):
    # Every role that may run SQL can send notifications.
    owner = project.users["owner"]
    async with open_socket(sandbox.api_url, sandbox.publishable_key) as socket:
        assert await socket.join(f"pq:user:{owner}", project.tokens["owner"]) is None
        for n, text in enumerate(("[" * 7000, "nonsense", '{"topic": 1}', '{"id": 1}', "9" * 7000)):
            # The notification is a separate statement, so that the event is sent directly after it.
            await admin.execute("select pg_notify('realtime_messages', $1)", text)
            await admin.execute(
                "select realtime.send('{}', $1, $2, true)", f"odd {n}", f"pq:user:{owner}"
            )
            await socket.receive_until(f"odd {n}")


def test_a_client_at_its_limit_leaves_a_share_to_other_clients(monkeypatch: pytest.MonkeyPatch):
    now = 100.0
    monkeypatch.setattr(limits, "monotonic", lambda: now)
    rate = FairRateLimit(10)
    assert [rate.take("a") for _ in range(12)] == [True] * 10 + [False] * 2
    assert [rate.take("b") for _ in range(6)] == [True] * 5 + [False]
    assert [rate.take("c", 2) for _ in range(2)] == [True, False]
    assert not rate.take("a")
    now += 1
    assert rate.take("a", 10) and not rate.take("a")


def test_a_rate_of_zero_permits_nothing():
    assert not FairRateLimit(0).take("a")

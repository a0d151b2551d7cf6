"""Limits and replay of Realtime, with the error texts of Supabase."""

import asyncio
import contextlib
import json
import time
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
import websockets
from realtime import AsyncRealtimeClient, RealtimeSubscribeStates

from picture_queue.local.gateway import RealtimeLimits
from picture_queue.local.gateway.realtime import limits

SUBSCRIBED, CLOSED = RealtimeSubscribeStates.SUBSCRIBED, RealtimeSubscribeStates.CLOSED
CHANNEL_ERROR = RealtimeSubscribeStates.CHANNEL_ERROR
TIMEOUT = 15  # seconds, for every wait

POLICY = """
create policy read_all on realtime.messages for select to authenticated using (true);
create policy write_all on realtime.messages for insert to authenticated with check (true);
"""


class Listener:
    """A channel of a client that records its messages and states."""

    def __init__(self, client: AsyncRealtimeClient, topic: str, options: dict[str, Any]) -> None:
        self.channel = client.channel(topic, {"config": {"presence": {"key": ""}, **options}})
        self.messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._states: asyncio.Queue[tuple[RealtimeSubscribeStates, str]] = asyncio.Queue()
        self.channel.on_broadcast("*", self.messages.put_nowait)

    async def subscribe(self) -> tuple[RealtimeSubscribeStates, str]:
        await self.channel.subscribe(
            lambda state, error: self._states.put_nowait((state, str(error)))
        )
        return await self.state()

    async def state(self) -> tuple[RealtimeSubscribeStates, str]:
        """Wait for the next state; return it with its error."""
        async with asyncio.timeout(TIMEOUT):
            return await self._states.get()

    async def receive(self, count: int) -> list[Any]:
        """Wait for the next messages and return their numbers."""
        async with asyncio.timeout(TIMEOUT):
            return [(await self.messages.get())["payload"]["n"] for _ in range(count)]


@pytest.fixture(scope="module", autouse=True)
def policies(platform):
    async def create():
        async with platform.connect() as connection:
            await connection.execute(POLICY)

    asyncio.run(create())


@pytest.fixture
async def connect(platform):
    """Return a function that creates clients. They are closed after the test."""
    clients = []

    async def create(url: str, user: UUID | None = None) -> AsyncRealtimeClient:
        client = AsyncRealtimeClient(f"{url}/realtime/v1", platform.settings.anon_key)
        clients.append(client)
        if user is not None:
            await client.set_auth(platform.token(user))
        return client

    yield create
    for client in clients:
        with contextlib.suppress(websockets.ConnectionClosed):
            await client.close()


def serve(platform, **limits):
    return platform.serve(realtime_limits=RealtimeLimits(**limits))


async def send(sql, topic, *numbers, text="", private=True):
    """Send a message with each number from the database."""
    for n in numbers:
        await sql.execute(
            "select realtime.send($1::jsonb, 'job', $2, $3)",
            json.dumps({"n": n, "text": text}),
            topic,
            private,
        )


async def broadcast(url, platform, *messages):
    headers = {"apikey": platform.settings.anon_key}
    async with httpx.AsyncClient(headers=headers) as http:
        return await http.post(
            f"{url}/realtime/v1/api/broadcast",
            json={
                "messages": [
                    {"topic": "room", "event": "e", "payload": message} for message in messages
                ]
            },
        )


async def test_the_channels_of_a_socket_are_limited(platform, connect):
    with serve(platform, channels=2) as url:
        client = await connect(url)
        for topic in ("a", "b"):
            assert (await Listener(client, topic, {}).subscribe())[0] == SUBSCRIBED
        state, error = await Listener(client, "c", {}).subscribe()
        assert (state, "ChannelRateLimitReached: Too many channels" in error) == (
            CHANNEL_ERROR,
            True,
        )
        other = await connect(url)
        assert (await Listener(other, "c", {}).subscribe())[0] == SUBSCRIBED


async def test_the_sockets_of_a_project_are_limited(platform, connect):
    with serve(platform, connections=1) as url:
        assert (await Listener(await connect(url), "a", {}).subscribe())[0] == SUBSCRIBED
        state, error = await Listener(await connect(url), "a", {}).subscribe()
        assert state == CHANNEL_ERROR
        assert "ConnectionRateLimitReached: Too many connected users" in error


async def test_the_joins_per_second_are_limited(platform, connect):
    with serve(platform, joins_per_second=0) as url:
        state, error = await Listener(await connect(url), "a", {}).subscribe()
        assert state == CHANNEL_ERROR
        assert "ClientJoinRateLimitReached: Too many joins per second" in error


async def test_a_channel_that_exceeds_the_message_rate_is_closed(platform, connect):
    with serve(platform, messages_per_second=0) as url:
        listener = Listener(await connect(url), "room", {})
        assert (await listener.subscribe())[0] == SUBSCRIBED
        await listener.channel.send_broadcast("e", {"n": 1})
        state, error = await listener.state()
        assert (state, "Too many messages per second" in error) == (CHANNEL_ERROR, True)
        assert (await listener.state())[0] == CLOSED
        assert (await broadcast(url, platform, {"n": 1})).status_code == 429


async def test_messages_from_the_database_above_the_rate_are_dropped(
    platform, connect, sql, monkeypatch, caplog, until
):
    now = 100.0
    monkeypatch.setattr(limits, "monotonic", lambda: now)
    with serve(platform, messages_per_second=2) as url:
        listener = Listener(await connect(url), "room", {})
        await listener.subscribe()
        await send(sql, "room", *range(5), private=False)
        assert await listener.receive(2) == [0, 1]
        await until(lambda: caplog.text.count("dropped a message to room") == 3)
        now += 1
        await send(sql, "room", "a second later", private=False)
        assert await listener.receive(1) == ["a second later"]


async def test_the_bytes_of_a_message_are_limited(platform, connect, sql):
    with serve(platform, payload_bytes=1000) as url:
        listener = Listener(await connect(url), "room", {"broadcast": {"self": True}})
        await listener.subscribe()
        await send(sql, "room", 1, text="ü" * 600, private=False)
        await listener.channel.send_broadcast("e", {"n": 2, "text": "x" * 1000})
        assert (await broadcast(url, platform, {"n": 3, "text": "x" * 1000})).status_code == 422
        await send(sql, "room", 4, text="ü" * 300, private=False)
        assert await listener.receive(1) == [4]


async def test_the_bytes_of_a_frame_are_limited(gateway, platform):
    url = gateway.replace("http", "ws") + "/realtime/v1/websocket"
    key = platform.settings.anon_key
    async with websockets.connect(f"{url}?apikey={key}&vsn=1.0.0", compression=None) as socket:
        with pytest.raises(websockets.ConnectionClosed) as closed:
            await socket.send("x" * 5_000_001)
            await socket.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1009


async def test_missed_messages_are_replayed(gateway, connect, sql):
    user, topic = uuid4(), f"room-{uuid4()}"
    before = int(time.time() * 1000) - 60_000
    # Once this listener has the messages, later listeners get them only from a replay.
    earlier = Listener(await connect(gateway, user), topic, {"private": True})
    await earlier.subscribe()
    await send(sql, topic, *range(30))
    assert await earlier.receive(30) == [*range(30)]
    await send(sql, topic, "public", private=False)
    replay = {"private": True, "broadcast": {"replay": {"since": before, "limit": 3}}}
    listener = Listener(await connect(gateway, user), topic, replay)
    assert (await listener.subscribe())[0] == SUBSCRIBED
    messages = [await listener.messages.get() for _ in range(3)]
    assert [message["payload"]["n"] for message in messages] == [27, 28, 29]
    assert all(message["meta"]["replayed"] for message in messages)
    await send(sql, topic, "live")
    live = await listener.messages.get()
    assert (live["payload"]["n"], "replayed" in live["meta"]) == ("live", False)
    replay["broadcast"]["replay"] = {"since": before}
    without_limit = Listener(await connect(gateway, user), topic, replay)
    await without_limit.subscribe()
    assert await without_limit.receive(25) == [*range(6, 30), "live"]
    replay["broadcast"]["replay"] = {"since": before + 3_600_000}
    since_the_future = Listener(await connect(gateway, user), topic, replay)
    await since_the_future.subscribe()
    await send(sql, topic, "live")
    assert await since_the_future.receive(1) == ["live"]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"broadcast": {"replay": {"since": 1}}}, "Replay is not allowed for public channels"),
        ({"private": True, "broadcast": {"replay": {}}}, "replay needs a number `since`"),
        ({"private": True, "broadcast": {"replay": {"since": "now"}}}, "replay needs a number"),
    ],
    ids=["public channel", "no time", "text as time"],
)
async def test_an_invalid_replay_is_refused(gateway, connect, options, reason):
    state, error = await Listener(await connect(gateway, uuid4()), "room", options).subscribe()
    assert state == CHANNEL_ERROR
    assert f"UnableToReplayMessages: {reason}" in error


async def test_presence_is_refused(gateway, platform):
    url = gateway.replace("http", "ws") + "/realtime/v1/websocket"
    key = platform.settings.anon_key
    async with websockets.connect(f"{url}?apikey={key}&vsn=1.0.0") as socket:
        for ref, event in (("1", "phx_join"), ("2", "presence")):
            frame = {"topic": "realtime:room", "event": event, "payload": {}, "ref": ref}
            await socket.send(json.dumps(frame))
            answer = json.loads(await socket.recv())
        assert answer["payload"]["status"] == "error"
        assert "no presence" in answer["payload"]["response"]["reason"]

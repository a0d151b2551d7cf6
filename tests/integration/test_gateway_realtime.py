"""Realtime of the gateway, with the unmodified client library: permissions, messages, channels."""

import asyncio
import contextlib
import json
from typing import Any
from uuid import UUID, uuid4

import httpx
import jwt
import pytest
import websockets
from realtime import AsyncRealtimeClient, RealtimeSubscribeStates
from realtime.exceptions import RealtimeHTTPError

ADA, BOB = uuid4(), uuid4()
SUBSCRIBED, CLOSED = RealtimeSubscribeStates.SUBSCRIBED, RealtimeSubscribeStates.CLOSED
CHANNEL_ERROR = RealtimeSubscribeStates.CHANNEL_ERROR
TIMEOUT = 15  # seconds, for every wait

POLICIES = """
create policy read_own on realtime.messages for select to authenticated
  using (extension = 'broadcast'
         and (select realtime.topic()) in (
           'user:' || (select auth.uid())::text, 'shared:' || (select auth.uid())::text, 'room'));
create policy write_shared on realtime.messages for insert to authenticated
  with check ((select realtime.topic()) in ('shared:' || (select auth.uid())::text, 'room'));
"""


class Listener:
    """A channel with its own client, which records its messages and states."""

    def __init__(self, client: AsyncRealtimeClient, topic: str, options: dict[str, Any]) -> None:
        self.client = client
        self.channel = client.channel(topic, {"config": options})
        self._messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.channel.on_broadcast("*", self._messages.put_nowait)
        self._states: asyncio.Queue[tuple[RealtimeSubscribeStates, str]] = asyncio.Queue()

    async def subscribe(self) -> "Listener":
        await self.channel.subscribe(
            lambda state, error: self._states.put_nowait((state, str(error)))
        )
        return self

    async def message(self) -> dict[str, Any]:
        """Wait for the next message."""
        async with asyncio.timeout(TIMEOUT):
            return await self._messages.get()

    async def state(self) -> tuple[RealtimeSubscribeStates, str]:
        """Wait for the next state; return it with its error."""
        async with asyncio.timeout(TIMEOUT):
            return await self._states.get()

    def has_no_messages(self) -> bool:
        return self._messages.empty()


@pytest.fixture(scope="module", autouse=True)
def policies(platform):
    async def create():
        async with platform.connect() as connection:
            await connection.execute(POLICIES)

    asyncio.run(create())


@pytest.fixture
async def listen(gateway, platform):
    """Return a function that opens channels. Their clients are closed after the test."""
    clients = []

    async def open_channel(topic: str, user: UUID | None = None, url=gateway, **options: Any):
        client = AsyncRealtimeClient(
            f"{url}/realtime/v1", platform.settings.anon_key, initial_backoff=0.05
        )
        clients.append(client)
        token = options.pop("token", None) or (user and platform.token(user))
        if token:
            await client.set_auth(token)
        listener = Listener(client, topic, {"private": True, "presence": {"key": ""}, **options})
        return await listener.subscribe()

    yield open_channel
    for client in clients:
        with contextlib.suppress(websockets.ConnectionClosed):
            await client.close()


async def send(sql, payload, topic, event="job", *, private=True):
    await sql.execute(
        "select realtime.send($1::jsonb, $2, $3, $4)", json.dumps(payload), event, topic, private
    )


async def test_a_message_is_sent_after_the_commit(listen, sql, platform):
    ada = await listen(f"user:{ADA}", ADA)
    assert (await ada.state())[0] == SUBSCRIBED
    async with sql.transaction(), platform.connect() as second:
        await send(sql, {"n": "first sent"}, f"user:{ADA}")
        await send(second, {"n": "first committed"}, f"user:{ADA}")
        assert (await ada.message())["payload"]["n"] == "first committed"
        assert ada.has_no_messages()
    message = await ada.message()
    assert (message["event"], message["payload"]["n"]) == ("job", "first sent")
    assert UUID(message["meta"]["id"])


async def test_a_rolled_back_message_is_not_sent(listen, sql):
    ada = await listen(f"user:{ADA}", ADA)
    transaction = sql.transaction()
    await transaction.start()
    await send(sql, {"n": "lost"}, f"user:{ADA}")
    await transaction.rollback()
    await send(sql, {"n": "kept"}, f"user:{ADA}")
    assert (await ada.message())["payload"]["n"] == "kept"


async def test_messages_of_different_sizes_keep_their_order(listen, sql):
    ada = await listen(f"user:{ADA}", ADA)
    sizes = [10, 20_000, 10, 7_400, 300_000, 10]
    for n, size in enumerate(sizes):
        await send(sql, {"n": n, "text": "ü" * size}, f"user:{ADA}")
    for n, size in enumerate(sizes):
        payload = (await ada.message())["payload"]
        assert (payload["n"], len(payload["text"])) == (n, size)


async def test_one_insert_can_send_many_messages(listen, sql):
    ada = await listen(f"user:{ADA}", ADA)
    await sql.execute(
        "insert into realtime.messages (topic, extension, event, private, payload)"
        " select $1, 'broadcast', 'job', true, jsonb_build_object('n', n)"
        " from generate_series(1, 500) as n",
        f"user:{ADA}",
    )
    assert [(await ada.message())["payload"]["n"] for _ in range(500)] == list(range(1, 501))


@pytest.mark.parametrize("user", [BOB, None], ids=["another user", "anon"])
async def test_the_topic_of_another_user_is_refused(listen, user):
    listener = await listen(f"user:{ADA}", user)
    state, error = await listener.state()
    assert state == CHANNEL_ERROR
    assert "Unauthorized: You do not have permissions to read from this Channel topic" in error


async def test_public_and_private_topics_with_the_same_name_are_separate(listen, sql):
    public = await listen("room", private=False)
    private = await listen("room", ADA)
    await send(sql, {"n": "private"}, "room", private=True)
    await send(sql, {"n": "public"}, "room", private=False)
    assert (await public.message())["payload"]["n"] == "public"
    assert (await private.message())["payload"]["n"] == "private"
    assert public.has_no_messages()
    assert private.has_no_messages()


async def test_a_broadcast_reaches_other_clients_but_not_its_sender(listen):
    ada = await listen("room", ADA)
    bob = await listen("room", BOB)
    echo = await listen("room", BOB, broadcast={"self": True, "ack": True})
    await ada.channel.send_broadcast("hello", {"from": "ada"})
    assert (await bob.message())["payload"] == {"from": "ada"}
    assert (await echo.message())["payload"] == {"from": "ada"}
    await echo.channel.send_broadcast("hello", {"from": "echo"})
    assert (await echo.message())["payload"] == {"from": "echo"}
    assert (await ada.message())["payload"] == {"from": "echo"}


async def test_a_broadcast_without_the_right_to_write_is_dropped(listen):
    ada = await listen(f"user:{ADA}", ADA)
    other = await listen(f"user:{ADA}", ADA)
    await other.channel.send_broadcast("hello", {"n": 1})
    # The gateway handles frames in order. When it answers this join, it has handled the broadcast.
    await other.client.channel("room", {"config": {"private": True}}).subscribe()
    assert ada.has_no_messages()


async def test_broadcasts_over_http_require_the_right_to_write(listen, gateway, platform):
    shared = f"shared:{ADA}"
    ada = await listen(shared, ADA)
    await ada.channel.http_send("hello", {"n": 1})
    assert (await ada.message())["payload"] == {"n": 1}
    with pytest.raises(RealtimeHTTPError):
        await ada.client.channel(f"user:{ADA}", {"config": {"private": True}}).http_send("x", {})
    messages = [
        {"topic": f"user:{ADA}", "event": "e", "payload": {"n": "skipped"}, "private": True},
        {"topic": shared, "event": "e", "payload": {"n": 2}, "private": True},
    ]
    headers = {
        "apikey": platform.settings.anon_key,
        "Authorization": f"Bearer {platform.token(ADA)}",
    }
    async with httpx.AsyncClient(base_url=f"{gateway}/realtime/v1/api", headers=headers) as http:
        answer = await http.post("/broadcast", json={"messages": messages})
        assert answer.status_code == 202
        assert (await http.post("/broadcast", json={"messages": [{}]})).status_code == 422
        assert (await http.post("/broadcast/room/events/e", content="{")).status_code == 422
        binary = {"Content-Type": "application/octet-stream"}
        answer = await http.post("/broadcast/room/events/e", content=b"\0", headers=binary)
        assert answer.status_code == 501
        invalid = {"Authorization": "Bearer nonsense"}
        for path in ("/broadcast", "/broadcast/room/events/e"):
            assert (await http.post(path, json={}, headers=invalid)).status_code == 401
    assert (await ada.message())["payload"] == {"n": 2}


async def test_an_expired_token_closes_the_channel(listen, platform):
    ada = await listen(f"user:{ADA}", token=platform.token(ADA, seconds=2))
    assert (await ada.state())[0] == SUBSCRIBED
    states = [await ada.state(), await ada.state()]
    assert [state for state, _ in states] == [CHANNEL_ERROR, CLOSED]
    assert "Token has expired" in states[0][1]
    assert ada.client.channels == {}


async def test_a_refreshed_token_keeps_the_channel_open(listen, platform, sql):
    ada = await listen(f"user:{ADA}", token=platform.token(ADA, seconds=2))
    unrefreshed = await listen(f"user:{ADA}", token=platform.token(ADA, seconds=2))
    await ada.client.set_auth(platform.token(ADA))
    await unrefreshed.state()
    # When this channel closes, the first token of the other channel has expired too.
    states = [(await unrefreshed.state())[0], (await unrefreshed.state())[0]]
    assert states == [CHANNEL_ERROR, CLOSED]
    await send(sql, {"n": "still here"}, f"user:{ADA}")
    assert (await ada.message())["payload"]["n"] == "still here"


@pytest.mark.parametrize("case", ["another user's", "expired", "nonsense"])
async def test_a_new_token_without_permission_closes_the_channel(listen, platform, case):
    ada = await listen(f"user:{ADA}", ADA)
    await ada.state()
    tokens = {
        "another user's": platform.token(BOB),
        "expired": platform.token(ADA, seconds=-5),
        "nonsense": "nonsense",
    }
    await ada.client.set_auth(tokens[case])
    assert [(await ada.state())[0], (await ada.state())[0]] == [CHANNEL_ERROR, CLOSED]


@pytest.mark.parametrize(("seconds", "reason"), [(-5, "InvalidJWTToken"), (None, "MalformedJWT")])
async def test_a_join_with_an_invalid_token_is_refused(listen, platform, seconds, reason):
    token = "nonsense" if seconds is None else platform.token(ADA, seconds=seconds)
    listener = await listen(f"user:{ADA}", token=token)
    state, error = await listener.state()
    assert state == CHANNEL_ERROR
    assert reason in error


@pytest.mark.parametrize("claims", [{"role": "authenticated"}, {"exp": 4102444800}, {}])
async def test_a_token_without_a_role_or_an_expiry_is_refused(listen, platform, claims):
    token = jwt.encode({"sub": str(ADA), **claims}, platform.settings.jwt_secret)
    state, error = await (await listen("room", token=token, private=False)).state()
    assert state == CHANNEL_ERROR
    assert "Fields `role` and `exp` are required in JWT" in error


async def test_a_client_reconnects_after_a_network_cut(listen, faults, sql):
    ada = await listen(f"user:{ADA}", ADA)
    await ada.state()
    await faults.set(network_cut=True)
    assert (await ada.state())[0] == CHANNEL_ERROR
    await faults.set(network_cut=False)
    assert (await ada.state())[0] == SUBSCRIBED
    await send(sql, {"n": 1}, f"user:{ADA}")
    assert (await ada.message())["payload"]["n"] == 1


async def test_faults_drop_duplicate_and_delay_messages(listen, faults, sql):
    ada = await listen(f"user:{ADA}", ADA)
    await faults.set(drop_messages=1)
    await send(sql, {"n": "dropped"}, f"user:{ADA}")
    await send(sql, {"n": "arrives"}, f"user:{ADA}")
    assert (await ada.message())["payload"]["n"] == "arrives"
    await faults.set(duplicate_messages=1)
    await send(sql, {"n": "twice"}, f"user:{ADA}")
    assert await ada.message() == await ada.message()
    await faults.set(delay_messages=1, delay_seconds=0.2)
    await send(sql, {"n": "late"}, f"user:{ADA}")
    await send(sql, {"n": "in time"}, f"user:{ADA}")
    assert [(await ada.message())["payload"]["n"] for _ in range(2)] == ["in time", "late"]


async def test_a_fault_closes_the_channels_of_a_topic(listen, faults):
    ada = await listen(f"user:{ADA}", ADA)
    bob = await listen(f"user:{BOB}", BOB)
    await ada.state()
    await bob.state()
    await faults.set(close_channels=f"user:{ADA}")
    assert [(await ada.state())[0], (await ada.state())[0]] == [CHANNEL_ERROR, CLOSED]
    assert bob.channel.is_joined


async def test_messages_arrive_after_the_gateway_has_reconnected_to_the_database(listen, sql):
    ada = await listen(f"user:{ADA}", ADA)
    listener_pid = (
        "select pid from pg_stat_activity where datname = current_database()"
        " and application_name = 'picture-queue gateway (realtime)'"
    )
    old_pid = await sql.fetchval(listener_pid)
    await sql.execute("select pg_terminate_backend($1)", old_pid)
    # After the gateway has reconnected, its first statement deletes old messages.
    has_reconnected = (
        listener_pid + " and pid <> $1 and query like 'delete from realtime.messages%'"
    )
    async with asyncio.timeout(TIMEOUT):
        while await sql.fetchval(has_reconnected, old_pid) is None:
            pass
    await send(sql, {"n": 1}, f"user:{ADA}")
    assert (await ada.message())["payload"]["n"] == 1


FORGED = {"id": str(uuid4()), "topic": f"user:{ADA}", "event": "e", "private": True, "payload": {}}


@pytest.mark.parametrize(
    "notification",
    ["", "{", "[]", "1", "{}", '{"id": "x"}', '{"topic": "room"}', json.dumps(FORGED)],
)
async def test_a_malformed_notification_is_ignored(listen, sql, notification):
    ada = await listen(f"user:{ADA}", ADA)
    await sql.execute("select pg_notify('realtime_messages', $1)", notification)
    await send(sql, {"n": 1}, f"user:{ADA}")
    assert (await ada.message())["payload"]["n"] == 1


async def test_keys_are_not_logged(gateway, platform, caplog):
    # Another test of this session may have set the level of this logger.
    caplog.set_level("INFO", "uvicorn.error")
    key, wrong_key = platform.settings.anon_key, "a-key-that-is-wrong"
    async with raw_socket(gateway, key):
        pass
    with pytest.raises(websockets.InvalidStatus):
        async with raw_socket(gateway, wrong_key):
            pass
    logged = [record.getMessage() for record in caplog.records if record.name.startswith("uvicorn")]
    assert any("/realtime/v1/websocket" in line for line in logged)
    assert not any(key in line or wrong_key in line for line in logged)


async def test_the_error_of_a_failing_policy_is_reported(listen, sql):
    await sql.execute(
        "create policy broken on realtime.messages for select to authenticated"
        " using ((1 / (length((select realtime.topic())) - 6)) = 1)"
    )
    try:
        listener = await listen("sixsix", ADA)
        assert "RlsPolicyError: division by zero" in (await listener.state())[1]
    finally:
        await sql.execute("drop policy broken on realtime.messages")


async def test_subscriptions_to_table_changes_are_refused(gateway, platform):
    client = AsyncRealtimeClient(f"{gateway}/realtime/v1", platform.settings.anon_key)
    states = asyncio.Queue()
    channel = client.channel("room").on_postgres_changes("*", print, table="jobs")
    await channel.subscribe(lambda state, error: states.put_nowait((state, str(error))))
    state, error = states.get_nowait()
    await client.close()
    assert state == CHANNEL_ERROR
    assert "NotImplemented: The embedded stack has no postgres_changes" in error


async def test_presence_is_empty_and_a_leave_closes_the_channel(listen):
    ada = await listen("room", ADA, presence={"key": "", "enabled": True})
    await ada.channel.track({"online": True})
    assert ada.channel.presence_state() == {}
    await ada.state()
    await ada.channel.unsubscribe()
    assert (await ada.state())[0] == CLOSED


# --- Raw frames, without a client library ---


@contextlib.asynccontextmanager
async def raw_socket(gateway, key, **query):
    query = {"apikey": key, "vsn": "1.0.0", **query}
    url = f"{gateway.replace('http', 'ws')}/realtime/v1/websocket"
    parameters = "&".join(f"{name}={value}" for name, value in query.items() if value)
    async with websockets.connect(f"{url}?{parameters}", max_size=None, compression=None) as socket:
        yield socket


async def send_frame(socket, topic, event, payload=None, ref="1"):
    message = {"topic": topic, "event": event, "payload": payload or {}, "ref": ref}
    await socket.send(json.dumps(message))


async def receive_frame(socket):
    async with asyncio.timeout(TIMEOUT):
        return json.loads(await socket.recv())


@pytest.mark.parametrize(
    ("changes", "status"),
    [({"apikey": None}, 401), ({"apikey": "nonsense"}, 401), ({"vsn": "3.0.0"}, 501)],
    ids=["no key", "a bad key", "another protocol"],
)
async def test_a_handshake_without_a_key_or_with_an_unknown_protocol_is_refused(
    gateway, platform, changes, status
):
    with pytest.raises(websockets.InvalidStatus) as refused:
        async with raw_socket(gateway, platform.settings.anon_key, **changes):
            pass
    assert refused.value.response.status_code == status


async def test_connections_are_refused_during_a_network_cut(gateway, platform, faults):
    await faults.set(network_cut=True)
    with pytest.raises(websockets.InvalidStatus) as refused:
        async with raw_socket(gateway, platform.settings.anon_key):
            pass
    assert refused.value.response.status_code == 503


async def test_publishable_and_secret_keys_open_a_socket(gateway, platform):
    for key in (platform.settings.publishable_key, platform.settings.secret_key):
        async with raw_socket(gateway, key) as socket:
            await send_frame(socket, "realtime:room", "phx_join", {"access_token": key})
            assert (await receive_frame(socket))["payload"]["status"] == "ok"


async def test_heartbeats_joins_and_leaves_in_protocol_version_1(gateway, platform, sql):
    async with raw_socket(gateway, platform.settings.anon_key) as socket:
        await send_frame(socket, "phoenix", "heartbeat", ref=None)
        assert await receive_frame(socket) == {
            "topic": "phoenix",
            "event": "phx_reply",
            "payload": {"status": "ok", "response": {}},
            "ref": None,
        }
        await send_frame(socket, "realtime:room", "broadcast")
        assert (await receive_frame(socket))["payload"]["response"] == {"reason": "unmatched topic"}
        await send_frame(socket, "realtime:", "phx_join")
        reason = (await receive_frame(socket))["payload"]["response"]["reason"]
        assert reason.startswith("TopicNameRequired")
        # A second join replaces the first. Each message still arrives once.
        for ref in ("1", "2"):
            await send_frame(socket, "realtime:room", "phx_join", ref=ref)
            assert (await receive_frame(socket))["ref"] == ref
        await send(sql, {"n": 1}, "room", private=False)
        await send(sql, {"n": 2}, "room", private=False)
        assert [(await receive_frame(socket))["payload"]["payload"]["n"] for _ in range(2)] == [
            1,
            2,
        ]
        await send_frame(socket, "realtime:room", "access_token", {"access_token": None})
        await send_frame(socket, "realtime:room", "phx_leave", ref="3")
        assert [(await receive_frame(socket))["event"] for _ in range(2)] == [
            "phx_reply",
            "phx_close",
        ]


@pytest.mark.parametrize("text", ["{", "[]", '{"topic": "phoenix"}'])
async def test_a_malformed_message_closes_the_socket(gateway, platform, text):
    async with raw_socket(gateway, platform.settings.anon_key) as socket:
        await socket.send(text)
        with pytest.raises(websockets.ConnectionClosed):
            await receive_frame(socket)


async def test_a_client_that_does_not_read_is_disconnected_and_does_not_delay_others(platform, sql):
    messages = 60
    with platform.serve(subscriber_queue=5) as url:
        async with (
            raw_socket(url, platform.settings.anon_key) as slow,
            raw_socket(url, platform.settings.anon_key) as quick,
        ):
            for socket in (slow, quick):
                await send_frame(socket, "realtime:room", "phx_join")
                await receive_frame(socket)
            slow.transport.pause_reading()
            for n in range(messages):
                await send(sql, {"n": n, "text": "x" * 500_000}, "room", private=False)
                assert (await receive_frame(quick))["payload"]["payload"]["n"] == n
            slow.transport.resume_reading()
            with pytest.raises(websockets.ConnectionClosed):
                for _ in range(messages):
                    await receive_frame(slow)


async def test_heartbeats_joins_and_binary_broadcasts_in_protocol_version_2(gateway, platform):
    """Send the frames that supabase-js sends."""
    topic, body = "realtime:room", b'{"n":1}'
    parts = (b"1", b"2", topic.encode(), b"greet", b"")
    push = bytes([3, *map(len, parts), 1]) + b"".join(parts) + body
    async with (
        raw_socket(gateway, platform.settings.anon_key, vsn="2.0.0") as ada,
        raw_socket(gateway, platform.settings.anon_key) as bob,
    ):
        await ada.send(json.dumps([None, "9", "phoenix", "heartbeat", {}]))
        assert await receive_frame(ada) == [
            None,
            "9",
            "phoenix",
            "phx_reply",
            {"status": "ok", "response": {}},
        ]
        config = {"config": {"broadcast": {"self": True}}}
        await ada.send(json.dumps(["1", "1", topic, "phx_join", config]))
        assert (await receive_frame(ada))[1:4] == ["1", topic, "phx_reply"]
        await send_frame(bob, topic, "phx_join")
        assert (await receive_frame(bob))["payload"]["status"] == "ok"
        await ada.send(push)
        payload = {"type": "broadcast", "event": "greet", "payload": {"n": 1}}
        assert await receive_frame(ada) == [None, None, topic, "broadcast", payload]
        assert (await receive_frame(bob))["payload"] == payload


@pytest.mark.parametrize("frame", [b"", b"\x03", b"\x09" * 8, "[1, 2]", '"text"', "{"])
async def test_a_malformed_frame_closes_the_socket(gateway, platform, frame):
    async with raw_socket(gateway, platform.settings.anon_key, vsn="2.0.0") as socket:
        await socket.send(frame)
        with pytest.raises(websockets.ConnectionClosed):
            await receive_frame(socket)

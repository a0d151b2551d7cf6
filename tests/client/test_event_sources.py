"""Event sources: listeners join, leave and wait without affecting each other."""

import asyncio
import contextlib
import json
import time
from uuid import uuid4

import asyncpg
import jwt
import pytest
from realtime import AsyncRealtimeChannel

from picture_queue import AsyncPictureQueue
from picture_queue._realtime import notifications, subscriptions
from picture_queue._realtime.notifications import Notifications
from picture_queue._realtime.subscriptions import Subscriptions
from picture_queue._transport.postgrest import AsyncPostgrest
from picture_queue.settings import DatabaseSettings, ProjectSettings


class Recorder:
    """A listener that records its calls."""

    def __init__(self):
        self._calls = asyncio.Queue()

    def joined(self):
        self._calls.put_nowait("joined")

    def lost(self):
        self._calls.put_nowait("lost")

    def message(self, event, payload):
        self._calls.put_nowait(event)

    async def next(self, timeout=15):
        return await asyncio.wait_for(self._calls.get(), timeout)


@pytest.fixture
def source(service):
    return service._watcher.subscriptions


def new_topic():
    return f"pq:job:{uuid4()}"


async def send(db, topic):
    await db.execute(
        "select realtime.send($1::text::jsonb, 'job', $2, true)", json.dumps({"n": 1}), topic
    )


async def test_a_topic_that_is_left_and_joined_again_stays_joined(source, db, monkeypatch, until):
    # The client also waits this long for the answer of the server when it leaves a topic.
    monkeypatch.setattr(subscriptions, "_JOIN_TIMEOUT", 1)
    topic, first, second = new_topic(), Recorder(), Recorder()
    listener_of_other_topic = Recorder()
    with source.listen(new_topic(), listener_of_other_topic):
        assert await listener_of_other_topic.next() == "joined"
        with source.listen(topic, first):
            assert await first.next() == "joined"
        await until(lambda: topic not in source._joined)
        with source.listen(topic, second):
            assert await second.next() == "joined"
            # The leave of `first` ends within 1 s; it must not end the subscription of `second`.
            with pytest.raises(TimeoutError):
                await second.next(timeout=2)
            await send(db, topic)
            assert await second.next() == "job"
        with pytest.raises(TimeoutError):
            await listener_of_other_topic.next(timeout=0.1)


async def test_a_join_without_an_answer_does_not_delay_joins_of_other_topics(
    source, db, monkeypatch, until
):
    subscribe = AsyncRealtimeChannel.subscribe
    unanswered_topic, topic = new_topic(), new_topic()
    join_started = asyncio.Event()
    clients = []

    def channels():
        return clients[0].channels

    async def subscribe_or_wait_forever(channel, callback):
        if channel.topic.endswith(unanswered_topic):
            clients.append(channel.socket)
            join_started.set()
            await asyncio.Event().wait()
        return await subscribe(channel, callback)

    monkeypatch.setattr(AsyncRealtimeChannel, "subscribe", subscribe_or_wait_forever)
    listener = Recorder()
    with contextlib.ExitStack() as first_listener:
        first_listener.enter_context(source.listen(unanswered_topic, Recorder()))
        await asyncio.wait_for(join_started.wait(), 15)
        with source.listen(topic, listener):
            assert await listener.next() == "joined"
            await send(db, topic)
            assert await listener.next() == "job"
            first_listener.close()  # It leaves before the server has answered its join.
            await until(lambda: f"realtime:{unanswered_topic}" not in channels())
            await send(db, topic)
            assert await listener.next() == "job"


async def test_a_refreshed_token_is_sent_before_the_old_token_expires(stack, ada, db, monkeypatch):
    monkeypatch.setattr(subscriptions, "_TOKEN_INTERVAL", 0.1)
    claims = jwt.decode(ada.token, options={"verify_signature": False})
    expires_soon = jwt.encode({**claims, "exp": int(time.time()) + 3}, stack.jwt_secret, "HS256")
    async with AsyncPictureQueue(stack.api_url, stack.anon_key, access_token=expires_soon) as pq:
        listener = Recorder()
        with pq._watcher.subscriptions.listen(f"pq:user:{ada.id}", listener):
            assert await listener.next() == "joined"
            client = await pq._backend._api().client()
            client.options.headers["Authorization"] = f"Bearer {ada.token}"
            # The first token expires after 3 s. The topic is not lost in 4.5 s.
            with pytest.raises(TimeoutError):
                await listener.next(timeout=4.5)
            await send(db, f"pq:user:{ada.id}")
            assert await listener.next() == "job"


def test_an_event_source_works_in_a_second_event_loop(stack):
    source = Subscriptions(
        AsyncPostgrest(ProjectSettings.resolve(stack.api_url, stack.service_role_key, None, 30))
    )
    topic = new_topic()

    async def receive():
        listener = Recorder()
        db = await asyncpg.connect(stack.db_url, timeout=10)
        with source.listen(topic, listener):
            assert await listener.next() == "joined"
            await send(db, topic)
            assert await listener.next() == "job"
            await db.close(timeout=10)
            # Cancel the task while the source listens, as a KeyboardInterrupt does.
            asyncio.current_task().cancel()
            await asyncio.sleep(0)

    for _ in range(2):
        with pytest.raises(asyncio.CancelledError):
            asyncio.run(receive())


async def test_a_listener_that_joins_while_the_previous_listener_leaves_receives_wake_ups(
    stack, db, queue
):
    source = Notifications(DatabaseSettings(stack.db_url))
    for _ in range(2):
        listener = Recorder()
        with source.listen(f"pq:queue:{queue}", listener):
            assert await listener.next() == "joined"
            await db.execute("select picture_queue._wake_workers(array[$1], 'again')", queue)
            assert await listener.next() == "wake"
    await source.aclose()


async def test_the_socket_to_a_hanging_server_is_closed_when_its_last_listener_leaves(
    stack, start_proxy, until
):
    proxy, url = await start_proxy(stack.api_url)
    async with AsyncPictureQueue(url, stack.service_role_key) as pq:
        listener = Recorder()
        with pq._watcher.subscriptions.listen(new_topic(), listener):
            assert await listener.next() == "joined"
            assert proxy.connections == 1
            proxy.stop_forwarding()
    await until(lambda: proxy.connections == 0)


async def test_closing_an_event_source_does_not_wait_for_a_hanging_server(
    stack, queue, start_proxy, monkeypatch
):
    proxy, url = await start_proxy(stack.db_url)
    connected = asyncio.Event()
    connect = notifications.connect_async

    async def connect_and_stop_forwarding(settings):
        connection = await connect(settings)
        proxy.stop_forwarding()
        connected.set()
        return connection

    monkeypatch.setattr(notifications, "connect_async", connect_and_stop_forwarding)
    source = Notifications(DatabaseSettings(url))
    with source.listen(f"pq:queue:{queue}", Recorder()):
        await asyncio.wait_for(connected.wait(), 15)
        await asyncio.sleep(0.2)  # The listener subscribes during this time.
        await asyncio.wait_for(source.aclose(), 4)

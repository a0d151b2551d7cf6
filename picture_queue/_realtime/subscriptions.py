"""A Realtime connection with private topics, which reconnects after each failure.

realtime-py 2.34 gives up silently in several cases: after five failed reconnects, when the server
closes a channel (for an expired token, for example), and when a callback raises. So its own
reconnecting is switched off: after any failure this module opens a new websocket with the current
token. Events that are sent before the new websocket has joined a topic are lost. So a listener
reads the row when its method `joined` is called.
"""

import asyncio
import contextlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from realtime import AsyncRealtimeChannel, RealtimeChannelOptions, RealtimeSubscribeStates

from picture_queue._log import Log
from picture_queue._realtime.event_source import Listener
from picture_queue._transport.postgrest import AsyncPostgrest
from picture_queue._transport.realtime import RealtimeClient

_log = Log(__name__)

_JOIN_TIMEOUT = 10  # seconds, for the connection and for each join
_CLOSE_TIMEOUT = 2.0  # seconds
_FIRST_PAUSE = 0.25  # seconds before the next websocket; each failure doubles it
_MAX_PAUSE = 10.0
_HEARTBEAT_INTERVAL = 25  # seconds; Phoenix closes a websocket after 60 seconds of silence
_TOKEN_INTERVAL = 10.0  # seconds between two checks whether the user's token was refreshed
_CHANNEL_OPTIONS: RealtimeChannelOptions = {
    "config": {
        "broadcast": {"ack": False, "self": False},
        "presence": {"key": "", "enabled": False},
        "private": True,
    }
}


class Subscriptions:
    """The listeners of one project, and the websocket that serves them.

    Args:
        api: The API client, which has the URL, the key and the current token.
    """

    def __init__(self, api: AsyncPostgrest) -> None:
        self._api = api
        self._listeners: dict[str, list[Listener]] = {}
        self._joined: set[str] = set()
        self._listeners_changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self._closing_socket = False
        self._has_joined = False  # True once a topic was joined over the current websocket

    @contextmanager
    def listen(self, topic: str, listener: Listener) -> Iterator[None]:
        """Deliver the events of a topic to the listener until the block ends."""
        if not self._is_running():
            # The previous asyncio.Event may belong to another event loop.
            self._listeners_changed = asyncio.Event()
            self._joined.clear()
            self._closed = False
            self._task = asyncio.create_task(self._run(), name="picture-queue realtime")
        self._listeners.setdefault(topic, []).append(listener)
        self._listeners_changed.set()
        if topic in self._joined:
            listener.joined()
        try:
            yield
        finally:
            self._listeners[topic].remove(listener)
            if not self._listeners[topic]:
                del self._listeners[topic]
            self._listeners_changed.set()

    async def aclose(self) -> None:
        """Close the websocket and end all deliveries."""
        self._closed = True
        if self._task is None or not self._is_running():
            return
        if not self._closing_socket:  # a task that closes its websocket is about to end anyway
            self._task.cancel()
        await asyncio.wait([self._task], timeout=_CLOSE_TIMEOUT + 1)

    def _is_running(self) -> bool:
        if self._task is None or self._task.done():
            return False
        return self._task.get_loop() is asyncio.get_running_loop()

    async def _run(self) -> None:
        pause = _FIRST_PAUSE
        while self._listeners and not self._closed:
            try:
                if await self._serve():
                    pause = _FIRST_PAUSE
            except Exception as error:
                # Continue after every error: listeners poll, and the next websocket may work.
                _log.info("Realtime does not answer; reconnecting: %s", error)
            for topic in self._joined:
                self._notify(topic, "lost")
            self._joined.clear()
            if self._listeners and not self._closed:
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
                pause = min(pause * 2, _MAX_PAUSE)

    async def _serve(self) -> bool:
        """Serve the listeners over one websocket until it breaks or no listener is left.

        Returns:
            True if a topic was joined, so that the pause before the next websocket can be short.
        """
        client = await self._make_client()
        broken = asyncio.Event()
        channels: dict[str, AsyncRealtimeChannel] = {}
        joins: dict[str, asyncio.Task[None]] = {}
        self._has_joined = False
        try:
            await client.connect()
            _reader_task(client).add_done_callback(lambda _: broken.set())
            while self._listeners and not broken.is_set():
                self._listeners_changed.clear()
                for topic in self._listeners.keys() - channels.keys():
                    channels[topic] = client.channel(topic, _CHANNEL_OPTIONS)
                    # In a task, so that an unanswered join does not delay the other topics.
                    joins[topic] = asyncio.create_task(self._join(client, channels, topic, broken))
                for topic in channels.keys() - self._listeners.keys():
                    self._joined.discard(topic)
                    joins.pop(topic).cancel()
                    await client.remove_channel(channels.pop(topic))
                await _wait_for_first(self._listeners_changed, broken, timeout=_TOKEN_INTERVAL)
                await self._refresh_token(client)
        finally:
            self._closing_socket = True
            channels.clear()
            for join in joins.values():
                join.cancel()
            await _close(client)
            self._closing_socket = False
        return self._has_joined

    async def _make_client(self) -> RealtimeClient:
        supabase = await self._api.client()
        client = RealtimeClient(
            str(supabase.realtime_url),
            token=supabase.supabase_key,
            auto_reconnect=False,
            hb_interval=_HEARTBEAT_INTERVAL,
            timeout=_JOIN_TIMEOUT,
        )
        await client.set_auth(await self._api.access_token())
        return client

    async def _refresh_token(self, client: RealtimeClient) -> None:
        """Send a refreshed user token to the server.

        The server closes the topics when the token that it knows expires.
        """
        token = await self._api.access_token()
        if token != client.access_token and client.is_connected:
            await client.set_auth(token)

    async def _join(
        self,
        client: RealtimeClient,
        channels: dict[str, AsyncRealtimeChannel],
        topic: str,
        broken: asyncio.Event,
    ) -> None:
        channel = channels[topic]

        def on_state(state: RealtimeSubscribeStates, error: Exception | None) -> None:
            if channels.get(topic) is not channel:
                return  # a late answer for a channel that was removed
            if state is RealtimeSubscribeStates.SUBSCRIBED:
                self._has_joined = True
                self._joined.add(topic)
                self._notify(topic, "joined")
                return
            if topic in self._joined:
                self._joined.discard(topic)
                self._notify(topic, "lost")
            if state is RealtimeSubscribeStates.CLOSED:
                broken.set()  # the server closed the channel; realtime-py does not rejoin it
            elif client.is_connected:
                # The join was refused. realtime-py retries it; other topics are not affected.
                _log.info("Realtime refused %s: %s", topic, error)
            else:
                broken.set()

        def on_message(message: Any) -> None:
            # A callback that raises would silently end the task that reads the websocket.
            with contextlib.suppress(KeyError, TypeError):
                self._notify(topic, "message", message["event"], message["payload"])

        channel.on_broadcast("*", on_message)
        try:
            await channel.subscribe(on_state)
        except Exception as error:
            _log.info("Realtime could not join %s: %s", topic, error)
            broken.set()

    def _notify(self, topic: str, method: str, *args: Any) -> None:
        for listener in list(self._listeners.get(topic, ())):
            try:
                getattr(listener, method)(*args)
            except Exception:
                _log.exception("A listener of %s failed", topic)


def _reader_task(client: RealtimeClient) -> "asyncio.Task[None]":
    # The attribute is private, but `is_connected` stays True after an exception has ended the task.
    # Only the task itself shows that it has ended.
    task: asyncio.Task[None] | None = client._listen_task
    if task is None:
        raise ConnectionError("realtime-py has not started to read the websocket")
    return task


async def _close(client: RealtimeClient) -> None:
    # Private: `close` sets the attribute to None before it closes the socket.
    connection = client._ws_connection
    try:
        with contextlib.suppress(Exception):
            await asyncio.wait_for(client.close(), _CLOSE_TIMEOUT)
    finally:
        if connection is not None:
            connection.transport.abort()  # in case the server has not closed its side


async def _wait_for_first(*events: asyncio.Event, timeout: float) -> None:
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()

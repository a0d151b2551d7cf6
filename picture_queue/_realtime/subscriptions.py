"""One Realtime socket with private topics on it, kept alive.

realtime-py 2.34 gives up in ways nobody hears of: after five failed reconnects, when the server
closes a channel (an expired token, for example), and when a callback raises. So its own
reconnecting is switched off; whatever goes wrong, the whole socket is made anew, with the token of
that moment. Listeners are told when their topic is joined, since events before that are lost and
they have to look at the row.
"""

import asyncio
import contextlib
import logging
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from realtime import AsyncRealtimeChannel, AsyncRealtimeClient, RealtimeSubscribeStates

from picture_queue._realtime.event_source import Listener
from picture_queue._transport.postgrest import AsyncPostgrest

_log = logging.getLogger(__name__)

_JOIN_TIMEOUT = 10  # seconds, for the socket and for each join
_CLOSE_TIMEOUT = 2.0  # seconds
_FIRST_PAUSE = 0.25  # seconds between two sockets, doubling
_LONGEST_PAUSE = 10.0
_HEARTBEAT = 25  # seconds; Phoenix ends a socket that is silent for 60


class Subscriptions:
    """The listeners of one project and the socket that serves them.

    Args:
        project: Gives address, key and the token of the moment.
    """

    def __init__(self, project: AsyncPostgrest) -> None:
        self._project = project
        self._listeners: dict[str, list[Listener]] = {}
        self._joined: set[str] = set()
        self._changed = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None
        self._closed = False
        self._closing_socket = False

    @contextmanager
    def listen(self, topic: str, listener: Listener) -> Iterator[None]:
        """Tells the listener of the topic's events until the block ends."""
        self._listeners.setdefault(topic, []).append(listener)
        self._changed.set()
        if topic in self._joined:
            listener.joined()
        if self._keeper is None or self._keeper.done():
            self._keeper = asyncio.create_task(self._keep(), name="picture-queue realtime")
        try:
            yield
        finally:
            self._listeners[topic].remove(listener)
            if not self._listeners[topic]:
                del self._listeners[topic]
            self._changed.set()

    async def aclose(self) -> None:
        """Closes the socket; nothing is told any more."""
        self._closed = True
        if self._keeper is None:
            return
        if not self._closing_socket:  # else it ends by itself, and whole
            self._keeper.cancel()
        await asyncio.wait([self._keeper], timeout=_CLOSE_TIMEOUT + 1)

    async def _keep(self) -> None:
        pause = _FIRST_PAUSE
        while self._listeners and not self._closed:
            try:
                if await self._serve():
                    pause = _FIRST_PAUSE
            except Exception as error:
                # Never fatal: rows are read meanwhile, and the next socket may do.
                _log.info("Realtime is away: %s", error)
            for topic in self._joined:
                self._tell(topic, "lost")
            self._joined.clear()
            if self._listeners and not self._closed:
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
                pause = min(pause * 2, _LONGEST_PAUSE)

    async def _serve(self) -> bool:
        """Serves the listeners over one socket until it breaks or nobody listens.

        Returns:
            Whether a topic was joined, so that the pause before the next socket can be short.
        """
        client = await self._make_client()
        broken = asyncio.Event()
        channels: dict[str, AsyncRealtimeChannel] = {}
        served = False
        try:
            await client.connect()
            _reader(client).add_done_callback(lambda _: broken.set())
            while self._listeners and not broken.is_set():
                self._changed.clear()
                for topic in self._listeners.keys() - channels.keys():
                    channels[topic] = await self._join(client, topic, broken)
                    served = served or topic in self._joined
                if not self._listeners:
                    break  # removing the last channel would close the socket behind our back
                for topic in channels.keys() - self._listeners.keys():
                    self._joined.discard(topic)
                    await client.remove_channel(channels.pop(topic))
                await _first_of(self._changed, broken)
        finally:
            self._closing_socket = True
            with contextlib.suppress(Exception):
                await asyncio.wait_for(client.close(), _CLOSE_TIMEOUT)
            self._closing_socket = False
        return served

    async def _make_client(self) -> AsyncRealtimeClient:
        supabase = await self._project.client()
        client = AsyncRealtimeClient(
            str(supabase.realtime_url),
            token=supabase.supabase_key,
            auto_reconnect=False,
            hb_interval=_HEARTBEAT,
            timeout=_JOIN_TIMEOUT,
        )
        await client.set_auth(await self._project.access_token())
        return client

    async def _join(
        self, client: AsyncRealtimeClient, topic: str, broken: asyncio.Event
    ) -> AsyncRealtimeChannel:
        channel = client.channel(
            topic,
            {
                "config": {
                    "broadcast": {"ack": False, "self": False},
                    "presence": {"key": "", "enabled": False},
                    "private": True,
                }
            },
        )

        def on_state(state: RealtimeSubscribeStates, error: Exception | None) -> None:
            if state is RealtimeSubscribeStates.SUBSCRIBED:
                self._joined.add(topic)
                self._tell(topic, "joined")
                return
            if topic in self._joined:
                self._joined.discard(topic)
                self._tell(topic, "lost")
            if state is RealtimeSubscribeStates.CLOSED:
                # Ours when nobody listens any more; else the server's, and never rejoined.
                if topic in self._listeners:
                    broken.set()
            elif client.is_connected:
                # The join was refused; realtime-py asks again by itself, other topics go on.
                _log.info("Realtime refused %s: %s", topic, error)
            else:
                broken.set()

        def on_message(message: Any) -> None:
            # A callback that raises would end the socket's reader without a word.
            with contextlib.suppress(KeyError, TypeError):
                self._tell(topic, "message", message["event"], message["payload"])

        channel.on_broadcast("*", on_message)
        await channel.subscribe(on_state)
        return channel

    def _tell(self, topic: str, what: str, *args: Any) -> None:
        for listener in list(self._listeners.get(topic, ())):
            try:
                getattr(listener, what)(*args)
            except Exception:
                _log.exception("A listener of %s failed", topic)


def _reader(client: AsyncRealtimeClient) -> "asyncio.Task[None]":
    # Not public, and the only sign of a reader that died of an exception: the client goes on
    # looking connected.
    task: asyncio.Task[None] | None = client._listen_task
    if task is None:
        raise ConnectionError("the socket has no reader")
    return task


async def _first_of(*events: asyncio.Event) -> None:
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()

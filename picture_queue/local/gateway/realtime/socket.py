"""A client's WebSocket and its channels."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import asyncpg
from starlette.websockets import WebSocket, WebSocketDisconnect

from picture_queue.local.gateway.credentials import Caller, Credentials, InvalidToken
from picture_queue.local.gateway.realtime import frames, versions
from picture_queue.local.gateway.realtime.access import Access
from picture_queue.local.gateway.realtime.channel import Channel, JoinConfig
from picture_queue.local.gateway.realtime.hub import Hub
from picture_queue.local.gateway.realtime.limits import Quota
from picture_queue.local.gateway.realtime.listener import DatabaseListener
from picture_queue.local.gateway.realtime.replay import History

ABNORMAL = 1011  # a close code that every client treats as a broken connection
_TRY_AGAIN_LATER = 1013  # the close code for an overloaded server
_CLOSE_TIMEOUT = 5.0  # seconds
_MAX_QUEUED = 100_000_000  # characters; a replay has up to 25 frames of 3 MB
_LISTENER_TIMEOUT = 5.0  # seconds that a join waits for the listener's connection
_NO_PRESENCE = "NotImplemented: The embedded stack keeps no presence."


class Refusal(Exception):
    """A join or a token that is refused; the text has the form ``Code: reason``."""


@dataclass(frozen=True)
class SharedParts:
    """The parts that all sockets share."""

    credentials: Credentials
    hub: Hub
    access: Access
    history: History
    listener: DatabaseListener
    quota: Quota
    queue_length: int


class Socket:
    """A WebSocket: it handles the frames of the client and sends the messages of its channels.

    Frames to the client wait in a bounded queue. If the client does not read, the socket is closed,
    so that it does not delay others.

    Args:
        websocket: The accepted WebSocket.
        key_token: The JWT that the API key of the WebSocket stands for.
        version: The version of the protocol.
        shared: The parts that all sockets share.
        allows_service_role: Whether the channels may have the role service_role.
    """

    def __init__(
        self,
        websocket: WebSocket,
        key_token: str,
        version: str,
        shared: SharedParts,
        *,
        allows_service_role: bool = True,
    ) -> None:
        self._websocket = websocket
        self._version = version
        self._key_token = key_token
        self._shared = shared
        self._allows_service_role = allows_service_role
        self._outbox: asyncio.Queue[str] = asyncio.Queue(shared.queue_length)
        self._queued = 0  # characters in the outbox
        self._channels: dict[str, Channel] = {}
        self._close_code: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def run(self) -> None:
        """Serve the socket until the client or the gateway closes it."""
        self._shared.quota.connections += 1
        reading = asyncio.create_task(self._read())
        writing = asyncio.create_task(self._write())
        try:
            ends: set[asyncio.Future[Any]] = {reading, writing, self._close_code}
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._shared.quota.connections -= 1
            for channel in tuple(self._channels.values()):
                self._remove(channel)
            for task in (reading, writing):
                task.cancel()
            await asyncio.gather(reading, writing, return_exceptions=True)
        code = self._close_code.result() if self._close_code.done() else ABNORMAL
        # The timeout is for a client that does not read.
        with contextlib.suppress(RuntimeError, WebSocketDisconnect, TimeoutError):
            async with asyncio.timeout(_CLOSE_TIMEOUT):
                await self._websocket.close(code)

    def drop(self, code: int = ABNORMAL) -> None:
        """Close the connection without sending the frames that are in the queue."""
        if not self._close_code.done():
            self._close_code.set_result(code)

    def close_channels(self, topic: str, message: str) -> None:
        """Close the channels of a topic, or all channels for ``*``, with a system error."""
        for channel in tuple(self._channels.values()):
            if topic in ("*", channel.name):
                self._close(channel, message)

    def deliver(self, text: str) -> None:
        """Queue a frame without waiting."""
        if self._outbox.full() or self._queued + len(text) > _MAX_QUEUED:
            self.drop(_TRY_AGAIN_LATER)
            return
        self._queued += len(text)
        self._outbox.put_nowait(text)

    async def _write(self) -> None:
        while True:
            text = await self._outbox.get()
            self._queued -= len(text)
            await self._websocket.send_text(versions.write(self._version, text))

    async def _read(self) -> None:
        with contextlib.suppress(WebSocketDisconnect):
            while True:
                data = await self._receive()
                try:
                    message = versions.read(data)
                    topic, event = str(message["topic"]), str(message["event"])
                    payload = message.get("payload")
                except (ValueError, TypeError, KeyError):
                    return  # the client does not speak the protocol
                payload = payload if isinstance(payload, dict) else {}
                await self._handle(topic, event, payload, message.get("ref"))

    async def _receive(self) -> str | bytes:
        message = await self._websocket.receive()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect
        data: str | bytes | None = message.get("text")
        return message["bytes"] if data is None else data

    async def _handle(
        self, topic: str, event: str, payload: dict[str, Any], ref: str | None
    ) -> None:
        if topic == "phoenix":
            self.deliver(frames.ok(topic, ref))
        elif event == "phx_join":
            await self._join(topic, payload, ref)
        elif (channel := self._channels.get(topic)) is None:
            self.deliver(frames.error(topic, ref, "unmatched topic"))
        elif event == "broadcast":
            await self._broadcast(channel, payload, ref)
        elif event == "access_token":
            await self._renew_token(channel, payload.get("access_token"))
        elif event == "presence":
            self.deliver(frames.error(topic, ref, _NO_PRESENCE))
        elif event == "phx_leave":
            self._remove(channel)
            self.deliver(frames.ok(topic, ref))
            self.deliver(frames.frame(topic, "phx_close", {}, channel.join_ref))

    async def _join(self, topic: str, payload: dict[str, Any], ref: str | None) -> None:
        try:
            self._check_quota(topic)
            config = _parse_config(payload)
            caller = await self._authorize_join(topic, config, payload.get("access_token"))
        except Refusal as refusal:
            self.deliver(frames.error(topic, ref, str(refusal)))
            return
        # A second join of a topic replaces the first. Send no phx_close for the first: in version
        # 1.0.0 of the protocol, a phx_close does not say which join it closes.
        if (old := self._channels.get(topic)) is not None:
            self._remove(old)
        channel = Channel(topic, config, caller, ref, self.deliver, self._expire)
        self._channels[topic] = channel
        channel.start_timer()
        self.deliver(frames.ok(topic, ref, {"postgres_changes": []}))
        if config.presence:
            self.deliver(frames.frame(topic, "presence_state", {}))
        self._shared.hub.add(channel.name, config.private, channel)
        if config.replay is not None:
            # A message that is sent during the replay may arrive twice, with the same id.
            for text in await self._shared.history.replay(channel.name, config.replay):
                self.deliver(text)

    def _check_quota(self, topic: str) -> None:
        """Check the limits for a join.

        Raises:
            Refusal: There are too many joins, channels or connections.
        """
        quota = self._shared.quota
        if not quota.joins.take(self):
            raise Refusal("ClientJoinRateLimitReached: Too many joins per second")
        if len(self._channels.keys() - {topic}) >= quota.limits.channels:
            raise Refusal("ChannelRateLimitReached: Too many channels")
        if quota.connections > quota.limits.connections:
            raise Refusal("ConnectionRateLimitReached: Too many connected users")

    async def _authorize_join(self, topic: str, config: JoinConfig, token: object) -> Caller:
        """Check that a join is allowed, and return its caller.

        Raises:
            Refusal: The join is refused.
        """
        name = topic.removeprefix(frames.PREFIX)
        if not topic.startswith(frames.PREFIX) or not name:
            raise Refusal("TopicNameRequired: You must provide a topic name")
        if config.replay is not None and not config.private:
            raise Refusal("UnableToReplayMessages: Replay is not allowed for public channels")
        if config.wants_table_changes:
            raise Refusal(
                "NotImplemented: The embedded stack has no postgres_changes."
                " Use Broadcast from the database."
            )
        # Without the token of a user, the API key of the WebSocket counts.
        is_user_token = isinstance(token, str) and token and not token.startswith("sb_")
        caller = self._verify(str(token) if is_user_token else self._key_token)
        try:
            async with asyncio.timeout(_LISTENER_TIMEOUT):
                await self._shared.listener.connected.wait()
        except TimeoutError:
            raise Refusal(
                "UnableToConnectToProject: Realtime was unable to connect to the project database"
            ) from None
        if config.private:
            await self._check_read(caller, name)
        return caller

    def _verify(self, token: str) -> Caller:
        try:
            caller = self._shared.credentials.verify(token, leeway=0)
        except InvalidToken as error:
            if error.problem == "expired":
                raise Refusal("InvalidJWTToken: Token has expired 0 seconds ago") from None
            if error.problem in ("signature", "signature encoding", "algorithm"):
                raise Refusal("JwtSignatureError: Failed to validate JWT signature") from None
            raise Refusal("MalformedJWT: The token provided is not a valid JWT") from None
        if caller.role == "service_role" and not self._allows_service_role:
            raise Refusal("Unauthorized: A page of this origin may not use a service key")
        if "role" not in caller.claims or not isinstance(caller.claims.get("exp"), int):
            raise Refusal("InvalidJWTToken: Fields `role` and `exp` are required in JWT")
        return caller

    async def _check_read(self, caller: Caller, name: str) -> None:
        if not await self._check_privilege(self._shared.access.can_read, caller, name):
            raise Refusal(
                "Unauthorized: You do not have permissions to read from this Channel topic: " + name
            )

    async def _renew_token(self, channel: Channel, token: object) -> None:
        if not isinstance(token, str) or token.startswith("sb_"):
            return
        try:
            caller = self._verify(token)
            if channel.config.private:
                await self._check_read(caller, channel.name)
        except Refusal as refusal:
            self._close(channel, str(refusal).partition(": ")[2])
            return
        # The channel may have expired during the check.
        if self._channels.get(channel.topic) is channel:
            channel.replace_token(caller)

    async def _broadcast(self, channel: Channel, payload: dict[str, Any], ref: str | None) -> None:
        if not self._shared.quota.messages.take(self):
            self._close(channel, "Too many messages per second")
            return
        if channel.config.private and channel.may_write is None:
            try:
                channel.may_write = await self._check_privilege(
                    self._shared.access.can_write, channel.caller, channel.name
                )
            except Refusal:
                return  # treat the error like a missing privilege: no delivery, no acknowledgement
        if channel.config.private and not channel.may_write:
            return
        text = frames.frame(channel.topic, "broadcast", payload)
        if self._shared.quota.is_too_large(text):
            if channel.config.acknowledges:
                self.deliver(frames.error(channel.topic, ref, "payload_size_exceeded"))
            return
        self._shared.hub.publish(
            channel.name,
            channel.config.private,
            text,
            excluding=None if channel.config.receives_own else channel,
        )
        if channel.config.acknowledges:
            self.deliver(frames.ok(channel.topic, ref))

    async def _check_privilege(
        self, check: Callable[[Caller, str], Awaitable[bool]], caller: Caller, name: str
    ) -> bool:
        """Check a privilege in the database.

        Raises:
            Refusal: The database cannot be reached, or a policy failed.
        """
        try:
            return await check(caller, name)
        except asyncpg.PostgresError as error:
            raise Refusal(f"RlsPolicyError: {error}") from None
        except (OSError, TimeoutError, asyncpg.InterfaceError):
            raise Refusal(
                "UnableToConnectToProject: Realtime was unable to connect to the project database"
            ) from None

    def _expire(self, channel: Channel) -> None:
        self._close(channel, "Token has expired 0 seconds ago")

    def _close(self, channel: Channel, message: str) -> None:
        """Close a channel from the server; clients do not join it again."""
        self._remove(channel)
        self.deliver(frames.system_error(channel.topic, message))
        self.deliver(frames.frame(channel.topic, "phx_close", {}, channel.join_ref))

    def _remove(self, channel: Channel) -> None:
        channel.stop_timer()
        self._shared.hub.remove(channel.name, channel.config.private, channel)
        if self._channels.get(channel.topic) is channel:
            del self._channels[channel.topic]


def _parse_config(payload: dict[str, Any]) -> JoinConfig:
    try:
        return JoinConfig.parse(payload)
    except ValueError as error:
        raise Refusal(f"UnableToReplayMessages: {error}") from None

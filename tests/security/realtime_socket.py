"""A Realtime socket at the level of frames, without a client library."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import websockets

_TIMEOUT = 15  # The timeout of each wait, in seconds.


class RealtimeSocket:
    """A Realtime socket. Frames that are not replies are collected in `messages`."""

    def __init__(self, socket: websockets.ClientConnection) -> None:
        self._socket = socket
        self._refs = 0
        self.messages: list[dict[str, Any]] = []

    async def send(self, topic: str, event: str, payload: Any) -> dict[str, Any]:
        """Send a frame, and wait for the reply to it or to the heartbeat that follows.

        Returns:
            The payload of the reply. It is empty if only the heartbeat, which the server handles
            later, got a reply.
        """
        self._refs += 1
        ref = str(self._refs)
        frame = {"topic": topic, "event": event, "payload": payload, "ref": ref, "join_ref": ref}
        await self._socket.send(json.dumps(frame))
        heartbeat_ref = f"heartbeat {ref}"
        await self._socket.send(
            json.dumps(
                {"topic": "phoenix", "event": "heartbeat", "payload": {}, "ref": heartbeat_ref}
            )
        )
        reply: dict[str, Any] = {}
        async with asyncio.timeout(_TIMEOUT):
            while True:
                message = json.loads(await self._socket.recv())
                if message["event"] == "phx_reply" and message["ref"] == ref:
                    reply = message["payload"]
                elif message["event"] == "phx_reply" and message["ref"] == heartbeat_ref:
                    return reply
                else:
                    self.messages.append(message)

    async def join(self, name: str, token: str, *, private: bool = True) -> str | None:
        """Join a topic; return the reason if the server refuses it."""
        config = {"private": private, "broadcast": {"ack": True, "self": False}}
        payload = {"config": config, "access_token": token}
        reply = await self.send(f"realtime:{name}", "phx_join", payload)
        return None if reply["status"] == "ok" else reply["response"]["reason"]

    async def broadcast(self, name: str, event: str) -> bool:
        """Send a message to a topic; return True if the server acknowledged it."""
        payload = {"type": "broadcast", "event": event, "payload": {}}
        reply = await self.send(f"realtime:{name}", "broadcast", payload)
        return reply.get("status") == "ok"

    async def receive_until(self, event: str) -> None:
        """Receive frames until a broadcast of this event arrives."""
        async with asyncio.timeout(_TIMEOUT):
            while not any(broadcast_event(message) == event for message in self.messages):
                self.messages.append(json.loads(await self._socket.recv()))


def broadcast_event(message: dict[str, Any]) -> str | None:
    """Return the event of a broadcast, or None for another frame."""
    return message["payload"]["event"] if message["event"] == "broadcast" else None


@asynccontextmanager
async def open_socket(api_url: str, key: str) -> AsyncIterator[RealtimeSocket]:
    """Open a socket with an API key.

    Raises:
        websockets.InvalidStatus: The server refuses the connection.
    """
    url = api_url.replace("http", "ws", 1) + f"/realtime/v1/websocket?apikey={key}&vsn=1.0.0"
    async with websockets.connect(url, open_timeout=_TIMEOUT) as socket:
        yield RealtimeSocket(socket)

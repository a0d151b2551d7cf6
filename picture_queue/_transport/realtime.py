"""A Realtime client that uses no proxy for loopback."""

from inspect import signature
from typing import Any, Final

from realtime import AsyncRealtimeClient
from websockets.asyncio.client import connect

from picture_queue._loopback import is_loopback_url

# Versions of websockets before 15 use no proxy and do not have the parameter.
_DIRECT: Final[dict[str, Any]] = {"proxy": None} if "proxy" in signature(connect).parameters else {}


class RealtimeClient(AsyncRealtimeClient):
    """A client of realtime-py that connects to loopback without a proxy.

    A proxy would see the key, and realtime-py has no option that bypasses the proxy.
    """

    async def connect(self) -> None:
        """Open the websocket unless it is open."""
        url = self.endpoint_url()
        if self.is_connected or not is_loopback_url(url):
            await super().connect()
            return
        self._ws_connection = await connect(url, open_timeout=self.timeout, **_DIRECT)
        await self._on_connect()

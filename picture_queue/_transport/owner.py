"""The process or event loop that may use a connection.

After a fork, parent and child share each socket and would read each other's answers. An asyncio
socket belongs to one event loop.
"""

import asyncio
import os
from collections.abc import AsyncGenerator, Awaitable, Callable

from picture_queue.errors import SettingsError

_left_open: list[object] = []


def leave_open(inherited: object) -> None:
    """Keep a connection that was inherited from the parent process open until the process ends.

    Closing it would end the connection of the parent, and garbage collection of an open connection
    would issue a ResourceWarning.
    """
    _left_open.append(inherited)


class ProcessOwner:
    """The process that opened a connection."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._close: Callable[[], object] | None = None

    def is_inherited(self) -> bool:
        """Return whether the parent process opened the connection, before it forked this one."""
        return self._pid != os.getpid()

    def is_current(self) -> bool:
        """Return whether this process may use the connection."""
        return self._pid == os.getpid()

    def own(self, close: Callable[[], object]) -> None:
        """Take ownership of a connection.

        Args:
            close: The function that closes the connection.
        """
        self._close = close

    def close(self) -> None:
        """Close the connection, unless it belongs to the parent process."""
        if self._close is not None and not self.is_inherited():
            self._close()


class LoopOwner:
    """The event loop that opened a connection."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._loop = asyncio.get_running_loop()
        self._closing: AsyncGenerator[None, None] | None = None

    def is_inherited(self) -> bool:
        """Return whether the parent process opened the connection, before it forked this one."""
        return self._pid != os.getpid()

    def is_current(self) -> bool:
        """Return whether this process and its running event loop may use the connection.

        Raises:
            SettingsError: Another event loop opened it and is still open.
        """
        if self._pid != os.getpid():
            return False
        if self._loop is asyncio.get_running_loop():
            return True
        if self._loop.is_closed():
            return False
        raise SettingsError(
            "This AsyncPictureQueue belongs to another event loop, which is not closed",
            hint="Create an AsyncPictureQueue in each event loop",
        )

    async def own(self, close: Callable[[], Awaitable[None]]) -> None:
        """Take ownership of a connection, and close it when the event loop ends.

        The connection is closed by an asynchronous generator that is suspended until then:
        ``asyncio.run`` finalizes such generators while the event loop can still run tasks.

        Args:
            close: The function that closes the connection.
        """
        self._closing = _call_when_finalized(close)
        await anext(self._closing)

    async def aclose(self) -> None:
        """Close the connection, if it belongs to this event loop."""
        if self._closing is not None and self.is_current():
            await self._closing.aclose()


async def _call_when_finalized(
    close: Callable[[], Awaitable[None]],
) -> AsyncGenerator[None, None]:
    try:
        yield
    finally:
        await close()

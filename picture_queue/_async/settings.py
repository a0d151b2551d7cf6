"""Settings of a project."""

from typing import Any

from picture_queue._rpc import settings as _rpc
from picture_queue._transport.backend import AsyncBackend
from picture_queue.records import Setting


class AsyncSettings:
    """The defaults and limits of a project. Every method needs a service key."""

    def __init__(self, backend: AsyncBackend) -> None:
        self._backend = backend

    async def get(self) -> Setting:
        """Return the settings."""
        return await self._backend.call(_rpc.get_settings())

    async def set(self, **changes: Any) -> Setting:
        """Change settings.

        Args:
            **changes: New values for fields of `Setting`; None resets a field to its default.

        Returns:
            The settings as they are now.

        Raises:
            InvalidArgument: A value is invalid; the error names the field and the value.
        """
        return await self._backend.call(_rpc.set_setting(changes))

# Written by scripts/unasync.py from picture_queue/_async/settings.py: edit that file.

"""Settings of a project."""

from typing import Any

from picture_queue._rpc import settings as _rpc
from picture_queue._transport.backend_sync import Backend
from picture_queue.records import Setting


class Settings:
    """The defaults and limits of a project. Every method needs a service key."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def get(self) -> Setting:
        """Return the settings."""
        return self._backend.call(_rpc.get_settings())

    def set(self, **changes: Any) -> Setting:
        """Change settings.

        Args:
            **changes: New values for fields of `Setting`; None resets a field to its default.

        Returns:
            The settings as they are now.

        Raises:
            InvalidArgument: A value is invalid; the error names the field and the value.
        """
        return self._backend.call(_rpc.set_setting(changes))

# Written by scripts/unasync.py from picture_queue/_async/limits.py: edit that file.

"""Limits and their keys."""

import builtins
from datetime import datetime

from picture_queue._rpc import limits as _rpc
from picture_queue._transport.backend_sync import Backend
from picture_queue.records import Limit, PausedKey


class Limits:
    """The limits of keys: how many jobs of a key run at once, or start in a period.

    A job has the keys ``global``, ``queue:<name>``, ``type:<job type>``, ``user:<user id>``, and
    those in its ``limit_keys``. Every method needs a service key.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def list(self, *, limit: int = 10_000, after: str | None = None) -> builtins.list[Limit]:
        """Return the keys that have a limit, are paused, or have waiting jobs.

        Args:
            limit: Maximum number of results, up to 10,000.
            after: The key of the last limit of the previous page.
        """
        return self._backend.call(_rpc.list_limits(limit, after))

    def set(
        self,
        key: str,
        *,
        max_running: int | None = None,
        rate: int | None = None,
        period: float | None = None,
    ) -> Limit:
        """Set the limit of a key. The limit applies at once; running jobs count towards it.

        Args:
            key: The key. ``user:*``, for example, gives each key ``user:<id>`` this limit.
            max_running: Maximum number of jobs of the key that run at once; None: no maximum.
            rate: Maximum number of jobs of the key that start in any ``period``; None: no maximum.
            period: The length of the period, in seconds.

        Returns:
            The limit.

        Raises:
            InvalidArgument: A value is invalid; the error names the field and the value.
        """
        return self._backend.call(_rpc.set_limit(key, max_running, rate, period))

    def delete(self, key: str) -> None:
        """Delete the limit of a key.

        Raises:
            LimitNotFound: The key has no limit.
        """
        self._backend.call(_rpc.delete_limit(key))

    def pause(self, key: str, resume_at: datetime | None = None) -> PausedKey:
        """Pause a key: its jobs do not start until the key is resumed.

        Args:
            key: The key.
            resume_at: The time at which the pause ends; None: only `resume` ends it.

        Returns:
            The key as it is now.

        Raises:
            InvalidArgument: ``resume_at`` is in the past.
        """
        return self._backend.call(_rpc.pause_key(key, resume_at))

    def resume(self, key: str) -> PausedKey:
        """Resume a paused key.

        Returns:
            The key as it is now.
        """
        return self._backend.call(_rpc.resume_key(key))

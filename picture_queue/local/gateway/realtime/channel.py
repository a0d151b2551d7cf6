"""One joined topic of one socket."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from picture_queue.local.gateway.credentials import Caller, seconds_left
from picture_queue.local.gateway.realtime import frames
from picture_queue.local.gateway.realtime.replay import ReplayRequest

# Timers reach a day ahead, then look again: no clock of an event loop likes centuries.
_LONGEST_TIMER = 86_400.0


@dataclass(frozen=True)
class JoinConfig:
    """The options of a join."""

    private: bool = False
    hears_itself: bool = False
    wants_acknowledgement: bool = False
    presence: bool = False
    wants_table_changes: bool = False
    replay: ReplayRequest | None = None

    @classmethod
    def parse(cls, payload: dict[str, Any]) -> "JoinConfig":
        """Read the payload of ``phx_join``; a missing or null part means its default.

        Raises:
            ValueError: What it says of a replay makes no sense.
        """
        config = _object(payload.get("config"))
        broadcast = _object(config.get("broadcast"))
        return cls(
            private=bool(config.get("private")),
            hears_itself=bool(broadcast.get("self")),
            wants_acknowledgement=bool(broadcast.get("ack")),
            presence=bool(_object(config.get("presence")).get("enabled")),
            wants_table_changes=bool(config.get("postgres_changes")),
            replay=ReplayRequest.parse(broadcast.get("replay")),
        )


@dataclass(eq=False)
class Channel:
    """State of a joined topic.

    Args:
        topic: As on the wire, with the prefix.
        config: How it was joined.
        caller: Whose rights it has.
        join_ref: The client's reference of its join.
        deliver: Queues a frame for the socket.
        on_expiry: Called when the caller's token ends.
    """

    topic: str
    config: JoinConfig
    caller: Caller
    join_ref: str | None
    deliver: Callable[[str], None]
    on_expiry: Callable[["Channel"], None]
    may_write: bool | None = None  # of a private topic; None: not asked yet
    _timer: asyncio.TimerHandle | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        """The topic without the prefix, as policies and the database know it."""
        return self.topic.removeprefix(frames.PREFIX)

    def adopt(self, caller: Caller) -> None:
        """Continue under a new token, and check its right to write again."""
        self.caller = caller
        self.may_write = None
        self.arm()

    def arm(self) -> None:
        """Start the timer for the end of the token."""
        self.disarm()
        left = seconds_left(self.caller.claims)
        if left is None:
            return
        loop = asyncio.get_running_loop()
        if left > _LONGEST_TIMER:
            self._timer = loop.call_later(_LONGEST_TIMER, self.arm)
        else:
            self._timer = loop.call_later(max(left, 0), self.on_expiry, self)

    def disarm(self) -> None:
        """Stop the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}

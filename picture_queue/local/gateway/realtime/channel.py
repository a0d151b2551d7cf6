"""A channel: a topic that a socket has joined."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from picture_queue.local.gateway.credentials import Caller, seconds_left
from picture_queue.local.gateway.realtime import frames
from picture_queue.local.gateway.realtime.replay import ReplayRequest

# An event loop cannot wait for centuries. So a timer for a longer time is set again each day.
_MAX_TIMER = 86_400.0  # seconds


@dataclass(frozen=True)
class JoinConfig:
    """The options of a join.

    Args:
        private: Whether policies decide who may read and write the topic.
        receives_own: Whether the channel gets its own broadcasts too.
        acknowledges: Whether the server acknowledges broadcasts of the client.
        presence: Whether the client wants the presence state, which is always empty here.
        wants_table_changes: Whether the client requests ``postgres_changes``.
        replay: The replay that the client requests.
    """

    private: bool = False
    receives_own: bool = False
    acknowledges: bool = False
    presence: bool = False
    wants_table_changes: bool = False
    replay: ReplayRequest | None = None

    @classmethod
    def parse(cls, payload: dict[str, Any]) -> "JoinConfig":
        """Parse the payload of ``phx_join``; a missing or null field has its default.

        Raises:
            ValueError: The replay request is not valid.
        """
        config = _object(payload.get("config"))
        broadcast = _object(config.get("broadcast"))
        return cls(
            private=bool(config.get("private")),
            receives_own=bool(broadcast.get("self")),
            acknowledges=bool(broadcast.get("ack")),
            presence=bool(_object(config.get("presence")).get("enabled")),
            wants_table_changes=bool(config.get("postgres_changes")),
            replay=ReplayRequest.parse(broadcast.get("replay")),
        )


@dataclass(eq=False)
class Channel:
    """State of a joined topic.

    Args:
        topic: The topic in the protocol, with the prefix.
        config: The options of the join.
        caller: The caller whose privileges apply.
        join_ref: The client's reference of the join.
        deliver: A function that queues a frame for the socket.
        on_expiry: Called when the caller's token expires.
    """

    topic: str
    config: JoinConfig
    caller: Caller
    join_ref: str | None
    deliver: Callable[[str], None]
    on_expiry: Callable[["Channel"], None]
    may_write: bool | None = None  # for a private topic; None: not checked yet
    _timer: asyncio.TimerHandle | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        """The topic without the prefix, as in policies and in the database."""
        return self.topic.removeprefix(frames.PREFIX)

    def replace_token(self, caller: Caller) -> None:
        """Replace the token; the next broadcast checks the privilege to write again."""
        self.caller = caller
        self.may_write = None
        self.start_timer()

    def start_timer(self) -> None:
        """Start the timer for the expiry of the token."""
        self.stop_timer()
        left = seconds_left(self.caller.claims)
        if left is None:
            return
        loop = asyncio.get_running_loop()
        if left > _MAX_TIMER:
            self._timer = loop.call_later(_MAX_TIMER, self.start_timer)
        else:
            self._timer = loop.call_later(max(left, 0), self.on_expiry, self)

    def stop_timer(self) -> None:
        """Stop the timer for the expiry of the token."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}

"""Faults of the simulator that a test switches on."""

from collections.abc import Iterator
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field

Kind = Literal[
    "rate_limit",
    "server_error",
    "out_of_credit",
    "lose_answer",
    "fail",
    "nsfw",
    "slow",
    "expired_output",
    "repeat_webhooks",
    "lose_webhooks",
]
Call = Literal["create", "get", "list", "cancel", "file"]


_MAX_FAULTS: Final = 1000


class Fault(BaseModel):
    """A fault that is switched on.

    Attributes:
        kind: ``rate_limit`` answers 429, ``server_error`` 500 or ``status``, ``out_of_credit`` 402,
            and the call does nothing. ``lose_answer`` makes the prediction and drops the connection
            after ``seconds``, or answers ``status``. The others change the next prediction: with
            ``fail`` and ``nsfw`` it fails, with ``slow`` it runs ``seconds`` longer, with
            ``expired_output`` its output is removed as soon as it has ended, with
            ``repeat_webhooks`` each of its webhooks is delivered twice, with ``lose_webhooks`` none
            is delivered.
        count: Number of calls that the fault affects.
        on: The call that fails, for ``rate_limit`` and ``server_error``.
        seconds: Retry-After of ``rate_limit`` (not sent if None), delay of ``lose_answer``, extra
            time of ``slow`` (30 if None).
        status: HTTP status of ``server_error`` and ``lose_answer``.
        message: Error text of ``fail``.
        queued: ``slow`` spends its time before the start instead of running.
    """

    model_config = ConfigDict(extra="forbid")

    kind: Kind
    count: int = Field(default=1, ge=1, le=10_000)
    on: Call = "create"
    seconds: float | None = Field(default=None, ge=0, le=86_400)
    status: int | None = Field(default=None, ge=500, le=599)
    message: str = Field("Director: unexpected error handling prediction (E9828)", max_length=2000)
    queued: bool = False


class Faults:
    """The faults that are switched on, the oldest first."""

    def __init__(self) -> None:
        self._waiting: list[Fault] = []

    def add(self, fault: Fault) -> None:
        """Switch a fault on.

        Raises:
            ValueError: Too many faults are on.
        """
        if len(self._waiting) >= _MAX_FAULTS:
            raise ValueError(f"{_MAX_FAULTS} faults are on; switch them off first")
        self._waiting.append(fault)

    def take(self, call: Call, *kinds: Kind) -> Fault | None:
        """Return a fault of these kinds for a call, and decrement its count.

        Returns:
            The fault; None if no such fault is on.
        """
        for fault in self._waiting:
            if fault.on == call and fault.kind in kinds:
                fault.count -= 1
                if not fault.count:
                    self._waiting.remove(fault)
                return fault
        return None

    def clear(self) -> None:
        """Switch all faults off."""
        self._waiting.clear()

    def __iter__(self) -> Iterator[Fault]:
        return iter(self._waiting)

"""Faults on demand: what shall go wrong, how often, and at which call."""

from collections.abc import Iterator
from typing import Literal

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
]
Call = Literal["create", "get", "list", "cancel", "file"]


class Fault(BaseModel):
    """One switched-on fault.

    Attributes:
        kind: ``rate_limit`` answers 429, ``server_error`` 500 or ``status``, ``out_of_credit`` 402:
            in all three nothing happens. ``lose_answer`` makes the prediction and drops the
            connection after ``seconds``, or answers ``status``. The rest shape the prediction that
            is created next: ``fail`` and ``nsfw`` let it fail, ``slow`` lets it run ``seconds``
            longer, ``expired_output`` takes its output away as soon as it has ended.
        count: How many times.
        on: The call that suffers, for ``rate_limit`` and ``server_error``.
        seconds: Retry-After of ``rate_limit`` (none sent without), delay of ``lose_answer``, extra
            time of ``slow`` (30 without).
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
    message: str = "Director: unexpected error handling prediction (E9828)"
    queued: bool = False


class Faults:
    """The faults that are switched on, in the order they came."""

    def __init__(self) -> None:
        self._waiting: list[Fault] = []

    def add(self, fault: Fault) -> None:
        """Switch a fault on."""
        self._waiting.append(fault)

    def take(self, call: Call, *kinds: Kind) -> Fault | None:
        """Use up one fault of these kinds that is meant for this call.

        Returns:
            The fault, or None when there is none.
        """
        for fault in self._waiting:
            if fault.on == call and fault.kind in kinds:
                fault.count -= 1
                if not fault.count:
                    self._waiting.remove(fault)
                return fault
        return None

    def clear(self) -> None:
        """Switch everything off."""
        self._waiting.clear()

    def __iter__(self) -> Iterator[Fault]:
        return iter(self._waiting)

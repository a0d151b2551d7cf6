"""Faults of the simulator that a test switches on."""

from collections.abc import Iterator
from typing import Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

#: Faults that replace the answer of one call.
CallFault = Literal[
    "rate_limit",
    "server_error",
    "client_error",
    "out_of_credit",
    "lose_answer",
    "html",
    "cut_body",
]
#: Faults that change the next prediction.
PredictionFault = Literal[
    "fail",
    "nsfw",
    "slow",
    "missing_output",
    "expired_output",
    "fewer_pictures",
    "bad_picture",
    "bomb",
    "wrong_type",
    "repeat_webhooks",
    "lose_webhooks",
    "late_webhooks",
    "forge_webhooks",
    "shuffle_webhooks",
]
Kind = CallFault | PredictionFault
Call = Literal["create", "get", "list", "cancel", "file", "secret", "model", "account", "upload"]
Logs = Literal["percent", "text", "empty"]

_MAX_FAULTS: Final = 1000


class Fault(BaseModel):
    """A fault that is switched on.

    Attributes:
        kind: The kind of the fault.

            Some faults replace the answer of a call, and the call does nothing. ``rate_limit``
            answers 429, ``server_error`` 500 or ``status``, ``client_error`` 404 or ``status``,
            ``out_of_credit`` 402.

            Some faults replace only the answer, after the call has succeeded. ``lose_answer`` drops
            the connection after ``seconds``, or answers ``status``. ``html`` answers 200 with a web
            page. ``cut_body`` drops the connection after half of the body.

            Some faults change the next prediction. ``fail`` and ``nsfw`` let the prediction fail.
            ``slow`` lets it run ``seconds`` longer. With ``missing_output`` it succeeds without an
            output. With ``expired_output`` its output is removed as soon as it has ended. With
            ``fewer_pictures`` its last picture is missing.

            Some faults break the file ``number`` of the next prediction. With ``bad_picture`` the
            file is not a picture. With ``bomb`` the file has 900 million pixels. With
            ``wrong_type`` the file has the content type of another format.

            Some faults change the webhooks of the next prediction. ``repeat_webhooks`` delivers
            each webhook twice, ``lose_webhooks`` delivers none, ``late_webhooks`` delivers each
            ``seconds`` late. ``forge_webhooks`` sends two webhooks that a receiver must refuse
            before each one. ``shuffle_webhooks`` sends the webhook of the end first.
        count: Number of calls that the fault affects.
        on: The call that fails, for the faults of a call.
        seconds: Retry-After of ``rate_limit`` (not sent if None), delay of ``lose_answer``, extra
            time of ``slow`` (30 if None), delay of ``late_webhooks`` (5 if None).
        status: HTTP status of ``server_error``, ``client_error`` and ``lose_answer``.
        message: Error text of ``fail``.
        queued: Whether ``slow`` delays the start of the prediction instead of its end.
        logs: Logs of ``slow``: progress bars, text, or nothing; None: the logs of the model.
        number: Number of the broken file, from 0.
    """

    model_config = ConfigDict(extra="forbid")

    kind: Kind
    count: int = Field(default=1, ge=1, le=10_000)
    on: Call = "create"
    seconds: float | None = Field(default=None, ge=0, le=86_400)
    status: int | None = Field(default=None, ge=400, le=599)
    message: str = Field("Director: unexpected error handling prediction (E9828)", max_length=2000)
    queued: bool = False
    logs: Logs | None = None
    number: int = Field(default=0, ge=0, le=99)

    @model_validator(mode="after")
    def _check_status(self) -> Self:
        is_client_error = self.status is not None and self.status < 500
        if self.status is not None and is_client_error is not (self.kind == "client_error"):
            raise ValueError(f"status is {self.status}, which is not a status of {self.kind}")
        return self


class Faults:
    """The faults that are switched on, the oldest first."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []

    def add(self, fault: Fault) -> None:
        """Switch a fault on.

        Raises:
            ValueError: Too many faults are on.
        """
        if len(self._faults) >= _MAX_FAULTS:
            raise ValueError(f"{_MAX_FAULTS} faults are on; switch them off first")
        self._faults.append(fault)

    def take(self, call: Call, *kinds: Kind) -> Fault | None:
        """Return a fault of these kinds for a call, and decrement its count.

        Returns:
            The fault; None if no such fault is on.
        """
        for fault in self._faults:
            if fault.on == call and fault.kind in kinds:
                fault.count -= 1
                if not fault.count:
                    self._faults.remove(fault)
                return fault
        return None

    def clear(self) -> None:
        """Switch all faults off."""
        self._faults.clear()

    def __iter__(self) -> Iterator[Fault]:
        return iter(self._faults)

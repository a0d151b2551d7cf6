"""The handlers of a worker by job type, and the policy of each type."""

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails, to_json

from picture_queue.errors import InvalidArgument
from picture_queue.options import Backoff
from picture_queue.worker._signature import Shape, shape_of
from picture_queue.worker.verdicts import PermanentFailure

_JOB_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,127}")
_QUEUE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
_SHOWN = 100  # characters of a value in an error


@dataclass(frozen=True, slots=True)
class Policy:
    """Settings of the jobs of a type; None leaves one to the queue, then to the project.

    Args:
        queue: Where they are enqueued.
        max_attempts: Attempts before a job fails.
        timeout: Longest run of one attempt, seconds.
        lease: Length of a lease, seconds.
        backoff: The pauses between attempts.

    Raises:
        InvalidArgument: A setting is invalid; the error names it and its value.
    """

    queue: str | None = None
    max_attempts: int | None = None
    timeout: float | None = None
    lease: float | None = None
    backoff: Backoff | None = None

    def __post_init__(self) -> None:
        queue: object = self.queue
        if queue is not None and not (isinstance(queue, str) and _QUEUE.fullmatch(queue)):
            raise InvalidArgument(
                "That is no name for a queue",
                detail=repr(self.queue),
                hint="Use letters, digits and _ . -",
            )
        for name, low in (
            ("max_attempts", 1),
            ("timeout", 0.001),
            ("lease", 1),
        ):
            value = getattr(self, name)
            is_right = isinstance(value, int | float) and low <= value < math.inf
            if value is not None and not is_right:
                raise InvalidArgument(
                    f"The policy's {name} is {value!r}", hint=f"Choose {low} or more"
                )

    def as_json(self) -> dict[str, Any]:
        """Return what is set, as `register_worker` takes it."""
        backoff = self.backoff or Backoff()
        given = {
            "queue": self.queue,
            "max_attempts": self.max_attempts,
            "timeout_seconds": self.timeout,
            "lease_seconds": self.lease,
            "backoff_policy": backoff.policy,
            "backoff_seconds": backoff.base,
            "backoff_cap_seconds": backoff.cap,
            "backoff_jitter": backoff.jitter,
        }
        return {name: value for name, value in given.items() if value is not None}


def as_backoff(backoff: Backoff | float | None, cap: float | None) -> Backoff | None:
    """Return the backoff that a handler was registered with.

    Raises:
        InvalidArgument: A number is out of range, or the cap is given twice.
    """
    if isinstance(backoff, Backoff):
        if cap is not None:
            raise InvalidArgument(
                f"backoff_cap is {cap} beside a Backoff", hint="Write it there: Backoff(cap=…)"
            )
        return backoff
    return None if backoff is None and cap is None else Backoff(base=backoff, cap=cap)


@dataclass(frozen=True, slots=True)
class Handler:
    """The function of one job type."""

    job_type: str
    function: Callable[..., Any]
    shape: Shape
    policy: Policy

    def call(self, payload: dict[str, Any], context: object) -> object:
        """Call the function with the payload, the context, both or none.

        Raises:
            PermanentFailure: The payload does not fit; names the field and its value.
        """
        given: list[Any] = []
        if self.shape.takes_payload:
            given.append(self._validated(payload))
        if self.shape.takes_context:
            given.append(context)
        return self.function(*given)

    def _validated(self, payload: dict[str, Any]) -> Any:
        if self.shape.payload is None:
            return payload
        try:
            # As JSON: strict types take a date or a uuid from text there, as they should.
            return self.shape.payload.validate_json(to_json(payload))
        except ValidationError as error:
            raise PermanentFailure(_misfit(error)) from error


class Registry:
    """The handlers of a worker."""

    def __init__(self) -> None:
        self._handlers: dict[str, Handler] = {}

    def add(self, job_type: str, function: Callable[..., Any], policy: Policy) -> None:
        """Register a handler.

        Raises:
            InvalidArgument: The name, or the function's signature, is not acceptable, or the type
                has a handler already.
        """
        if not _JOB_TYPE.fullmatch(job_type):
            raise InvalidArgument(
                "That is no name for a job type",
                detail=repr(job_type),
                hint="Use letters, digits and _ . : -",
            )
        if job_type in self._handlers:
            raise InvalidArgument(f"{job_type!r} has a handler already")
        shape = shape_of(job_type, function)
        self._handlers[job_type] = Handler(job_type, function, shape, policy)

    def __getitem__(self, job_type: str) -> Handler:
        return self._handlers[job_type]

    def __iter__(self) -> Iterator[Handler]:
        return iter(self._handlers.values())

    @property
    def job_types(self) -> tuple[str, ...]:
        """The types with a handler, sorted."""
        return tuple(sorted(self._handlers))

    def queues(self) -> tuple[str, ...]:
        """The queues of the handlers: ``default``, and those that their policies name."""
        named = {handler.policy.queue for handler in self if handler.policy.queue}
        return ("default", *sorted(named - {"default"}))

    def policies(self) -> dict[str, dict[str, Any]]:
        """Return the policy of each type, as `register_worker` takes them."""
        return {handler.job_type: handler.policy.as_json() for handler in self}


def _misfit(error: ValidationError) -> str:
    problems = error.errors(include_url=False, include_context=False)
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return f"The payload does not fit: {_problem(problems[0])}{more}"


def _problem(problem: ErrorDetails) -> str:
    field = ".".join(str(part) for part in ("payload", *problem["loc"]))
    if problem["type"] == "missing":
        return f"{field} is missing"
    value = repr(problem["input"])
    shown = value if len(value) <= _SHOWN else value[: _SHOWN - 1] + "…"
    return f"{field} is {shown}: {problem['msg']}"

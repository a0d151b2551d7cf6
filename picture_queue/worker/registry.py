"""The handlers of a worker by job type, and the policy of each type."""

import math
import re
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from pydantic_core import to_json

from picture_queue.errors import InvalidArgument
from picture_queue.options import Backoff
from picture_queue.worker._signature import HandlerSignature, read_signature
from picture_queue.worker.executor_choice import factory_of
from picture_queue.worker.verdicts import PermanentFailure

if TYPE_CHECKING:
    from picture_queue.worker.hooks import Hooks, Shared

_JOB_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,127}")
_QUEUE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
_MAX_SHOWN = 100  # characters of a value in an error


def policy_of(
    queue: str | None = None,
    max_attempts: int | None = None,
    timeout: float | None = None,
    lease: float | None = None,
    backoff: Backoff | float | None = None,
    backoff_cap: float | None = None,
) -> dict[str, Any]:
    """Return the policy of a job type as `register_worker` takes it; see `Worker.handler`.

    Raises:
        InvalidArgument: A setting is invalid; the error names it and its value.
    """
    if queue is not None and not (isinstance(queue, str) and _QUEUE.fullmatch(queue)):
        hint = "Use letters, digits and _ . -"
        raise InvalidArgument("The name of the queue is invalid", detail=repr(queue), hint=hint)
    for name, value, minimum in (
        ("max_attempts", max_attempts, 1),
        ("timeout", timeout, 0.001),
        ("lease", lease, 1),
    ):
        is_valid = isinstance(value, int | float) and minimum <= value < math.inf
        if value is not None and not is_valid:
            raise InvalidArgument(
                f"The policy's {name} is {value!r}", hint=f"Choose {minimum} or more"
            )
    if not isinstance(backoff, Backoff):
        backoff = Backoff(base=backoff, cap=backoff_cap)
    elif backoff_cap is not None:
        hint = "Write it there: Backoff(cap=…)"
        raise InvalidArgument(f"backoff_cap is {backoff_cap} with a Backoff", hint=hint)
    policy = {
        "queue": queue,
        "max_attempts": max_attempts,
        "timeout_seconds": timeout,
        "lease_seconds": lease,
        "backoff_policy": backoff.policy,
        "backoff_seconds": backoff.base,
        "backoff_cap_seconds": backoff.cap,
        "backoff_jitter": backoff.jitter,
    }
    return {name: value for name, value in policy.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Handler:
    """The function of one job type.

    Attributes:
        function: The function.
        signature: The signature of the function.
        policy: The policy of the type, as `register_worker` takes it.
        executor: The factory of the executor; None: the handler runs in the process of the worker.
        arguments: The arguments that are passed by name, while the worker runs.
        state: The value of the lifespan, while the worker runs.
        hooks: The hooks of the worker, while it runs.
    """

    function: Callable[..., Any]
    signature: HandlerSignature
    policy: dict[str, Any]
    executor: Callable[[], Executor] | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    state: Any = None
    hooks: "Hooks | None" = None

    def call(self, payload: dict[str, Any], context: object) -> object:
        """Call the function with the payload, the context, both or none.

        Raises:
            PermanentFailure: The payload is invalid; the message names the field and its value.
        """
        arguments: list[Any] = []
        if self.signature.takes_payload:
            arguments.append(self._validate(payload))
        if self.signature.takes_context:
            arguments.append(context)
        return self.function(*arguments, **self.arguments)

    def bind(self, shared: "Shared", hooks: "Hooks") -> "Handler":
        """Return the handler with the objects and the hooks of a run.

        Raises:
            InvalidArgument: The lifespan does not yield an object that the handler takes.
        """
        arguments = {name: shared.find(kind) for name, kind in self.signature.shared.items()}
        return replace(self, arguments=arguments, state=shared.value, hooks=hooks)

    def _validate(self, payload: dict[str, Any]) -> Any:
        if self.signature.payload is None:
            return payload
        try:
            # Validate JSON instead of a dict, since strict types accept a date or a UUID that is
            # written as text only in JSON.
            return self.signature.payload.validate_json(to_json(payload))
        except ValidationError as error:
            raise PermanentFailure(_describe_fault(error)) from error


class Registry(dict[str, Handler]):
    """The handlers of a worker by job type."""

    def add(
        self,
        job_type: str,
        function: Callable[..., Any],
        policy: dict[str, Any],
        executor: object = None,
    ) -> None:
        """Register a handler.

        Raises:
            InvalidArgument: The name, the signature of the function or the executor is invalid, or
                the type has a handler already.
        """
        if not _JOB_TYPE.fullmatch(job_type):
            hint = "Use letters, digits and _ . : -"
            raise InvalidArgument(
                "The name of the job type is invalid", detail=repr(job_type), hint=hint
            )
        if job_type in self:
            raise InvalidArgument(f"{job_type!r} has a handler already")
        signature = read_signature(job_type, function)
        factory = factory_of(executor, job_type, signature.is_async)
        if factory is not None and signature.shared:
            name = next(iter(signature.shared))
            hint = "Create it in the other process: the lifespan stays in the process of the worker"
            raise InvalidArgument(
                f"The handler of {job_type!r} has an executor and takes {name}", hint=hint
            )
        self[job_type] = Handler(function, signature, policy, factory)

    def set_capabilities(self, job_type: str, capabilities: dict[str, Any]) -> None:
        """Set the capabilities that `register_worker` records for a type and clients can read."""
        self[job_type].policy["capabilities"] = capabilities

    @property
    def job_types(self) -> tuple[str, ...]:
        """The types with a handler, sorted."""
        return tuple(sorted(self))

    def queues(self) -> tuple[str, ...]:
        """Return ``default`` and the queues that the policies of the handlers name."""
        queues = {handler.policy.get("queue", "default") for handler in self.values()}
        return ("default", *sorted(queues - {"default"}))

    def policies(self) -> dict[str, dict[str, Any]]:
        """Return the policy of each type, as `register_worker` takes them."""
        return {job_type: handler.policy for job_type, handler in self.items()}


def _describe_fault(error: ValidationError) -> str:
    """Return the first fault of a payload, with the field and its value, in one line."""
    first, *other_faults = error.errors(include_url=False, include_context=False)
    field = ".".join(str(part) for part in ("payload", *first["loc"]))
    fault = f"{field} is missing"
    if first["type"] != "missing":
        value = repr(first["input"])
        shown = value if len(value) <= _MAX_SHOWN else value[: _MAX_SHOWN - 1] + "…"
        fault = f"{field} is {shown}: {first['msg']}"
    more = f" (and {len(other_faults)} more)" if other_faults else ""
    return f"The payload is invalid: {fault}{more}"

"""Reads from a handler's signature what it wants: payload, context, and of which type."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import PydanticUserError, TypeAdapter

from picture_queue.errors import InvalidArgument
from picture_queue.worker.context import JobContext, SyncJobContext

_SHAPE = "Write it as (), (payload), (payload, job) or (job: JobContext)"
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_CONTEXTS = (JobContext, SyncJobContext)


@dataclass(frozen=True, slots=True)
class Shape:
    """How a handler is called.

    Attributes:
        is_async: It is a coroutine function; else it runs in a thread.
        takes_payload: Its first argument is the payload.
        takes_context: Its last argument is the context.
        payload: Validates the payload; None hands the JSON object over as it is.
    """

    is_async: bool
    takes_payload: bool
    takes_context: bool
    payload: TypeAdapter[Any] | None


def shape_of(job_type: str, function: Callable[..., Any]) -> Shape:
    """Reads a handler's signature.

    Raises:
        InvalidArgument: It cannot be called with a payload and a context, or the type of its
            payload cannot be validated.
    """
    if not callable(function):
        raise _refusal(job_type, f"{function!r} is not a function", _SHAPE)
    call = getattr(function, "__call__", None)  # noqa: B004 - an object with an async __call__
    is_async = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call)
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise _refusal(job_type, "it is a generator", "Return a value instead of yielding some")
    wanted = _parameters(job_type, function)
    takes_context = len(wanted) == 2 or (len(wanted) == 1 and _is_context(wanted[0]))
    if takes_context:
        _check_context(job_type, wanted[-1], is_async)
    takes_payload = len(wanted) - takes_context == 1
    adapter = _adapter(job_type, wanted[0].annotation) if takes_payload else None
    return Shape(is_async, takes_payload, takes_context, adapter)


def _parameters(job_type: str, function: Callable[..., Any]) -> list[inspect.Parameter]:
    try:
        signature = inspect.signature(function, eval_str=True)
    except (NameError, TypeError, ValueError, SyntaxError) as error:
        raise _refusal(
            job_type,
            f"its signature cannot be read: {error}",
            "Define the types of its arguments at the top level of a module",
        ) from error
    parameters = signature.parameters.values()
    for parameter in parameters:
        if parameter.kind is parameter.KEYWORD_ONLY and parameter.default is parameter.empty:
            raise _refusal(job_type, f"{parameter.name} can only be given by name", _SHAPE)
    positional = [p for p in parameters if p.kind in _POSITIONAL]
    required = [p for p in positional if p.default is p.empty]
    if len(required) > 2:
        names = ", ".join(p.name for p in required)
        raise _refusal(job_type, f"it requires {len(required)} arguments ({names})", _SHAPE)
    # A second argument with a default is the function's own affair, unless it says context.
    return positional[:1] + [p for p in positional[1:2] if p in required or _is_context(p)]


def _is_context(parameter: inspect.Parameter) -> bool:
    return parameter.annotation in _CONTEXTS


def _check_context(job_type: str, parameter: inspect.Parameter, is_async: bool) -> None:
    right, wrong = _CONTEXTS if is_async else reversed(_CONTEXTS)
    if parameter.annotation is wrong:
        kind = "an async" if is_async else "a sync"
        raise _refusal(
            job_type,
            f"{kind} handler takes no {wrong.__name__}",
            f"Annotate {parameter.name} with {right.__name__}",
        )


def _adapter(job_type: str, annotation: Any) -> TypeAdapter[Any] | None:
    if annotation in (inspect.Parameter.empty, Any, dict, dict[str, Any]):
        return None
    try:
        return TypeAdapter(annotation)
    except PydanticUserError as error:  # its subclass for types without a schema included
        raise _refusal(
            job_type,
            f"its payload cannot be validated as {annotation!r}: {str(error).splitlines()[0]}",
            "Use a pydantic model, a dataclass, a TypedDict or dict",
        ) from error


def _refusal(job_type: str, why: str, hint: str) -> InvalidArgument:
    return InvalidArgument(f"The handler of {job_type!r} is not usable", detail=why, hint=hint)

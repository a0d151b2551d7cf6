"""Read a handler's signature: whether it takes the payload and the context, and their types."""

import contextlib
import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, get_args

from pydantic import PydanticUndefinedAnnotation, PydanticUserError, TypeAdapter

from picture_queue.errors import InvalidArgument
from picture_queue.worker.context import JobContext, SyncJobContext

_SIGNATURE_HINT = "Write it as (), (payload), (payload, job) or (job: JobContext)"
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_MAX_LAYERS = 100
_CONTEXTS = (JobContext, SyncJobContext)
_CONTEXT_PATTERN = re.compile(rf"\b({'|'.join(context.__name__ for context in _CONTEXTS)})\b")

# An undefined name in an annotation must not raise: the type of the result may be imported for type
# checkers only.
if sys.version_info >= (3, 14):
    from annotationlib import Format

    _inspect = partial(inspect.signature, annotation_format=Format.FORWARDREF)
else:
    _inspect = inspect.signature


@dataclass(frozen=True, slots=True)
class HandlerSignature:
    """The signature of a handler, as far as the worker needs it to call the handler.

    Attributes:
        is_async: Whether the handler is called in the event loop and its return value is awaited;
            otherwise it runs in a thread.
        takes_payload: Whether its first argument is the payload.
        takes_context: Whether its last argument is the context.
        payload: The type that validates the payload; None: it is passed as a dict, unvalidated.
        shared: The types of the arguments that are passed by name: objects of the lifespan.
    """

    is_async: bool
    takes_payload: bool
    takes_context: bool
    payload: TypeAdapter[Any] | None
    shared: Mapping[str, type] = field(default_factory=dict)


class _Unusable(Exception):
    """The reason why a function cannot be a handler, and a hint."""


def read_signature(job_type: str, function: Callable[..., Any]) -> HandlerSignature:
    """Read a handler's signature.

    Raises:
        InvalidArgument: The handler cannot be called with a payload and a context, or the type of
            its payload cannot be validated.
    """
    try:
        return _read_signature(function)
    except _Unusable as error:
        fault, hint = error.args
        raise InvalidArgument(
            f"The handler of {job_type!r} is not usable", detail=fault, hint=hint
        ) from error.__cause__


def _read_signature(function: Callable[..., Any]) -> HandlerSignature:
    if inspect.isclass(function):
        hint = "Register a function, or an instance of the class that has __call__"
        raise _Unusable(f"{function.__name__} is a class", hint)
    if not callable(function):
        raise _Unusable(f"{function!r} is not a function", _SIGNATURE_HINT)
    layers = list(_layers(function))
    if any(inspect.isgeneratorfunction(f) or inspect.isasyncgenfunction(f) for f in layers):
        raise _Unusable("it is a generator", "Return a value instead of yielding some")
    is_async = any(inspect.iscoroutinefunction(layer) for layer in layers)
    parameters = _passed_parameters(function)
    takes_context = len(parameters) == 2 or (
        len(parameters) == 1 and bool(_context_names(parameters[0]))
    )
    right, wrong = (
        context.__name__ for context in (_CONTEXTS if is_async else reversed(_CONTEXTS))
    )
    if takes_context and _context_names(parameters[-1]) == [wrong]:
        kind = "an async" if is_async else "a sync"
        hint = f"Annotate {parameters[-1].name} with {right}"
        raise _Unusable(f"{kind} handler takes no {wrong}", hint)
    takes_payload = len(parameters) - takes_context == 1
    adapter = _payload_adapter(parameters[0]) if takes_payload else None
    shared = _shared_types(function)
    return HandlerSignature(is_async, takes_payload, takes_context, adapter, shared)


def _layers(function: Callable[..., Any]) -> Iterator[Any]:
    """Yield a callable and each callable that it wraps, as a partial, decorator or `__call__`."""
    layer: Any = function
    for _ in range(_MAX_LAYERS):  # a `__wrapped__` can lead back to itself
        yield layer
        if isinstance(layer, partial):
            layer = layer.func
        elif hasattr(layer, "__wrapped__"):
            layer = layer.__wrapped__
        elif not (inspect.isroutine(layer) or inspect.isclass(layer)):
            layer = type(layer).__call__
        else:
            return


def _passed_parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """Return the parameters to which the worker passes the payload and the context."""
    signature = _signature(function)
    parameters = list(signature.parameters.values())
    positional = [p for p in parameters if p.kind in _POSITIONAL]
    if not positional and any(p.kind is not p.KEYWORD_ONLY for p in parameters):
        raise _Unusable(
            f"{signature} does not show whether it takes the payload and the job",
            "Name its arguments, or put @functools.wraps(function) on the wrapper",
        )
    required = [p.name for p in positional if p.default is p.empty]
    names = ", ".join(required)
    if len(required) > 2:
        raise _Unusable(f"it requires {len(required)} arguments ({names})", _SIGNATURE_HINT)
    if positional and positional[0].name in ("self", "cls"):
        raise _Unusable(
            f"it is a method that is not bound to an object ({names})",
            "Register the method of an object: worker.handler(…)(object.method)",
        )
    first_two = [p.replace(annotation=_resolve(p.annotation, function)) for p in positional[:2]]
    if len(first_two) == 2 and _context_names(first_two[0]):
        raise _Unusable(f"its first argument is the context ({names})", _SIGNATURE_HINT)
    # A second argument with a default is not passed, unless it is the context.
    return first_two[:1] + [p for p in first_two[1:] if p.name in required or _context_names(p)]


def _shared_types(function: Callable[..., Any]) -> dict[str, type]:
    """Return the types of the parameters that can only be given by name, and have no default."""
    shared = {}
    for parameter in _signature(function).parameters.values():
        if parameter.kind is not parameter.KEYWORD_ONLY or parameter.default is not parameter.empty:
            continue
        kind = _resolve(parameter.annotation, function)
        if not inspect.isclass(kind) or kind is parameter.empty:
            hint = f"{_SIGNATURE_HINT}, or annotate {parameter.name} with a class of the lifespan"
            raise _Unusable(f"{parameter.name} can only be given by name", hint)
        shared[parameter.name] = kind
    return shared


def _signature(function: Callable[..., Any]) -> inspect.Signature:
    """Return the signature of a function, or of the function in a wrapper with ``*args``."""

    def names_arguments(layer: Callable[..., Any]) -> bool:
        parameters = _inspect(layer, follow_wrapped=False).parameters.values()
        return not any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters)

    try:
        if not inspect.isfunction(function):
            return _inspect(function)
        return _inspect(inspect.unwrap(function, stop=names_arguments), follow_wrapped=False)
    except (NameError, TypeError, ValueError, SyntaxError) as error:
        raise _Unusable(f"its signature cannot be read: {error}", _SIGNATURE_HINT) from error


def _resolve(annotation: Any, function: Callable[..., Any]) -> Any:
    """Return the value of an annotation, or its text if a name in it is not defined."""
    text = getattr(annotation, "__forward_arg__", annotation)
    if not isinstance(text, str):
        return annotation
    for layer in _layers(function):
        with contextlib.suppress(
            Exception
        ):  # the layer is no function, or lacks a name of the text
            code = getattr(layer, "__func__", layer)
            local = dict(inspect.getclosurevars(code).nonlocals)
            local.update((p.__name__, p) for p in getattr(code, "__type_params__", ()))
            value = eval(text, code.__globals__, local)  # noqa: S307 # nosec: Python does the same
            # The value is text if the annotation is in quotes and the module postpones annotations.
            return _resolve(value, layer) if isinstance(value, str) else value
    return text


def _context_names(parameter: inspect.Parameter) -> list[str]:
    """Return the names of the contexts in an annotation, such as ``JobContext | None``."""
    annotation = parameter.annotation
    if isinstance(annotation, str):  # its names may be imported for type checkers only
        return _CONTEXT_PATTERN.findall(annotation)
    types = (annotation, *get_args(annotation))
    return [context.__name__ for context in _CONTEXTS if context in types]


def _payload_adapter(parameter: inspect.Parameter) -> TypeAdapter[Any] | None:
    annotation = parameter.annotation
    if annotation in (inspect.Parameter.empty, Any, dict, dict[str, Any]):
        return None
    if isinstance(annotation, str):
        raise _Unusable(
            f"the type of {parameter.name}, {annotation}, is not defined when the program runs",
            "Define it at the top level of a module, and import it outside of `if TYPE_CHECKING:`",
        )
    try:
        adapter = TypeAdapter(annotation)
        if not getattr(adapter, "pydantic_complete", True):  # the type contains an undefined name
            adapter.rebuild(raise_errors=True)
        return adapter
    # The error for types without a schema is a subclass of PydanticUserError.
    except (PydanticUserError, PydanticUndefinedAnnotation) as error:
        raise _Unusable(
            f"its payload cannot be validated as {annotation!r}: {str(error).splitlines()[0]}",
            "Use a pydantic model, a dataclass, a TypedDict or dict",
        ) from error

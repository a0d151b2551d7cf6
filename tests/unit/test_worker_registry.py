"""Registration of handlers: their signatures, the types of their payloads, and their policies."""

from dataclasses import dataclass, replace
from datetime import date
from functools import lru_cache, partial, wraps
from typing import TYPE_CHECKING, Annotated, Any, cast
from uuid import UUID

import pytest
from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import TypedDict

from picture_queue import Backoff, InvalidArgument, JobContext, PermanentFailure, Worker
from picture_queue.worker import SyncJobContext
from picture_queue.worker.registry import Handler, Registry, policy_of

if TYPE_CHECKING:
    import only_for_type_checkers
    from only_for_type_checkers import OnlyForTypeCheckers


class Resize(BaseModel):
    path: str
    width: int = Field(100, ge=1, le=4000)


class Strict(BaseModel):
    model_config = ConfigDict(strict=True)

    day: date
    id: UUID


@dataclass
class Crop:
    left: int


class Turn(TypedDict):
    degrees: int


def register(function: Any, job_type: str = "resize") -> Handler:
    registry = Registry()
    registry.add(job_type, function, {})
    return registry[job_type]


def arguments_of_call(handler: Handler, payload: Any, context: Any) -> list[Any]:
    """Return the arguments with which the function of a handler is called."""
    recording = replace(handler, function=lambda *arguments: list(arguments))
    return cast(list[Any], recording.call(payload, context))


async def no_arguments() -> None: ...
async def untyped(payload): ...  # type: ignore[no-untyped-def]
async def as_dict(payload: dict[str, Any], job: JobContext) -> None: ...
async def only_context(job: JobContext) -> None: ...
async def with_default(payload: dict[str, Any], job: JobContext, extra: int = 1) -> None: ...
async def own_default(payload: dict[str, Any], size: int = 1) -> None: ...
def in_a_thread(payload: dict[str, Any], job: SyncJobContext) -> None: ...
def only_sync_context(job: SyncJobContext) -> None: ...


class CallableObject:
    async def __call__(self, payload: dict[str, Any], job: JobContext) -> None: ...

    async def method(self, payload: dict[str, Any]) -> None: ...


@pytest.mark.parametrize(
    ("function", "is_async", "arguments"),
    [
        (no_arguments, True, []),
        (untyped, True, ["payload"]),
        (as_dict, True, ["payload", "context"]),
        (only_context, True, ["context"]),
        (with_default, True, ["payload", "context"]),
        (own_default, True, ["payload"]),
        (in_a_thread, False, ["payload", "context"]),
        (only_sync_context, False, ["context"]),
        (CallableObject(), True, ["payload", "context"]),
        (CallableObject().method, True, ["payload"]),
        (partial(with_default, extra=2), True, ["payload", "context"]),
        (lambda: 1, False, []),
    ],
)
def test_supported_signatures_are_accepted(function, is_async, arguments):
    handler = register(function)
    assert handler.signature.is_async is is_async
    assert arguments_of_call(handler, {"a": 1}, "context") == [
        {"a": 1} if name == "payload" else "context" for name in arguments
    ]


# --- Decorators, partials and callable objects ---


def pass_through(function: Any) -> Any:
    @wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


def with_database(function: Any) -> Any:
    @wraps(function)
    async def wrapper(payload: Any, job: Any) -> Any:
        return await function(payload, job, "database")

    return wrapper


async def typed(payload: Resize, job: JobContext) -> None: ...
async def with_database_argument(payload: Resize, job: JobContext, database: str) -> None: ...
async def as_text(payload: "Resize", job: "JobContext") -> "OnlyForTypeCheckers": ...
async def context_as_text(payload: "Resize", job: "OnlyForTypeCheckers") -> None: ...
async def only_context_as_text(job: "only_for_type_checkers.JobContext") -> None: ...
async def maybe_context(payload: Resize, job: JobContext | None = None) -> None: ...
async def with_rest(payload: Resize, *rest: Any, **named: Any) -> None: ...
def in_a_thread_typed(payload: Resize, job: SyncJobContext) -> None: ...


class Decorated:
    @pass_through
    async def __call__(self, payload: Resize, job: JobContext) -> None: ...

    @pass_through
    async def method(self, payload: Resize, job: JobContext) -> None: ...

    @staticmethod
    async def static(payload: Resize, job: JobContext) -> None: ...

    @classmethod
    async def of_class(cls, payload: Resize, job: JobContext) -> None: ...


def make_local_handler() -> Any:
    class Local(BaseModel):
        width: int

    async def handle(payload: "Local", job: "JobContext") -> "Local":
        return Local(width=payload.width)

    return handle


@pytest.mark.parametrize(
    ("function", "is_async", "takes"),
    [
        (pass_through(typed), True, "payload job"),
        (pass_through(pass_through(typed)), True, "payload job"),
        (pass_through(in_a_thread_typed), False, "payload job"),
        (with_database(with_database_argument), True, "payload job"),
        (pass_through(with_database(with_database_argument)), True, "payload job"),
        (as_text, True, "payload job"),
        (context_as_text, True, "payload job"),
        (only_context_as_text, True, "job"),
        (maybe_context, True, "payload job"),
        (with_rest, True, "payload"),
        (Decorated(), True, "payload job"),
        (Decorated().method, True, "payload job"),
        (Decorated.static, True, "payload job"),
        (Decorated.__dict__["static"], True, "payload job"),
        (Decorated.of_class, True, "payload job"),
        (partial(with_database_argument, database="database"), True, "payload job"),
        (partial(pass_through(typed)), True, "payload job"),
        (partial(Decorated()), True, "payload job"),
        (lru_cache(in_a_thread_typed), False, "payload job"),
        (make_local_handler(), True, "payload job"),
    ],
)
def test_the_signature_of_the_innermost_function_is_used(function, is_async, takes):
    signature = register(function).signature
    assert signature.is_async is is_async
    assert signature.takes_payload is ("payload" in takes)
    assert signature.takes_context is ("job" in takes)
    assert (signature.payload is not None) is signature.takes_payload


def test_annotations_that_are_quoted_twice_are_read():
    """With `from __future__ import annotations`, a quoted annotation is quoted a second time."""

    async def handle(payload: Any, job: Any) -> None: ...

    handle.__annotations__ |= {"payload": "'Resize'", "job": "'JobContext'"}
    signature = register(handle).signature
    assert signature.payload is not None
    assert signature.payload.validate_python({"path": "a"}) == Resize(path="a")
    assert signature.takes_context


def test_a_queue_name_that_is_not_a_string_is_refused():
    with pytest.raises(InvalidArgument, match="The name of the queue is invalid: 5"):
        Worker().handler("resize", queue=5)  # type: ignore[arg-type]


async def three_arguments(payload, job, more): ...  # type: ignore[no-untyped-def]
async def by_name(payload, *, size): ...  # type: ignore[no-untyped-def]
async def async_generator(payload):  # type: ignore[no-untyped-def]
    yield 1


def sync_generator(payload):  # type: ignore[no-untyped-def]
    yield 1


async def sync_context(payload, job: SyncJobContext): ...  # type: ignore[no-untyped-def]
def async_context(payload, job: JobContext): ...  # type: ignore[no-untyped-def]
async def unknown(payload: "Nowhere"): ...  # type: ignore[no-untyped-def,name-defined]  # noqa: F821
async def unknown_inside(payload: "list[Nowhere]"): ...  # type: ignore[no-untyped-def,name-defined]  # noqa: F821
async def incomplete(payload: "Incomplete") -> None: ...
async def no_schema(payload: Registry) -> None: ...
async def context_first(job: JobContext, payload: Resize) -> None: ...
def by_name_only(**payload: Any) -> None: ...
def anything(*args: Any, **kwargs: Any) -> None: ...


class Incomplete(BaseModel):
    inner: "Nowhere"  # type: ignore[name-defined]  # noqa: F821


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (three_arguments, "requires 3 arguments .payload, job, more."),
        (by_name, "size can only be given by name"),
        (async_generator, "generator"),
        (sync_generator, "generator"),
        (sync_context, "async handler takes no SyncJobContext.*JobContext"),
        (async_context, "sync handler takes no JobContext.*SyncJobContext"),
        (unknown, "the type of payload, Nowhere, is not defined .* `if TYPE_CHECKING:`"),
        (unknown_inside, r"the type of payload, list\[Nowhere\], is not defined"),
        (incomplete, "Incomplete.*Nowhere"),
        (context_first, r"its first argument is the context .job, payload."),
        (anything, r"\*args.* does not show .* @functools.wraps"),
        (by_name_only, r"\*\*payload.* does not show"),
        (CallableObject, "CallableObject is a class. Register a function, or an instance"),
        (Resize, "Resize is a class"),
        (CallableObject.method, r"not bound to an object .self, payload. .*object.method"),
        (no_schema, "Registry"),
        ("resize", "not a function"),
    ],
)
def test_unsupported_signatures_are_refused(function, expected):
    with pytest.raises(InvalidArgument, match=expected) as raised:
        register(function)
    assert "'resize'" in str(raised.value)


@pytest.mark.parametrize(
    ("annotation", "payload", "value"),
    [
        (Resize, {"path": "a.png"}, Resize(path="a.png", width=100)),
        (Crop, {"left": "3"}, Crop(3)),
        (Turn, {"degrees": 90}, {"degrees": 90}),
        (dict[str, int], {"a": "1"}, {"a": 1}),
        (Annotated[dict[str, int], Field(min_length=1)], {"a": 1}, {"a": 1}),
        # Even a strict model reads a date in JSON from text.
        (
            Strict,
            {"day": "2026-01-02", "id": str(UUID(int=1))},
            Strict(day=date(2026, 1, 2), id=UUID(int=1)),
        ),
    ],
)
def test_a_payload_is_validated(annotation, payload, value):
    async def handle(payload):  # type: ignore[no-untyped-def]
        ...

    handle.__annotations__["payload"] = annotation
    assert arguments_of_call(register(handle), payload, None) == [value]


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        ({}, "The payload is invalid: payload.path is missing"),
        ({"path": "a", "width": 0}, "payload.width is 0: Input should be greater than or equal"),
        ({"path": 1, "width": "x"}, "payload.path is 1: Input should be a valid string (and 1 mor"),
        ({"path": "a", "width": "x" * 999}, f"payload.width is '{'x' * 98}…: Input should be"),
    ],
)
def test_a_validation_error_names_field_and_value(payload, expected):
    async def handle(payload: Resize) -> None: ...

    with pytest.raises(PermanentFailure) as raised:
        register(handle).call(payload, None)
    assert expected in str(raised.value)


@pytest.mark.parametrize("name", ["", "no spaces", "-first", "x" * 129])
def test_an_invalid_job_type_is_refused(name):
    with pytest.raises(InvalidArgument, match="The name of the job type is invalid"):
        Worker().handler(name)(no_arguments)


def test_a_decorator_without_parentheses_is_refused_at_once():
    with pytest.raises(InvalidArgument, match=r'Use @worker.handler\("<job type>"\)'):

        @Worker().handler
        async def resize() -> None: ...


def test_a_second_handler_of_a_job_type_is_refused():
    worker = Worker()
    assert worker.handler("resize")(no_arguments) is no_arguments
    with pytest.raises(InvalidArgument, match="'resize' has a handler already"):
        worker.handler("resize")(untyped)
    assert worker.job_types == ("resize",)


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ({"timeout": 0}, "timeout is 0"),
        ({"timeout": "60"}, "timeout is '60'"),
        ({"timeout": float("nan")}, "timeout is nan"),
        ({"timeout": float("inf")}, "timeout is inf"),
        ({"max_attempts": 0}, "max_attempts is 0"),
        ({"lease": 0.5}, "lease is 0.5"),
        ({"backoff": -1}, "backoff's base is -1"),
        ({"backoff": float("nan")}, "backoff's base is nan"),
        ({"backoff_cap": 0}, "backoff's cap is 0"),
        ({"backoff": Backoff("linear"), "backoff_cap": 9}, "backoff_cap is 9 with a Backoff"),
        ({"queue": "no spaces"}, "queue"),
    ],
)
def test_an_invalid_policy_is_refused(policy, expected):
    with pytest.raises(InvalidArgument, match=expected):
        Worker().handler("resize", **policy)


@pytest.mark.parametrize(
    ("backoff", "expected"),
    [
        ({"policy": "random"}, "policy is 'random'"),
        ({"jitter": 1.5}, "jitter is 1.5"),
        ({"cap": 1e9}, "cap is 1000000000.0"),
    ],
)
def test_an_invalid_backoff_is_refused(backoff, expected):
    with pytest.raises(InvalidArgument, match=expected):
        Backoff(**backoff)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {}),
        ({"backoff": 2}, {"backoff_seconds": 2}),
        (
            {"backoff": 2, "backoff_cap": 100},
            {"backoff_seconds": 2, "backoff_cap_seconds": 100},
        ),
        (
            {"backoff": Backoff("linear", 2, 100, 0)},
            {
                "backoff_policy": "linear",
                "backoff_seconds": 2,
                "backoff_cap_seconds": 100,
                "backoff_jitter": 0,
            },
        ),
    ],
)
def test_a_backoff_is_a_number_of_seconds_or_a_policy(options, expected):
    worker = Worker()
    worker.handler("resize", **options)(no_arguments)
    assert worker._registry.policies() == {"resize": expected}


def test_policies_are_encoded_for_the_database():
    registry = Registry()
    registry.add("resize", no_arguments, policy_of("big", 5, 60, 10, Backoff(base=2, cap=100)))
    registry.add("crop", no_arguments, {})
    assert registry.job_types == ("crop", "resize")
    assert registry.policies() == {
        "crop": {},
        "resize": {
            "queue": "big",
            "max_attempts": 5,
            "timeout_seconds": 60,
            "lease_seconds": 10,
            "backoff_seconds": 2,
            "backoff_cap_seconds": 100,
        },
    }

"""`Rpc`, a call of a SQL function as a value, and helpers to encode arguments and parse results.

The backend executes the same `Rpc` again if its answer was lost. Ids of new rows and requests are
therefore generated when the `Rpc` is built. So a retry finds the rows that the first attempt wrote.
"""

from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypeVar
from uuid import UUID

from pydantic import BaseModel, TypeAdapter, ValidationError

from picture_queue._json import to_plain
from picture_queue._log import Log
from picture_queue.errors import InvalidArgument

T = TypeVar("T")
R = TypeVar("R", bound=BaseModel)

_log = Log(__name__)

# The database would refuse a text that is not a uuid without naming the argument.
_UUID_ARGUMENTS = frozenset(("batch_id", "generation_id", "job_id", "user_id"))


class Rpc(NamedTuple, Generic[T]):
    """One call of a SQL function.

    Args:
        function: Name in the schema ``public``.
        params: Arguments by name, as JSON; omitted parameters take the function's defaults.
        parse: Function that converts the returned JSON into the result.
    """

    function: str
    params: dict[str, Any]
    parse: Callable[[Any], T]


def omit_none(**params: Any) -> dict[str, Any]:
    """Return the arguments as JSON, without None: omitted arguments take the function's defaults.

    Raises:
        InvalidArgument: An argument cannot be written as JSON.
    """
    return {name: to_plain(value, name) for name, value in params.items() if value is not None}


def keep_none(**params: Any) -> dict[str, Any]:
    """Return all arguments as JSON; None is sent as null.

    Raises:
        InvalidArgument: An argument cannot be written as JSON, or an id is not a uuid.
    """
    for name, value in params.items():
        if name in _UUID_ARGUMENTS:
            _expect_uuid(name, value)
    return {name: to_plain(value, name) for name, value in params.items()}


def _expect_uuid(name: str, value: object) -> None:
    if isinstance(value, str):
        try:
            UUID(value)
        except ValueError:
            raise InvalidArgument(
                "An argument is invalid",
                detail=f"{name} is {value[:100]!r}, which is not a uuid",
                hint="Pass the id that the call which created it returned",
            ) from None


def parse_nothing(_: Any) -> None:
    """Ignore the answer of a function that returns no result."""


def row_parser(record: type[R]) -> Callable[[Any], list[R]]:
    """Return a parser of rows that logs and skips each row that does not match the record."""
    adapter = TypeAdapter(list[record])  # type: ignore[valid-type]

    def parse(data: Any) -> list[R]:
        try:
            return adapter.validate_python(data)
        except ValidationError:
            if not isinstance(data, list):
                raise
        records = []
        for row in data:
            try:
                records.append(record.model_validate(row))
            except ValidationError as error:
                row_id = row.get("id") if isinstance(row, dict) else row
                _log.error(
                    "Skipped %s %s, which cannot be read: %s", record.__name__, row_id, error
                )
        return records

    return parse


def list_page(function: str, record: type[R], limit: int, after: str | None) -> Rpc[list[R]]:
    """Return the call that lists up to ``limit`` rows whose name or key comes after ``after``."""
    params = {"filter": omit_none(limit=limit, after=after)}
    return Rpc(function, params, TypeAdapter(list[record]).validate_python)  # type: ignore[valid-type]

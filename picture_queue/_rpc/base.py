"""The call of a SQL function as a value, and the parts that all functions share.

A value of `Rpc` is a call that a transport can make, and make again after a lost answer: whatever
needs an id gets it here, so a repetition meets what the first call wrote.
"""

import logging
from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from picture_queue._json import plain

T = TypeVar("T")
R = TypeVar("R", bound=BaseModel)

_log = logging.getLogger(__name__)


class Rpc(NamedTuple, Generic[T]):
    """One call of a SQL function.

    Args:
        function: Name in the schema ``public``.
        params: Arguments by name, as JSON; a name left out takes the function's default.
        parse: Turns the JSON that came back into the result.
    """

    function: str
    params: dict[str, Any]
    parse: Callable[[Any], T]


def given(**params: Any) -> dict[str, Any]:
    """Return the arguments that are not None, as JSON; for the others the function's default holds.

    Raises:
        InvalidArgument: One of them is no JSON.
    """
    return {name: plain(value, name) for name, value in params.items() if value is not None}


def required(**params: Any) -> dict[str, Any]:
    """Return the arguments as JSON, None as null.

    Raises:
        InvalidArgument: One of them is no JSON.
    """
    return {name: plain(value, name) for name, value in params.items()}


def nothing(_: Any) -> None:
    return None


def rows(record: type[R]) -> Callable[[Any], list[R]]:
    """Return a parser of rows; one that does not fit is logged and left out."""
    adapter = TypeAdapter(list[record])  # type: ignore[valid-type]

    def parse(data: Any) -> list[R]:
        try:
            return adapter.validate_python(data)
        except ValidationError:
            if not isinstance(data, list):
                raise
        found = []
        for row in data:
            try:
                found.append(record.model_validate(row))
            except ValidationError as error:
                row_id = row.get("id") if isinstance(row, dict) else row
                _log.error(
                    "%s %s cannot be read and is left out: %s", record.__name__, row_id, error
                )
        return found

    return parse


def listed(function: str, record: type[R], limit: int, after: str | None) -> Rpc[list[R]]:
    params = {"filter": given(limit=limit, after=after)}
    return Rpc(function, params, TypeAdapter(list[record]).validate_python)  # type: ignore[valid-type]

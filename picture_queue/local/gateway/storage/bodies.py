"""Parsing of JSON bodies, with the checks, conversions and messages of storage-api's schemas.

In each function, `where` is the place of the value in the request, for the message of an error.
"""

from typing import Any

from starlette.requests import Request

from picture_queue.local import json_body
from picture_queue.local.gateway.storage.errors import StorageError, invalid

_JSON = "application/json"


def _fastify_error(message: str) -> StorageError:
    return StorageError(
        400,
        "FastifyError",
        f"Body {message} when content-type is set to '{_JSON}'",
        "InvalidRequest",
    )


async def read_object(request: Request, *required: str) -> dict[str, Any]:
    """Return the body as a JSON object with these keys.

    Raises:
        StorageError: The body is not an object, or a key is missing.
    """
    body = await read_optional(request)
    if not isinstance(body, dict):
        raise invalid("body must be object")
    for name in required:
        if name not in body:
            raise invalid(f"body must have required property '{name}'")
    return body


async def read_optional(request: Request) -> object:
    """Return the JSON body; None for another content type.

    Raises:
        StorageError: The body is not valid JSON, or too large.
    """
    if not request.headers.get("content-type", "").startswith(_JSON):
        return None
    try:
        text = await json_body.receive(request)
    except json_body.BodyTooLarge as error:
        raise StorageError(413, "FastifyError", str(error), "InvalidRequest", 413) from None
    if not text:
        raise _fastify_error("cannot be empty")
    try:
        return json_body.parse(text)
    except ValueError:
        raise StorageError(
            400,
            "FastifyError",
            f"Body is not valid JSON but content-type is set to '{_JSON}'",
            "InvalidRequest",
        ) from None


def parse_integer(value: object, where: str, minimum: int) -> int:
    """Return an integer; digits in a string are converted, and null counts as 0.

    Raises:
        StorageError: The value is not an integer, or too small.
    """
    if value is None:
        number = 0
    elif isinstance(value, bool | int) or (isinstance(value, float) and value.is_integer()):
        number = int(value)
    else:
        try:
            number = int(str(value))
        except ValueError:
            raise invalid(f"{where} must be integer") from None
    if number < minimum:
        raise invalid(f"{where} must be >= {minimum}")
    return number


def parse_boolean(value: object, where: str) -> bool:
    """Return a boolean; "true" and "false" are converted, and null counts as false.

    Raises:
        StorageError: The value is not a boolean.
    """
    if isinstance(value, bool):
        return value
    if value in ("true", "false"):
        return value == "true"
    if value is None:
        return False
    raise invalid(f"{where} must be boolean")


def parse_choice(value: object, where: str, allowed: tuple[str, ...]) -> str:
    """Return one of the allowed texts.

    Raises:
        StorageError: The value is not allowed.
    """
    if value not in allowed:
        raise invalid(f"{where} must be equal to one of the allowed values")
    return str(value)


def parse_texts(value: object, where: str, *, max_items: int = 1000) -> list[str]:
    """Return a list of texts with at least one entry.

    Raises:
        StorageError: The value is not a list, or the list is empty or too long.
    """
    if not isinstance(value, list):
        raise invalid(f"{where} must be array")
    if not value:
        raise invalid(f"{where} must NOT have fewer than 1 items")
    if len(value) > max_items:
        raise invalid(f"{where} must NOT have more than {max_items} items")
    return [str(entry) for entry in value]

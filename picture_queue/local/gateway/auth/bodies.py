"""JSON of requests and answers, with the checks and messages of GoTrue."""

import re
from datetime import datetime
from typing import Any, Final

import asyncpg
from starlette.requests import Request

from picture_queue.local import json_body
from picture_queue.local.gateway.auth.errors import AuthError

_MIN_PASSWORD_LENGTH: Final = 6
_MAX_PASSWORD_BYTES: Final = 72  # the maximum of bcrypt, which GoTrue uses
_EMAIL: Final = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s.]+")


async def read_object(request: Request, *, optional: bool = False) -> dict[str, Any]:
    """Read the body of a request as a JSON object.

    Args:
        request: The request.
        optional: Whether an empty body counts as an empty object.

    Raises:
        AuthError: The body is not a JSON object.
        BodyTooLarge: The body is larger than 1 MiB.
    """
    text = await json_body.receive(request)
    if optional and not text:
        return {}
    try:
        body = json_body.parse(text)
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise AuthError(400, "bad_json", "Could not parse request body as JSON")
    return body


def parse_email(body: dict[str, Any]) -> str:
    """Return the body's e-mail address, in lower case.

    Raises:
        AuthError: The address is not valid.
    """
    address = str(body["email"]).strip().lower()
    if not _EMAIL.fullmatch(address):
        raise AuthError(
            400, "validation_failed", "Unable to validate email address: invalid format"
        )
    return address


def parse_password(body: dict[str, Any]) -> str:
    """Return the body's new password.

    Raises:
        AuthError: The password is missing, too long or too weak.
    """
    password = body.get("password")
    if not isinstance(password, str) or not password:
        raise AuthError(400, "validation_failed", "Signup requires a valid password")
    if len(password.encode()) > _MAX_PASSWORD_BYTES:
        raise AuthError(
            400,
            "validation_failed",
            f"Password cannot be longer than {_MAX_PASSWORD_BYTES} characters",
        )
    if len(password) < _MIN_PASSWORD_LENGTH:
        raise AuthError(
            422,
            "weak_password",
            f"Password should be at least {_MIN_PASSWORD_LENGTH} characters.",
            weak_password={"reasons": ["length"]},
        )
    return password


def parse_metadata(body: dict[str, Any], name: str) -> dict[str, Any]:
    """Return the metadata in a key of the body; a value that is not an object counts as empty."""
    value = body.get(name)
    return value if isinstance(value, dict) else {}


def encode_user(user: asyncpg.Record) -> dict[str, Any]:
    """Encode a row of ``auth.users`` as JSON for clients."""
    return {
        "id": str(user["id"]),
        "aud": user["aud"],
        "role": user["role"],
        "email": user["email"],
        "email_confirmed_at": _format_time(user["email_confirmed_at"]),
        "phone": "",
        "confirmed_at": _format_time(user["confirmed_at"]),
        "last_sign_in_at": _format_time(user["last_sign_in_at"]),
        "app_metadata": user["raw_app_meta_data"] or {},
        "user_metadata": user["raw_user_meta_data"] or {},
        "identities": [],
        "created_at": _format_time(user["created_at"]),
        "updated_at": _format_time(user["updated_at"]),
        "is_anonymous": user["is_anonymous"],
    }


def _format_time(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat().replace("+00:00", "Z")

"""Recognition of the kind of a key from its text, for the doctor."""

import base64
import binascii
import json
import time
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

Access = Literal["service", "users", "unknown"]
_REMEDY = "Use the secret or service_role key of the project's API settings for workers and doctor"


@dataclass(frozen=True)
class KeyKind:
    """A kind of key.

    Args:
        name: The name of this kind in the project's settings.
        access: ``service`` if the key has all privileges, ``users`` if it has only the privileges
            of signed-in users.
        problem: The reason why the key cannot work; None if no problem was found.
        remedy: The fix for the problem.
    """

    name: str
    access: Access
    problem: str | None = None
    remedy: str | None = None


def recognise_key(key: str, url: str) -> KeyKind:
    """Return the kind of a key.

    Args:
        key: The key.
        url: The URL of the project, to check that a legacy key belongs to it.
    """
    if key.startswith("sb_secret_"):
        return KeyKind("secret key (sb_secret_)", "service")
    if key.startswith("sb_publishable_"):
        return KeyKind("publishable key (sb_publishable_)", "users")
    claims = _decode_claims(key)
    if claims is None:
        return KeyKind("unrecognised key format", "unknown", remedy=_REMEDY)
    role = claims.get("role")
    name = f"legacy key of role {role}"
    if role not in ("anon", "service_role"):
        return KeyKind(name, "unknown", "it is a signed-in user's token, not a key", _REMEDY)
    access: Access = "service" if role == "service_role" else "users"
    if isinstance(claims.get("exp"), int | float) and claims["exp"] < time.time():
        return KeyKind(name, access, "it has expired", _REMEDY)
    reference, host = claims.get("ref"), urlsplit(url).hostname or ""
    if reference and host.endswith(".supabase.co") and host != f"{reference}.supabase.co":
        remedy = f"Take a key of {host}, or set SUPABASE_URL to https://{reference}.supabase.co"
        return KeyKind(name, access, f"it belongs to project {reference}", remedy)
    return KeyKind(name, access)


def _decode_claims(key: str) -> dict[str, Any] | None:
    """Return the claims of a JWT, without a check of its signature; None if it is not a JWT."""
    parts = key.split(".")
    if len(parts) != 3:
        return None
    try:
        padded = parts[1] + "=" * (-len(parts[1]) % 4)
        claims = json.loads(base64.urlsafe_b64decode(padded))
    except (binascii.Error, ValueError):
        return None
    return claims if isinstance(claims, dict) else None

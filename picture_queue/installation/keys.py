"""The kind of a key, as far as its text shows.

Only the doctor reads it; calls send a key as it is.
"""

import base64
import binascii
import json
import time
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

Access = Literal["service", "users", "unknown"]
_SERVICE = "Use the secret or service_role key of the project's API settings for workers and doctor"


@dataclass(frozen=True)
class KeyKind:
    """A kind of key.

    Args:
        name: Its name in the project's settings.
        access: Whose permissions it has.
        problem: Why it cannot work; None: no problem found.
        remedy: The fix for the problem.
    """

    name: str
    access: Access
    problem: str | None = None
    remedy: str | None = None


def kind_of(key: str, url: str) -> KeyKind:
    """Return the kind of a key.

    Args:
        key: The key.
        url: The project's address; a legacy key names the project it belongs to.
    """
    if key.startswith("sb_secret_"):
        return KeyKind("secret key (sb_secret_)", "service")
    if key.startswith("sb_publishable_"):
        return KeyKind("publishable key (sb_publishable_)", "users")
    claims = _claims(key)
    if claims is None:
        return KeyKind("unrecognised key format", "unknown", remedy=_SERVICE)
    role = claims.get("role")
    name = f"legacy key of role {role}"
    if role not in ("anon", "service_role"):
        return KeyKind(name, "unknown", "it is a signed-in user's token, not a key", _SERVICE)
    access: Access = "service" if role == "service_role" else "users"
    if isinstance(claims.get("exp"), int | float) and claims["exp"] < time.time():
        return KeyKind(name, access, "it has expired", _SERVICE)
    reference, host = claims.get("ref"), urlsplit(url).hostname or ""
    if reference and host.endswith(".supabase.co") and host != f"{reference}.supabase.co":
        remedy = f"Take a key of {host}, or set SUPABASE_URL to https://{reference}.supabase.co"
        return KeyKind(name, access, f"it belongs to project {reference}", remedy)
    return KeyKind(name, access)


def _claims(key: str) -> dict[str, Any] | None:
    parts = key.split(".")
    if len(parts) != 3:
        return None
    try:
        padded = parts[1] + "=" * (-len(parts[1]) % 4)
        found = json.loads(base64.urlsafe_b64decode(padded))
    except (binascii.Error, ValueError):
        return None
    return found if isinstance(found, dict) else None

"""The check of tokens before PostgREST, with the errors of PostgREST.

PostgREST checks each token again. The bundled PostgREST is older than Supabase's, which has
other error texts and a separate code for claims. So the gateway checks each token first, with the
error texts of Supabase, which are recorded from PostgREST 14.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import jwt

from picture_queue.local.gateway.credentials import LEEWAY, Credentials, InvalidToken

_NO_SUITABLE_KEY: Final = "No suitable key or wrong key type"
_NOT_FOUND: Final = "No suitable key was found to decode the JWT"


@dataclass(eq=False)
class RefusedToken(Exception):
    """A token that PostgREST does not accept.

    Args:
        message: The message for the user.
        details: The details of the error.
        code: ``PGRST301`` for the token, ``PGRST303`` for its claims.
    """

    message: str
    details: str | None = None
    code: str = "PGRST301"

    def body(self) -> dict[str, str | None]:
        """The body of the answer."""
        return {
            "code": self.code,
            "details": self.details,
            "hint": None,
            "message": self.message,
        }

    @property
    def challenge(self) -> str:
        """Value of ``WWW-Authenticate``."""
        return f'Bearer error="invalid_token", error_description="{self.message}"'


def check_token(credentials: Credentials, token: str) -> Mapping[str, Any]:
    """Return the claims of a token that PostgREST would accept; the database checks the role.

    Raises:
        RefusedToken: PostgREST would refuse the token.
    """
    parts = token.count(".") + 1
    if parts != 3:
        raise RefusedToken(f"Expected 3 parts in JWT; got {parts}")
    try:
        claims = credentials.signed_claims(token)
    except InvalidToken as error:
        raise _translate_error(error, token) from None
    if "kid" in jwt.get_unverified_header(token):
        raise RefusedToken(_NO_SUITABLE_KEY, _NOT_FOUND)
    _check_claims(claims)
    return claims


def _translate_error(error: InvalidToken, token: str) -> RefusedToken:
    match error.problem:
        case "signature":
            return RefusedToken(_NO_SUITABLE_KEY, "None of the keys was able to decode the JWT")
        case "payload":
            return _claim_error("Parsing claims failed")
        case "algorithm" if jwt.get_unverified_header(token).get("alg") == "none":
            details = "JWT is unsecured but expected 'alg' was not 'none'"
            return RefusedToken("Wrong or unsupported encoding algorithm", details)
        case "algorithm":
            return RefusedToken(_NO_SUITABLE_KEY, _NOT_FOUND)
    return RefusedToken("JWT cryptographic operation failed")


def _claim_error(message: str) -> RefusedToken:
    return RefusedToken(message, code="PGRST303")


def _check_claims(claims: Mapping[str, Any]) -> None:
    now = time.time()
    times = {name: _read_time(claims, name) for name in ("exp", "nbf", "iat")}
    if times["exp"] is not None and times["exp"] <= now - LEEWAY:
        raise _claim_error("JWT expired")
    if times["nbf"] is not None and times["nbf"] > now + LEEWAY:
        raise _claim_error("JWT not yet valid")
    if times["iat"] is not None and times["iat"] > now + LEEWAY:
        raise _claim_error("JWT issued at future")
    audience = claims.get("aud")
    entries = audience if isinstance(audience, list) else [audience or ""]
    if not all(isinstance(entry, str) for entry in entries):
        raise _claim_error("The JWT 'aud' claim must be a string or an array of strings")


def _read_time(claims: Mapping[str, Any], name: str) -> int | None:
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _claim_error(f"The JWT '{name}' claim must be a number")
    # PostgREST treats a number with a fraction as 0, so a token with such an `exp` has expired.
    return int(value) if value == int(value) else 0

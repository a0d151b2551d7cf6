"""Keys and tokens: the exchange of keys for tokens, and the verification of tokens.

Like the API gateway of Supabase, the embedded gateway replaces opaque keys
(``sb_publishable_…``, ``sb_secret_…``) with a JWT, and passes on a JWT unchanged
(https://github.com/supabase/cli, the Kong template).
"""

import hmac
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Literal

import jwt

from picture_queue.local.gateway.settings import GatewaySettings

ROLES: Final = frozenset({"anon", "authenticated", "service_role"})

_CACHE_SIZE = 512  # tokens
LEEWAY: Final = 30  # seconds of clock skew that PostgREST tolerates


@dataclass(frozen=True)
class Caller:
    """The caller of a request: role and claims of a verified token."""

    role: str
    claims: Mapping[str, Any]
    token: str

    @property
    def subject(self) -> str | None:
        """The claim ``sub``; None for a key."""
        subject = self.claims.get("sub")
        return subject if isinstance(subject, str) and subject else None


TokenProblem = Literal[
    "malformed",
    "algorithm",
    "signature",
    "signature encoding",
    "payload",
    "expired",
    "not yet valid",
    "role",
]


class InvalidToken(Exception):
    """An error for an invalid token. Each service translates the error into its own message.

    Args:
        problem: The kind of error.
        message: A description of the error.
    """

    def __init__(self, problem: TokenProblem, message: str) -> None:
        super().__init__(message)
        self.problem = problem
        self.message = message


# The first match counts, since some errors of PyJWT are subclasses of others.
_PROBLEMS: Final[tuple[tuple[type[jwt.InvalidTokenError], TokenProblem], ...]] = (
    (jwt.InvalidAlgorithmError, "algorithm"),
    (jwt.InvalidSignatureError, "signature"),
)


class Credentials:
    """The keys of the stack, which it exchanges for tokens, and the verification of tokens."""

    def __init__(self, settings: GatewaySettings) -> None:
        self._secret = settings.jwt_secret
        # Clients send the same token with each request. Without this cache, the verification took
        # half of the time of a request.
        self._decoded = lru_cache(_CACHE_SIZE)(self._decode)
        self._keys = (
            (settings.secret_key, settings.service_role_key),
            (settings.publishable_key, settings.anon_key),
        )
        self._service_keys = (settings.secret_key.encode(), settings.service_role_key.encode())
        self._all_keys = tuple(key.encode() for pair in self._keys for key in pair)

    def token(self, authorization: str | None, apikey: str | None) -> str | None:
        """Return the JWT of a request, unverified; None if there is neither a token nor a key."""
        if authorization is not None:
            scheme, _, value = authorization.partition(" ")
            value = value.strip()
            if scheme.lower() == "bearer" and value and not value.startswith("sb_"):
                return value
            apikey = apikey or value
        return self._exchange(apikey) if apikey else None

    def _exchange(self, apikey: str) -> str:
        for key, token in self._keys:
            if hmac.compare_digest(apikey.encode(), key.encode()):
                return token
        return apikey

    def is_key(self, value: str) -> bool:
        """Return whether a value is one of the stack's four keys, in constant time."""
        return any([hmac.compare_digest(value.encode(), key) for key in self._all_keys])

    def verify(self, token: str, *, leeway: float = LEEWAY) -> Caller:
        """Return the caller of a token.

        Raises:
            InvalidToken: The token is malformed, forged or expired, or its role is not in `ROLES`.
        """
        claims = self.claims(token, leeway=leeway)
        role = claims.get("role", "anon")
        if not isinstance(role, str) or role not in ROLES:
            raise InvalidToken("role", f'permission denied to set role "{role}"')
        return Caller(role=role, claims=claims, token=token)

    def claims(self, token: str, *, leeway: float = LEEWAY) -> Mapping[str, Any]:
        """Return the claims of a token with any role.

        Raises:
            InvalidToken: The token is malformed, forged or expired.
        """
        claims = self.signed_claims(token)
        now = time.time()
        try:
            if "exp" in claims and float(claims["exp"]) <= now - leeway:
                raise InvalidToken("expired", "token is expired")
            if "nbf" in claims and float(claims["nbf"]) > now + leeway:
                raise InvalidToken("not yet valid", "token is not yet valid")
        except (TypeError, ValueError, OverflowError):
            raise InvalidToken("malformed", "a time in the token is not a number") from None
        return claims

    def signed_claims(self, token: str) -> Mapping[str, Any]:
        """Return a token's claims without a check of their values.

        Raises:
            InvalidToken: The token is malformed or forged.
        """
        return self._decoded(token)

    def _decode(self, token: str) -> dict[str, Any]:
        """Verify the signature of a token and return its claims, whose values are not checked."""
        try:
            return jwt.decode(
                token,
                self._secret,
                algorithms=["HS256"],
                options={
                    "verify_aud": False,
                    "verify_exp": False,
                    "verify_iat": False,
                    "verify_nbf": False,
                    "verify_sub": False,
                },
            )
        except RecursionError:
            raise InvalidToken("malformed", "The token is nested too deeply") from None
        except jwt.InvalidTokenError as error:
            problem: TokenProblem = next(
                (problem for kind, problem in _PROBLEMS if isinstance(error, kind)), "malformed"
            )
            if str(error) == "Invalid crypto padding":
                problem = "signature encoding"
            elif str(error).startswith("Invalid payload string"):
                problem = "payload"
            raise InvalidToken(problem, str(error)) from None

    def is_service(self, authorization: str | None, apikey: str | None) -> bool:
        """Return whether a request has the service or the secret key, in constant time."""
        candidates = [apikey or "", (authorization or "").removeprefix("Bearer ")]
        matches = [
            hmac.compare_digest(candidate.encode(), key)
            for candidate in candidates
            for key in self._service_keys
        ]
        return any(matches)

    def acts_as_service(self, header: str | None) -> bool:
        """Return whether a key or token, with or without ``Bearer``, acts as service_role."""
        if header is None:
            return False
        # Storage also accepts a token without the space after ``Bearer``.
        value = header[len("bearer") :] if header.lower().startswith("bearer") else header
        try:
            return self.verify(self._exchange(value.strip())).role == "service_role"
        except InvalidToken:
            return False


def seconds_left(claims: Mapping[str, Any]) -> float | None:
    """Return the seconds until a token expires, negative afterwards; None if it never expires."""
    expires = claims.get("exp")
    return None if expires is None else float(expires) - time.time()

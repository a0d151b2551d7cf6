"""Verification of the access tokens of users."""

from typing import Any, Protocol

import jwt

from picture_queue._log import Log
from picture_queue.errors import NotAllowed, NotAuthenticated
from picture_queue.web.key_set import PublicKey

_log = Log(__name__)

_MAX_LENGTH = 16_384  # characters of a token
_MAX_KEY_ID_LENGTH = 255
_LEEWAY = 30.0  # seconds of clock skew, as PostgREST tolerates
_ROLE = "authenticated"
_REFUSAL = "The access token is missing, invalid or has expired"


class KeySource(Protocol):
    """The source of the public keys of a project; `KeySet` is one."""

    async def find(self, key_id: str, algorithm: str) -> PublicKey | None:
        """Return a key; None if the project has no such key for this algorithm."""
        ...


class TokenVerifier:
    """A verifier of the tokens that Supabase Auth issues to signed-in users.

    Args:
        keys: The public keys of the project, for ES256 and RS256.
        secret: The secret of the project, for HS256; None: tokens with HS256 are refused.
        audience: The claim ``aud`` of the tokens.
    """

    def __init__(self, keys: KeySource, secret: str | None, audience: str) -> None:
        self._keys = keys
        self._secret = secret
        self._audience = audience
        self._has_warned = False

    async def verify(self, authorization: str | None) -> str:
        """Return the token of a signed-in user.

        Args:
            authorization: The header ``Authorization`` of the request; None if it has none.

        Raises:
            NotAuthenticated: There is no token, or it is malformed, forged or expired.
            NotAllowed: The token is not of a signed-in user.
            KeysUnavailable: The public keys cannot be fetched now.
        """
        scheme, _, token = (authorization or "").partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not token or len(token) > _MAX_LENGTH:
            raise NotAuthenticated(_REFUSAL)
        try:
            header = jwt.get_unverified_header(token)
            algorithm = header.get("alg")
            key = await self._find_key(algorithm, header.get("kid"))
            if key is None:
                raise NotAuthenticated(_REFUSAL)
            claims = self._decode(token, key, str(algorithm))
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
            raise NotAuthenticated(_REFUSAL) from None
        if claims.get("role") != _ROLE:
            raise NotAllowed("The access token is not of a signed-in user")
        return token

    async def _find_key(self, algorithm: object, key_id: object) -> PublicKey | str | None:
        """Return the key for an algorithm. No algorithm has the key of another one."""
        if algorithm == "HS256":
            if self._secret is None and not self._has_warned:
                self._has_warned = True
                _log.warning("A token with HS256 was refused, since SUPABASE_JWT_SECRET is not set")
            return self._secret
        if algorithm not in ("ES256", "RS256"):
            return None
        if not isinstance(key_id, str) or len(key_id) > _MAX_KEY_ID_LENGTH:
            return None
        return await self._keys.find(key_id, str(algorithm))

    def _decode(self, token: str, key: PublicKey | str, algorithm: str) -> dict[str, Any]:
        return jwt.decode(
            token,
            key,
            algorithms=[algorithm],
            audience=self._audience,
            leeway=_LEEWAY,
            options={"require": ["exp", "aud", "sub"]},
        )


def read_user_id(token: str) -> str:
    """Return the user of a token that a `TokenVerifier` has accepted."""
    claims: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    return str(claims["sub"])

"""Signed URLs: a token that opens one object for everybody who has it, until it expires."""

import time
from datetime import UTC, datetime
from typing import Final

import jwt

from picture_queue.local.gateway.credentials import BadToken, Credentials
from picture_queue.local.gateway.storage.download import http_date
from picture_queue.local.gateway.storage.errors import (
    StorageError,
    invalid_jwt,
    invalid_signature,
)

_LAST_DATE: Final = 253_402_300_799  # the last second that Python's dates reach
_SCOPE: Final = "download"


class Signer:
    """Makes and checks the tokens.

    Args:
        secret: The project's JWT secret.
        credentials: Verifies with it.
    """

    def __init__(self, secret: str, credentials: Credentials) -> None:
        self._secret = secret
        self._credentials = credentials

    def sign(self, bucket: str, name: str, seconds: int) -> str:
        """Returns a signed URL, relative to ``/storage/v1``.

        Raises:
            StorageError: It would outlive the calendar.
        """
        now = int(time.time())
        if now + seconds > _LAST_DATE:
            raise StorageError(
                400, "InvalidParameter", "Invalid Parameter expiresIn", "InvalidParameter"
            )
        path = f"{bucket}/{name}"
        claims = {"url": path, "scope": _SCOPE, "iat": now, "exp": now + seconds}
        token = jwt.encode(claims, self._secret, algorithm="HS256", headers={"typ": None})
        return f"/object/sign/{path}?token={token}"

    def check(self, token: str, bucket: str, name: str) -> str:
        """Checks a token for an object.

        Returns:
            The value of the header ``Expires``.

        Raises:
            StorageError: The token is not valid, or for something else.
        """
        try:
            claims = self._credentials.claims(token, leeway=0)
        except BadToken as error:
            raise invalid_jwt(error) from None
        if claims.get("url") != f"{bucket}/{name}":
            raise invalid_signature("Invalid signature")
        # A token without scope is an older server's; that of an upload holds `upsert`.
        if claims.get("scope", _SCOPE) != _SCOPE or "upsert" in claims:
            raise invalid_signature("Token is not scoped for download")
        expires = claims.get("exp")
        if expires is None:
            return "Invalid Date"
        return http_date(datetime.fromtimestamp(expires, UTC))

"""Signed URLs: until the token in the URL expires, it gives access to one object."""

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

import jwt

from picture_queue.local.gateway.credentials import Credentials, InvalidToken
from picture_queue.local.gateway.storage.download import http_date
from picture_queue.local.gateway.storage.errors import (
    StorageError,
    invalid_jwt,
    invalid_signature,
)

_LAST_DATE: Final = 253_402_300_799  # the last second that a datetime can represent
_DOWNLOAD: Final = "download"
_UPLOAD: Final = "upload"
_UPLOAD_LIFETIME: Final = 7200  # seconds, as on Supabase


class Signer:
    """The creation and verification of signed URLs.

    Args:
        secret: The project's JWT secret.
        credentials: The credentials that verify the tokens.
    """

    def __init__(self, secret: str, credentials: Credentials) -> None:
        self._secret = secret
        self._credentials = credentials

    def sign(self, bucket: str, name: str, seconds: int) -> str:
        """Return a signed URL, relative to ``/storage/v1``.

        Raises:
            StorageError: The URL would expire after the year 9999.
        """
        now = int(time.time())
        if now + seconds > _LAST_DATE:
            raise StorageError(
                400, "InvalidParameter", "Invalid Parameter expiresIn", "InvalidParameter"
            )
        path = f"{bucket}/{name}"
        token = self._token({"url": path, "scope": _DOWNLOAD}, seconds)
        return f"/object/sign/{path}?token={token}"

    def sign_upload(
        self, bucket: str, name: str, owner: str | None, *, upsert: bool
    ) -> tuple[str, str]:
        """Return a URL for an upload, relative to ``/storage/v1``, and its token."""
        path = f"{bucket}/{name}"
        claims: dict[str, object] = {"owner": owner} if owner else {}
        token = self._token(
            {**claims, "url": path, "upsert": upsert, "scope": _UPLOAD}, _UPLOAD_LIFETIME
        )
        return f"/object/upload/sign/{path}?token={token}", token

    def _token(self, claims: dict[str, object], seconds: int) -> str:
        now = int(time.time())
        claims = {**claims, "iat": now, "exp": now + seconds}
        return jwt.encode(claims, self._secret, algorithm="HS256", headers={"typ": None})

    def check_download(self, token: str, bucket: str, name: str) -> str:
        """Check a token for a download.

        Returns:
            The value of the header ``Expires``.

        Raises:
            StorageError: The token is not valid, or is for another object.
        """
        claims = self._claims(token, bucket, name, _DOWNLOAD)
        expires = claims.get("exp")
        if expires is None:
            return "Invalid Date"
        return http_date(datetime.fromtimestamp(expires, UTC))

    def check_upload(self, token: str, bucket: str, name: str) -> tuple[str | None, bool]:
        """Check a token for an upload.

        Returns:
            The id of the user who created the URL, and whether the upload may replace an existing
            object.

        Raises:
            StorageError: The token is not valid, or is for another object.
        """
        claims = self._claims(token, bucket, name, _UPLOAD)
        owner = claims.get("owner")
        return owner if isinstance(owner, str) else None, bool(claims.get("upsert"))

    def _claims(self, token: str, bucket: str, name: str, scope: str) -> Mapping[str, Any]:
        try:
            claims = self._credentials.claims(token, leeway=0)
        except InvalidToken as error:
            raise invalid_jwt(error) from None
        if claims.get("url") != f"{bucket}/{name}":
            raise invalid_signature("Invalid signature")
        # Older servers created tokens without a scope. But only tokens for uploads have the claim
        # `upsert`, so it shows the scope.
        implied_scope = _UPLOAD if "upsert" in claims else _DOWNLOAD
        if claims.get("scope", implied_scope) != scope or implied_scope != scope:
            raise invalid_signature(f"Token is not scoped for {scope}")
        return claims

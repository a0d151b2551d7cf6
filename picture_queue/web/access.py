"""The check of the secret that a service sends."""

import hmac
from collections.abc import Iterable

from starlette.datastructures import Headers

from picture_queue.errors import NotAuthenticated

_MAX_LENGTH = 16_384  # characters of a header


class ServiceAccess:
    """The secrets of the routes that only services may call.

    Args:
        secrets: The secrets that are accepted; each is long and random.
    """

    def __init__(self, secrets: Iterable[str]) -> None:
        self._digests = [_digest(secret) for secret in secrets]

    @property
    def has_secrets(self) -> bool:
        """True if there is a secret; without one, nobody has access."""
        return bool(self._digests)

    def check(self, headers: Headers) -> None:
        """Accept a request whose header ``Authorization`` or ``apikey`` has one of the secrets.

        All secrets are compared, each in a time that does not depend on its characters.

        Raises:
            NotAuthenticated: The request has no secret, or another one.
        """
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        given = [bearer.strip() if scheme.lower() == "bearer" else "", headers.get("apikey", "")]
        digests = [_digest(value) for value in given if 0 < len(value) <= _MAX_LENGTH]
        matches = [
            hmac.compare_digest(digest, expected)
            for digest in digests
            for expected in self._digests
        ]
        if not any(matches):
            raise NotAuthenticated("The secret of the service is missing or wrong")


def _digest(secret: str) -> bytes:
    # Digests have one length, so the comparison does not show the length of the secret either.
    return hmac.digest(b"picture-queue", secret.encode(), "sha256")

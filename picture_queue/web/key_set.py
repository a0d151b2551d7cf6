"""The public keys with which a project signs the tokens of its users (JWKS, RFC 7517)."""

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

import httpx
import jwt
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from picture_queue._log import Log
from picture_queue._loopback import direct_mounts
from picture_queue._text import describe_error

_log = Log(__name__)

_FETCH_TIMEOUT = 5.0  # seconds
_MAX_BYTES = 256 * 1024  # of the key set
_MAX_KEYS = 64
_MIN_RSA_BITS = 2048
_REFRESH_INTERVAL = 600.0  # seconds; Supabase serves a key set from a cache for as long
#: Seconds between two fetches for tokens with an unknown key, and after a failure.
_RETRY_INTERVAL = 30.0
_FIRST_RETRY_INTERVAL = 2.0  # the same, before the first fetch has succeeded
#: Seconds for which keys are used while the key set cannot be fetched. A revoked key is refused
#: after this time at the latest.
_MAX_AGE = 3600.0

PublicKey = RSAPublicKey | EllipticCurvePublicKey


class KeysUnavailable(Exception):
    """The key set cannot be fetched now, so a token can be neither accepted nor refused."""


class KeySet:
    """The keys of a project, which are fetched when they are needed, and kept.

    The number of fetches does not depend on the number of tokens: there is one at a time, at most
    one in 30 seconds for unknown keys, and a failure is not repeated at once.

    Args:
        url: The URL of the key set. Redirects are not followed.
        clock: Monotonic time in seconds.
    """

    def __init__(self, url: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._url = url
        self._clock = clock
        self._lock = asyncio.Lock()
        self._keys: dict[tuple[str, str], PublicKey] = {}
        self._fetched_at: float | None = None  # time of the last fetch that succeeded
        self._tried_at = float("-inf")

    async def find(self, key_id: str, algorithm: str) -> PublicKey | None:
        """Return a key; None if the project has no such key for this algorithm.

        Args:
            key_id: The ``kid`` of the token.
            algorithm: ES256 or RS256.

        Raises:
            KeysUnavailable: The key set cannot be fetched now.
        """
        key = self._keys.get((key_id, algorithm))
        # A token with a known key does not wait for a fetch that is running.
        if self._is_due(key is None) and not (key is not None and self._lock.locked()):
            async with self._lock:
                if self._is_due((key_id, algorithm) not in self._keys):
                    await self._fetch()
            key = self._keys.get((key_id, algorithm))
        if self._fetched_at is None or self._clock() - self._fetched_at > _MAX_AGE:
            raise KeysUnavailable
        return key

    def _is_due(self, is_unknown: bool) -> bool:
        """Return whether to fetch the key set for a token."""
        now = self._clock()
        if self._fetched_at is None:
            return now - self._tried_at >= _FIRST_RETRY_INTERVAL
        if now - self._tried_at < _RETRY_INTERVAL:
            return False
        return is_unknown or now - self._fetched_at >= _REFRESH_INTERVAL

    async def _fetch(self) -> None:
        """Fetch the key set. After a failure the previous keys are kept."""
        try:
            async with asyncio.timeout(_FETCH_TIMEOUT):
                self._keys = parse_key_set(await _download(self._url))
            self._fetched_at = self._clock()
        except Exception as error:  # no content of the key set may refuse tokens of known keys
            _log.warning("The keys at %s cannot be read: %s", self._url, describe_error(error))
        finally:
            self._tried_at = self._clock()


async def _download(url: str) -> bytes:
    async with (
        httpx.AsyncClient(timeout=_FETCH_TIMEOUT, mounts=direct_mounts(url)) as http,
        http.stream("GET", url, headers={"Accept-Encoding": "identity"}) as response,
    ):
        if response.status_code != 200:
            raise ValueError(f"the answer has status {response.status_code}")
        # A part of a few bytes could decompress to gigabytes before its size is known.
        encoding = response.headers.get("content-encoding", "identity").strip().lower()
        if encoding not in ("", "identity"):
            raise ValueError(f"the answer has the encoding {encoding[:40]!r}, not identity")
        content = bytearray()
        async for part in response.aiter_bytes():
            content += part
            if len(content) > _MAX_BYTES:
                raise ValueError(f"the key set is larger than {_MAX_BYTES} bytes")
    return bytes(content)


def parse_key_set(content: bytes) -> dict[tuple[str, str], PublicKey]:
    """Return the keys by their id and algorithm; leave out keys that cannot verify tokens.

    The algorithm is decided by the key, never by a token. So a token cannot make a public key the
    secret of HS256, and symmetric keys of the set are left out.

    Raises:
        ValueError: The content is not a key set.
    """
    document = json.loads(content)
    entries = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(entries, list):
        raise ValueError("the answer is not a JSON Web Key Set")
    keys = {}
    for entry in entries[:_MAX_KEYS]:
        parsed = _parse_key(entry)
        if parsed is not None:
            algorithm, key = parsed
            keys[entry["kid"], algorithm] = key
    return keys


def _parse_key(entry: Any) -> tuple[str, PublicKey] | None:
    if not isinstance(entry, dict) or not isinstance(entry.get("kid"), str):
        return None
    algorithm = {"EC": "ES256", "RSA": "RS256"}.get(str(entry.get("kty")))
    if algorithm is None or entry.get("alg", algorithm) != algorithm:
        return None
    operations = entry.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations:
        return None
    if entry.get("use", "sig") != "sig":
        return None
    try:
        key = jwt.PyJWK.from_dict(entry, algorithm).key
    except Exception as error:  # the parsers raise many types, and the other keys are needed
        _log.warning("A key of the project cannot be read: %s", describe_error(error))
        return None
    if isinstance(key, RSAPublicKey) and key.key_size >= _MIN_RSA_BITS:
        return algorithm, key
    if isinstance(key, EllipticCurvePublicKey) and key.curve.name == "secp256r1":
        return algorithm, key
    return None  # a weak key, a private key, or another curve

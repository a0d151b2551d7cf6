"""Password hashes: scrypt with a random salt. The hash contains the salt and the parameters."""

import asyncio
import base64
import hashlib
import hmac
import secrets
from typing import Final

# The parameters of scrypt that are usual for interactive sign-ins. A hash takes 16 MiB and about
# 40 ms, so it is computed in another thread.
_N: Final = 2**14  # CPU and memory cost
_R: Final = 8  # block size
_P: Final = 1  # parallelism
_SALT_BYTES: Final = 16


async def hash_password(password: str) -> str:
    """Return the salted hash of a password, as text to store."""
    salt = secrets.token_bytes(_SALT_BYTES)
    digest = await asyncio.to_thread(_scrypt, password, salt, _N, _R, _P)
    return "$".join(("scrypt", str(_N), str(_R), str(_P), _encode(salt), _encode(digest)))


async def matches(password: str, stored: str | None) -> bool:
    """Verify a password against a stored hash.

    Without a stored hash, the call takes as long as with a wrong password. So a client cannot
    measure whether a user exists.
    """
    if stored is None or not stored.startswith("scrypt$"):
        await hash_password(password)
        return False
    _, n, r, p, salt, digest = stored.split("$")
    computed = await asyncio.to_thread(
        _scrypt, password, base64.b64decode(salt), int(n), int(r), int(p)
    )
    return hmac.compare_digest(computed, base64.b64decode(digest))


def _scrypt(password: str, salt: bytes, n: int, r: int, p: int) -> bytes:
    return hashlib.scrypt(password.encode(), salt=salt, n=n, r=r, p=p, maxmem=64 * 1024 * 1024)


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode()

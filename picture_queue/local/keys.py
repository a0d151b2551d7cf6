"""The secrets of one stack, in the formats of Supabase.

Each data directory has its own secrets, which are generated once. Other users of the machine and
pages in a browser can reach loopback, so only these secrets protect the stack from them.
"""

import base64
import hashlib
import secrets
import string
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Final, Self

_ALPHANUMERIC: Final = string.ascii_letters + string.digits
_EXPIRES: Final = 1983812996  # 2032-11-12, as in the keys of the Supabase CLI


@dataclass(frozen=True)
class Secrets:
    """Passwords and keys of one stack.

    Args:
        superuser_password: Password of the database role `supabase_admin`.
        authenticator_password: Password of the role `authenticator`, which PostgREST uses.
        auth_password: Password of the role `supabase_auth_admin`.
        realtime_password: Password of the role `supabase_realtime_admin`.
        storage_password: Password of the role `supabase_storage_admin`.
        database_password: Password of the role `postgres`.
        jwt_secret: HS256 secret that signs tokens.
        publishable_key: Opaque key that stands for the role anon.
        secret_key: Opaque key that stands for the role service_role.
        simulator_token: API token of the Replicate simulator.
    """

    superuser_password: str = field(repr=False)
    authenticator_password: str = field(repr=False)
    auth_password: str = field(repr=False)
    realtime_password: str = field(repr=False)
    storage_password: str = field(repr=False)
    database_password: str = field(repr=False)
    jwt_secret: str = field(repr=False)
    publishable_key: str = field(repr=False)
    secret_key: str = field(repr=False)
    simulator_token: str = field(repr=False)

    @classmethod
    def generate(cls) -> Self:
        """Generate secrets whose characters need no quoting in a URL, in SQL or in a shell."""
        return cls(
            superuser_password=secrets.token_urlsafe(24),
            authenticator_password=secrets.token_urlsafe(24),
            auth_password=secrets.token_urlsafe(24),
            realtime_password=secrets.token_urlsafe(24),
            storage_password=secrets.token_urlsafe(24),
            database_password=secrets.token_urlsafe(24),
            jwt_secret=secrets.token_urlsafe(48),
            publishable_key=_opaque_key("sb_publishable_"),
            secret_key=_opaque_key("sb_secret_"),
            simulator_token="r8_" + "".join(secrets.choice(_ALPHANUMERIC) for _ in range(37)),
        )

    @classmethod
    def from_json(cls, stored: Mapping[str, str]) -> Self:
        """Restore secrets from `as_json`; generate secrets that an older version did not have.

        Raises:
            TypeError: The value is not an object, or a secret is unknown or not a text.
        """
        for name, value in dict(stored).items():
            if not isinstance(value, str):
                raise TypeError(f"{name} is not a text")
        return replace(cls.generate(), **stored)

    def as_json(self) -> dict[str, str]:
        """Return the secrets in the form that `from_json` takes."""
        return asdict(self)

    @property
    def passwords(self) -> dict[str, str]:
        """The password of each database role that can log in."""
        return {
            "supabase_admin": self.superuser_password,
            "authenticator": self.authenticator_password,
            "supabase_auth_admin": self.auth_password,
            "supabase_realtime_admin": self.realtime_password,
            "supabase_storage_admin": self.storage_password,
            "postgres": self.database_password,
        }

    @property
    def anon_key(self) -> str:
        """JWT of the role anon."""
        return self._token("anon")

    @property
    def service_role_key(self) -> str:
        """JWT of the role service_role."""
        return self._token("service_role")

    def _token(self, role: str) -> str:
        import jwt  # takes 0.1 seconds, which a command that only looks for a stack does not need

        claims = {"iss": "supabase-demo", "role": role, "exp": _EXPIRES}
        return jwt.encode(claims, self.jwt_secret, algorithm="HS256")


def _opaque_key(prefix: str) -> str:
    """Return a key in the format of Supabase: prefix, 22 random characters, 8 of a checksum."""
    key = prefix + secrets.token_urlsafe(16)
    checksum = base64.urlsafe_b64encode(hashlib.sha256(key.encode()).digest())
    return f"{key}_{checksum[:8].decode()}"

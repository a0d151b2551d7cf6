"""Keys of the embedded stack: the public defaults of the Supabase CLI, so that they look familiar.

Everybody knows them, so they protect nothing; the stack listens on loopback only. Source: `supabase
status` of a fresh local project, https://supabase.com/docs/guides/local-development/cli.
"""

from typing import Final

import jwt

JWT_SECRET: Final = "super-secret-jwt-token-with-at-least-32-characters-long"  # noqa: S105
PUBLISHABLE_KEY: Final = "sb_publishable_ACJWlzQHlZjBrEguHvfOxg_3BJgxAaH"
SECRET_KEY: Final = "sb_secret_N7UND0UgjKTVK-Uodkm0Hg_xSvEMPvz"  # noqa: S105
DATABASE_PASSWORD: Final = "postgres"  # noqa: S105
# The Replicate simulator takes anything that looks like a token.
SIMULATOR_TOKEN: Final = "r8_simulator"  # noqa: S105

_ISSUER: Final = "supabase-demo"
_EXPIRES: Final = 1983812996  # 2032-11-12, as the CLI writes it


def _key(role: str) -> str:
    claims = {"iss": _ISSUER, "role": role, "exp": _EXPIRES}
    return jwt.encode(claims, JWT_SECRET, algorithm="HS256")


ANON_KEY: Final = _key("anon")
SERVICE_ROLE_KEY: Final = _key("service_role")

"""What the gateway must know before it starts."""

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class GatewaySettings:
    """Addresses, keys and limits of one gateway.

    Args:
        postgrest_url: Where PostgREST listens, ``http://host:port``.
        database_url: DSN of a superuser of the project's database.
        jwt_secret: HS256 secret shared with PostgREST.
        api_url: What clients call the gateway; part of the issuer of user tokens.
        storage_dir: Directory for the bytes of stored objects; made if missing.
        anon_key: JWT of the role anon.
        service_role_key: JWT of the role service_role.
        publishable_key: Opaque key that stands for the role anon.
        secret_key: Opaque key that stands for the role service_role.
        token_seconds: Lifetime of a user's access token, in seconds.
        file_size_limit: Largest object, in bytes.
        subscriber_queue: Messages kept for a subscriber that does not read; one more closes it.
    """

    postgrest_url: str
    database_url: str = field(repr=False)
    jwt_secret: str = field(repr=False)
    api_url: str
    storage_dir: Path
    anon_key: str = field(repr=False)
    service_role_key: str = field(repr=False)
    publishable_key: str = field(repr=False)
    secret_key: str = field(repr=False)
    token_seconds: int = 3600
    file_size_limit: int = 52_428_800
    subscriber_queue: int = 1000

"""The settings of the gateway."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

# The largest frame of a socket, in bytes; a larger one closes it.
FRAME_LIMIT: Final = 5_000_000


@dataclass(frozen=True)
class RealtimeLimits:
    """The Realtime limits of a project, by default those of a Pro project without a spend cap.

    https://supabase.com/docs/guides/realtime/limits

    Args:
        connections: Sockets at once.
        channels: Joined topics of one socket.
        joins_per_second: Joins of all sockets.
        messages_per_second: Broadcasts of all sockets, over HTTP and from the database.
        payload_bytes: Largest broadcast.
    """

    connections: int = 10_000
    channels: int = 100
    joins_per_second: int = 2_500
    messages_per_second: int = 2_500
    payload_bytes: int = 3_000_000


@dataclass(frozen=True)
class GatewaySettings:
    """Addresses, keys and limits of one gateway.

    Args:
        postgrest_socket: Unix socket that PostgREST listens on.
        auth_database_url: DSN of the project's database for `supabase_auth_admin`.
        realtime_database_url: The same for `supabase_realtime_admin`.
        storage_database_url: The same for `supabase_storage_admin`.
        jwt_secret: HS256 secret shared with PostgREST.
        api_url: What clients call the gateway; part of the issuer of user tokens.
        storage_dir: Directory for the bytes of stored objects; made if missing.
        anon_key: JWT of the role anon.
        service_role_key: JWT of the role service_role.
        publishable_key: Opaque key that stands for the role anon.
        secret_key: Opaque key that stands for the role service_role.
        token_seconds: Lifetime of a user's access token, in seconds.
        file_size_limit: Largest object, in bytes.
        realtime_limits: What one project may ask of Realtime.
        subscriber_queue: Messages kept for a subscriber that does not read; one more closes it.
        allowed_origins: Origins whose pages may call beside those on loopback.
    """

    postgrest_socket: Path
    auth_database_url: str = field(repr=False)
    realtime_database_url: str = field(repr=False)
    storage_database_url: str = field(repr=False)
    jwt_secret: str = field(repr=False)
    api_url: str
    storage_dir: Path
    anon_key: str = field(repr=False)
    service_role_key: str = field(repr=False)
    publishable_key: str = field(repr=False)
    secret_key: str = field(repr=False)
    token_seconds: int = 3600
    file_size_limit: int = 52_428_800
    realtime_limits: RealtimeLimits = RealtimeLimits()
    subscriber_queue: int = 1000
    allowed_origins: tuple[str, ...] = ()

"""The settings of the gateway."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

# Maximum bytes of a WebSocket frame. A larger frame closes the socket.
FRAME_LIMIT: Final = 5_000_000


@dataclass(frozen=True)
class RealtimeLimits:
    """The Realtime limits of a project, by default those of a Pro project without a spend cap.

    https://supabase.com/docs/guides/realtime/limits

    Args:
        connections: Maximum number of open sockets.
        channels: Maximum number of joined topics of a socket.
        joins_per_second: Maximum rate of joins of all sockets together.
        messages_per_second: Maximum rate of broadcasts by all clients together, and separately of
            broadcasts by the database.
        payload_bytes: Maximum bytes of a broadcast.
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
        postgrest_socket: The Unix socket on which PostgREST listens.
        auth_database_url: DSN of the project's database for `supabase_auth_admin`.
        realtime_database_url: DSN for `supabase_realtime_admin`.
        storage_database_url: DSN for `supabase_storage_admin`.
        jwt_secret: HS256 secret shared with PostgREST.
        api_url: URL of the gateway, which is part of the issuer of users' tokens.
        storage_dir: Directory of the stored objects; created if it does not exist.
        anon_key: JWT of the role anon.
        service_role_key: JWT of the role service_role.
        publishable_key: Opaque key for the role anon.
        secret_key: Opaque key for the role service_role.
        token_seconds: Lifetime of a user's access token, in seconds.
        file_size_limit: Maximum bytes of an object.
        realtime_limits: The limits of Realtime.
        subscriber_queue: Maximum number of messages that wait for a client; one more message closes
            the socket.
        allowed_origins: Origins, besides loopback, whose pages may call the gateway.
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

"""Settings as frozen values: arguments win over the environment, which wins over defaults."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from picture_queue.errors import SettingsError

REPLICATE_URL = "https://api.replicate.com/v1"
# Any kind of key works; the first variable that is set is taken.
KEY_VARIABLES = (
    "SUPABASE_KEY",
    "SUPABASE_SERVICE_ROLE_KEY",
    "SUPABASE_SECRET_KEY",
    "SUPABASE_ANON_KEY",
)


@dataclass(frozen=True, slots=True)
class ProjectSettings:
    """The address of a Supabase project, and a key.

    Args:
        url: ``https://<ref>.supabase.co``, or the embedded stack's address.
        key: Service, secret, publishable or anon key; sent as it is, never decoded.
        access_token: A signed-in user's token; calls are then made as that user.
        timeout: Longest wait for the answer to a call, retries included, seconds.
    """

    url: str
    key: str = field(repr=False)
    access_token: str | None = field(default=None, repr=False)
    timeout: float = 30.0

    def __post_init__(self) -> None:
        """Refuse what cannot be an address or a key.

        Raises:
            SettingsError: The URL is not http(s), or the key or the token is not printable ASCII.
        """
        if not _is_http(self.url):
            raise SettingsError(
                f"SUPABASE_URL is {self.url!r}, not an http:// or https:// address",
                hint="Copy it from the project's API settings, or run: picture-queue local status",
            )
        if not self.key:
            raise SettingsError("The Supabase key is empty", hint=f"Set one of {_names()}")
        for name, value in (("key", self.key), ("access token", self.access_token or "")):
            if not _is_header(value):
                raise SettingsError(
                    f"The Supabase {name} has a character that is not printable ASCII",
                    hint="Copy it again from where it is shown, as one line",
                )

    @classmethod
    def resolve(
        cls,
        url: str | None = None,
        key: str | None = None,
        access_token: str | None = None,
        timeout: float = 30.0,
        environ: Mapping[str, str] = os.environ,
    ) -> "ProjectSettings":
        """Fill what is None from the environment: ``SUPABASE_URL``, the first key variable set,
        and ``SUPABASE_ACCESS_TOKEN``.

        Raises:
            SettingsError: Address or key is missing.
        """
        url = url or environ.get("SUPABASE_URL")
        if not url:
            raise SettingsError(
                "SUPABASE_URL is not set",
                hint="Set it to your project's URL, or start the embedded stack: "
                "picture-queue local start",
            )
        key = key or next((environ[name] for name in KEY_VARIABLES if environ.get(name)), None)
        if not key:
            raise SettingsError("No Supabase key is set", hint=f"Set one of {_names()}")
        token = access_token or environ.get("SUPABASE_ACCESS_TOKEN") or None
        return cls(url.rstrip("/"), key, token, timeout)


@dataclass(frozen=True, slots=True)
class DatabaseSettings:
    """The address of a database, for direct calls.

    Args:
        url: ``postgresql://user:password@host:port/database``, or libpq's ``key=value`` form. A
            pooler's address will do; for wake-ups by LISTEN it must be one in session mode.
        timeout: Longest wait for the answer to a call, retries included, seconds.
        connect_timeout: Longest wait for a connection, seconds.
        connections: Most connections at the same time.
    """

    url: str = field(repr=False)
    timeout: float = 30.0
    connect_timeout: int = 10
    connections: int = 4


def _is_http(url: str) -> bool:
    if any(c.isspace() or not c.isprintable() for c in url):
        return False
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # brackets, or a port that is not a number
        return False


def _is_header(value: str) -> bool:
    return value.isascii() and value.isprintable()


def _names() -> str:
    return ", ".join(KEY_VARIABLES)


@dataclass(frozen=True, slots=True)
class ReplicateSettings:
    """The address of Replicate, and the token.

    Args:
        token: ``REPLICATE_API_TOKEN``.
        base_url: ``REPLICATE_BASE_URL``; the simulator's address in the embedded stack.
    """

    token: str = field(repr=False)
    base_url: str = REPLICATE_URL

    def __post_init__(self) -> None:
        """Refuse what cannot be a token or an address.

        Raises:
            SettingsError: A setting is missing or invalid; the error names it.
        """
        if not self.token.strip() or not _is_header(self.token.strip()):
            raise SettingsError(
                "REPLICATE_API_TOKEN is blank, or has a character that is not printable ASCII",
                hint="Copy it from https://replicate.com/account/api-tokens",
            )
        if not _is_http(self.base_url):
            raise SettingsError(
                f"REPLICATE_BASE_URL is {self.base_url!r}, not an http:// or https:// address",
                hint=f"Unset it to use {REPLICATE_URL}",
            )

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ) -> "ReplicateSettings | None":
        """Read the token and the address; None when there is no token."""
        token = environ.get("REPLICATE_API_TOKEN")
        if not token:
            return None
        return cls(token, environ.get("REPLICATE_BASE_URL") or REPLICATE_URL)


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """The settings of a worker. Times in seconds.

    Args:
        queues: Queues to claim from; empty: ``default`` and those the handlers name. Names alone
            are one line, the best job first whatever its queue. With weights, as in ``{"images": 3,
            "default": 1}``, each queue that has jobs gets its share of the starts.
        concurrency: Jobs at the same time.
        lease: Length of a lease; heartbeats prolong it every third of that.
        poll_interval: Longest time between two claims of an idle worker; twice that while it is
            woken by new jobs.
        shutdown_grace: Time running jobs get to finish at shutdown before they are released.
        stuck_after: Time a handler may go on after it was given up (timeout, cancel, lost lease)
            before its slot counts as lost. When half of them are, the worker ends to be started
            anew.
        name: Name in the worker list; host, process id and a random part by default.
    """

    queues: Sequence[str] | Mapping[str, float] = ()
    concurrency: int = 10
    lease: float = 30.0
    poll_interval: float = 1.0
    shutdown_grace: float = 20.0
    stuck_after: float = 60.0
    name: str | None = None

    def __post_init__(self) -> None:
        """Refuse values that cannot work.

        Raises:
            SettingsError: A setting is invalid; the error names it and its value.
        """
        if isinstance(self.queues, str):
            raise SettingsError(
                f"queues is {self.queues!r}, not a list of names", hint="Put it into brackets"
            )
        object.__setattr__(self, "queues", _copy(self.queues))
        if not all(self.queues):
            raise SettingsError("A queue's name is empty", hint='Name it, such as "default"')
        for queue, weight in zip(self.queue_names, self.weights or (), strict=False):
            if not isinstance(weight, int | float) or not 0 < weight <= 1e6:
                raise SettingsError(
                    f"The weight of {queue} is {weight!r}", hint="Choose a number above 0"
                )
        for name, low, high in (
            ("concurrency", 1, 1000),
            ("lease", 1, 86_400),
            ("poll_interval", 0.01, 3600),
            ("shutdown_grace", 0, 86_400),
            ("stuck_after", 0, 86_400),
        ):
            value = getattr(self, name)
            kinds = (int,) if name == "concurrency" else (int, float)
            if not isinstance(value, kinds) or not low <= value <= high:
                raise SettingsError(f"{name} is {value!r}", hint=f"Choose {low} to {high}")

    @property
    def queue_names(self) -> tuple[str, ...]:
        """The names of the queues."""
        return tuple(self.queues)

    @property
    def weights(self) -> tuple[float, ...] | None:
        """The weight of each queue; None: they are one line."""
        return tuple(self.queues.values()) if isinstance(self.queues, Mapping) else None


def _copy(queues: Sequence[str] | Mapping[str, float]) -> tuple[str, ...] | dict[str, float]:
    return dict(queues) if isinstance(queues, Mapping) else tuple(queues)

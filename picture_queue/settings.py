"""Immutable settings. An argument takes precedence over its environment variable."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from picture_queue._files import Entry, user_name
from picture_queue._loopback import is_loopback_url
from picture_queue.errors import SettingsError

REPLICATE_URL = "https://api.replicate.com/v1"
# Each variable may hold a key of any kind. The first variable that is set is used.
KEY_VARIABLES = (
    "SUPABASE_KEY",
    "SUPABASE_SERVICE_ROLE_KEY",
    "SUPABASE_SECRET_KEY",
    "SUPABASE_ANON_KEY",
)
SAFE_DIRECTORY_VARIABLE = "PICTURE_QUEUE_SAFE_DIRECTORY"


def safe_directories(environ: Mapping[str, str] = os.environ) -> list[Path]:
    """Return the directories in which the caller trusts all users who can write there.

    They are the paths in ``PICTURE_QUEUE_SAFE_DIRECTORY``, separated as in ``PATH``.

    Raises:
        SettingsError: A path is not absolute.
    """
    paths = [path for path in environ.get(SAFE_DIRECTORY_VARIABLE, "").split(os.pathsep) if path]
    for path in paths:
        if not os.path.isabs(path):
            raise SettingsError(
                f"{SAFE_DIRECTORY_VARIABLE} has {path!r}, which is not an absolute path",
                hint="Separate several absolute paths by colons (on Windows by semicolons)",
            )
    return [Path(path).resolve() for path in paths]


def safe_directory_hint(replaceable: Entry) -> str:
    """Return what the caller can do about a directory that other users can replace."""
    return (
        "Choose a directory below one that only you and root can write, or run the command as "
        f"{user_name(replaceable.info.st_uid)}. If nobody else uses this machine, as in a "
        f"container, set {SAFE_DIRECTORY_VARIABLE}={replaceable.path}"
    )


@dataclass(frozen=True, slots=True)
class ProjectSettings:
    """The URL and a key of a Supabase project.

    Args:
        url: ``https://<ref>.supabase.co``, or the URL of the embedded stack.
        key: A service, secret, publishable or anon key.
        access_token: The token of a signed-in user; calls then have the privileges of this user.
            None: calls have the privileges of the key.
        timeout: Seconds to wait for the answer to a call, including retries.
    """

    url: str
    key: str = field(repr=False)
    access_token: str | None = field(default=None, repr=False)
    timeout: float = 30.0

    def __post_init__(self) -> None:
        """Refuse an invalid URL, key, token or timeout.

        Raises:
            SettingsError: The URL is not http(s), the key or the token is not printable ASCII, or
                the timeout is not a number of seconds.
        """
        _check_timeout(self.timeout)
        if not _is_http_url(self.url):
            raise SettingsError(
                f"SUPABASE_URL is {_hide_credentials(self.url)!r}, not an http:// or https:// URL"
                " without a user name",
                hint="Copy it from the project's API settings, or run: picture-queue local status",
            )
        if not self.key:
            raise SettingsError("The Supabase key is empty", hint=f"Set one of {_key_variables()}")
        for name, value in (("key", self.key), ("access token", self.access_token or "")):
            if not _is_header_value(value):
                raise SettingsError(
                    f"The Supabase {name} has a character that is not printable ASCII",
                    hint="Copy it again, as one line",
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
        """Create settings; read each argument that is None from the environment.

        The variables are ``SUPABASE_URL``, the first of `KEY_VARIABLES` that is set, and
        ``SUPABASE_ACCESS_TOKEN``.

        Raises:
            SettingsError: The URL or the key is missing.
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
            raise SettingsError("No Supabase key is set", hint=f"Set one of {_key_variables()}")
        token = access_token or environ.get("SUPABASE_ACCESS_TOKEN") or None
        return cls(url.rstrip("/"), key, token, timeout)


@dataclass(frozen=True, slots=True)
class DatabaseSettings:
    """The URL of a database for direct calls, and the options of its connections.

    Args:
        url: ``postgresql://user:password@host:port/database``, or libpq's ``key=value`` form. The
            server may be a pooler; only a pooler in session mode supports wake-ups by LISTEN.
        timeout: Seconds to wait for the answer to a call, including retries.
        connect_timeout: Seconds to wait for a connection.
        connections: Maximum number of connections.
    """

    url: str = field(repr=False)
    timeout: float = 30.0
    connect_timeout: int = 10
    connections: int = 4

    def __post_init__(self) -> None:
        """Refuse an invalid timeout.

        Raises:
            SettingsError: The timeout is not a number of seconds.
        """
        _check_timeout(self.timeout)


def refuse_empty(**arguments: str | None) -> None:
    """Refuse an argument that is given but empty.

    Otherwise the value would be read from the environment instead. An empty ``access_token`` could
    then give calls of a user the privileges of the key.

    Raises:
        SettingsError: An argument is empty.
    """
    for name, value in arguments.items():
        if value == "":
            raise SettingsError(
                f"`{name}` is empty",
                hint="Pass a value, or omit it to use the environment",
            )


def _check_timeout(seconds: object) -> None:
    if not isinstance(seconds, int | float) or not seconds >= 0:
        raise SettingsError(f"`timeout` is {seconds!r}", hint="Pass seconds, 0 or more")


def _hide_credentials(url: str) -> str:
    """Return a URL without its user name and password, for an error message."""
    scheme, separator, address = url.partition("://")
    return f"{scheme}{separator}{address.rpartition('@')[2]}" if separator else url


def _is_http_url(url: str) -> bool:
    if any(character.isspace() or not character.isprintable() for character in url):
        return False
    try:
        parts = urlsplit(url)
        is_http = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        # Errors and logs show the URL, so it must not contain a password.
        return is_http and parts.username is None
    except ValueError:  # unbalanced brackets, or a port that is not a number
        return False


def _is_header_value(value: str) -> bool:
    """Return whether a text can be sent as the value of an HTTP header."""
    return value.isascii() and value.isprintable()


def _key_variables() -> str:
    return ", ".join(KEY_VARIABLES)


@dataclass(frozen=True, slots=True)
class ReplicateSettings:
    """The token and the URL of Replicate.

    Args:
        token: ``REPLICATE_API_TOKEN``.
        base_url: ``REPLICATE_BASE_URL``; in the embedded stack the URL of the simulator.
        webhook_url: ``REPLICATE_WEBHOOK_URL``: the public URL of the route ``/webhooks/replicate``
            of `picture_queue.web`; None: the worker polls instead.
        webhook_secret: ``REPLICATE_WEBHOOK_SECRET``; None: it is read from Replicate.
    """

    token: str = field(repr=False)
    base_url: str = REPLICATE_URL
    webhook_url: str | None = None
    webhook_secret: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Refuse an invalid token or URL.

        Raises:
            SettingsError: A setting is missing or invalid; the error names it.
        """
        if not self.token.strip() or not _is_header_value(self.token.strip()):
            raise SettingsError(
                "REPLICATE_API_TOKEN is blank, or has a character that is not printable ASCII",
                hint="Copy it from https://replicate.com/account/api-tokens",
            )
        if not _is_http_url(self.base_url):
            raise SettingsError(
                f"REPLICATE_BASE_URL is {_hide_credentials(self.base_url)!r},"
                " not an http:// or https:// URL without a user name",
                hint=f"Unset it to use {REPLICATE_URL}",
            )
        url = self.webhook_url
        if url is not None and not (
            _is_http_url(url) and (url.startswith("https://") or is_loopback_url(url))
        ):
            raise SettingsError(
                f"REPLICATE_WEBHOOK_URL is {_hide_credentials(url)!r}, not an https:// URL"
                " without a user name",
                hint="Set it to the public URL of the route /webhooks/replicate, or unset it",
            )
        if self.webhook_secret is not None and not self.webhook_secret.startswith("whsec_"):
            raise SettingsError(
                "REPLICATE_WEBHOOK_SECRET does not begin with whsec_",
                hint="Copy it from Replicate, or unset it: it is then read with the token",
            )

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ) -> "ReplicateSettings | None":
        """Read the token and the URL from the environment; None if there is no token."""
        token = environ.get("REPLICATE_API_TOKEN")
        if not token:
            return None
        return cls(
            token,
            environ.get("REPLICATE_BASE_URL") or REPLICATE_URL,
            environ.get("REPLICATE_WEBHOOK_URL") or None,
            environ.get("REPLICATE_WEBHOOK_SECRET") or None,
        )


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """The settings of a worker; times are in seconds.

    Args:
        queues: Queues to claim from; empty: ``default`` and the queues of the handlers. With a list
            of names, jobs are claimed by priority across the queues. With weights, such as
            ``{"images": 3, "default": 1}``, each queue that has jobs gets a share of the claims in
            proportion to its weight.
        concurrency: Maximum number of jobs that run at the same time.
        lease: Length of a lease, unless the job type or the queue sets another one. The worker
            extends each lease after a third of its length. The jobs of a worker that was killed run
            elsewhere once their leases have ended.
        poll_interval: Maximum time between two claims of an idle worker. While the worker receives
            wake-ups, the maximum is twice this time.
        shutdown_grace: Time that running jobs get to finish at shutdown before they are released.
        stuck_after: Time that a handler may still run after its attempt was given up because of a
            timeout, a cancel or a lost lease. After this time its slot counts as lost. If half of
            the slots are lost, the worker stops, so that a process manager can restart it.
        name: Name in the list of workers; by default host, process id and a random part.
        max_jobs: Number of jobs after which the worker stops; None: no limit.
        executor_host: Address of this machine at which handlers in executors on other machines
            reach the worker.
    """

    queues: Sequence[str] | Mapping[str, float] = ()
    concurrency: int = 10
    lease: float = 15.0
    poll_interval: float = 1.0
    shutdown_grace: float = 20.0
    stuck_after: float = 60.0
    name: str | None = None
    max_jobs: int | None = None
    executor_host: str = "127.0.0.1"

    def __post_init__(self) -> None:
        """Refuse invalid values.

        Raises:
            SettingsError: A setting is invalid; the error names it and its value.
        """
        if isinstance(self.queues, str):
            raise SettingsError(
                f"`queues` is {self.queues!r}, not a list of names",
                hint=f"Pass a list: [{self.queues!r}]",
            )
        object.__setattr__(self, "queues", _copy_queues(self.queues))
        if not all(self.queues):
            raise SettingsError(
                "`queues` has an empty name", hint='Pass the name of each queue, such as "default"'
            )
        duplicate = next((name for name in self.queues if list(self.queues).count(name) > 1), None)
        if duplicate is not None:
            raise SettingsError(
                f"`queues` has {duplicate!r} more than once", hint="Name each queue once"
            )
        weights = self.queues if isinstance(self.queues, Mapping) else {}
        for queue, weight in weights.items():
            if not isinstance(weight, int | float) or not 0 < weight <= 1_000_000:
                raise SettingsError(
                    f"The weight of queue {queue} is {weight!r}",
                    hint="Choose a number above 0, up to 1,000,000",
                )
        if self.max_jobs is not None and not (isinstance(self.max_jobs, int) and self.max_jobs > 0):
            hint = "Choose 1 or more, or None for no limit"
            raise SettingsError(f"`max_jobs` is {self.max_jobs!r}", hint=hint)
        for name, minimum, maximum in (
            ("concurrency", 1, 1000),
            ("lease", 1, 86_400),
            ("poll_interval", 0.01, 3600),
            ("shutdown_grace", 0, 86_400),
            ("stuck_after", 0, 86_400),
        ):
            value = getattr(self, name)
            types = (int,) if name == "concurrency" else (int, float)
            if not isinstance(value, types) or not minimum <= value <= maximum:
                hint = f"Choose {minimum} to {maximum}"
                raise SettingsError(f"`{name}` is {value!r}", hint=hint)

    @property
    def queue_names(self) -> tuple[str, ...]:
        """The names of the queues."""
        return tuple(self.queues)

    @property
    def weights(self) -> tuple[float, ...] | None:
        """The weight of each queue; None if jobs are claimed by priority across queues."""
        return tuple(self.queues.values()) if isinstance(self.queues, Mapping) else None


def _copy_queues(
    queues: Sequence[str] | Mapping[str, float],
) -> tuple[str, ...] | dict[str, float]:
    return dict(queues) if isinstance(queues, Mapping) else tuple(queues)

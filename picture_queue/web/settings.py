"""The settings of the ASGI app."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from picture_queue.errors import SettingsError

_MIN_SECRET_LENGTH = 24  # characters; a shorter secret could be guessed over the network
_MAX_PROCESS_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class WebSettings:
    """The settings of the routes that start and run jobs.

    Args:
        process_secret: ``PICTURE_QUEUE_PROCESS_SECRET``: the secret of ``/process-jobs`` and
            ``/process-generation``, at least 24 characters. The service key of the app's client is
            accepted too.
        jwt_secret: ``SUPABASE_JWT_SECRET``: the secret of a project that signs the tokens of its
            users with HS256. Tokens with ES256 and RS256 are verified with the public keys of the
            project, which need no setting.
        audience: The claim ``aud`` that the tokens of users must have.
        allowed_origins: ``PICTURE_QUEUE_ALLOWED_ORIGINS``, separated by commas: the origins of the
            web pages that may call ``/start-generation``; ``*`` permits all. The route needs a
            token in a header, and uses no cookies.
        process_seconds: ``PICTURE_QUEUE_PROCESS_SECONDS``: maximum seconds of one call of
            ``/process-jobs`` or ``/process-generation``.
    """

    process_secret: str | None = field(default=None, repr=False)
    jwt_secret: str | None = field(default=None, repr=False)
    audience: str = "authenticated"
    allowed_origins: Sequence[str] = ("*",)
    process_seconds: float = 50.0

    def __post_init__(self) -> None:
        """Refuse invalid values.

        Raises:
            SettingsError: A setting is invalid; the error names it.
        """
        secret = self.process_secret
        if secret is not None and not _is_strong(secret):
            raise SettingsError(
                f"PICTURE_QUEUE_PROCESS_SECRET is shorter than {_MIN_SECRET_LENGTH} characters, or"
                " has a character that is not printable ASCII",
                hint="Create one with: openssl rand -hex 32",
            )
        if self.jwt_secret is not None and len(self.jwt_secret.encode()) < 32:
            raise SettingsError(
                "SUPABASE_JWT_SECRET is shorter than 32 bytes",
                hint="Copy it from the project's JWT settings, or unset it if tokens are signed"
                " with ES256 or RS256",
            )
        if isinstance(self.allowed_origins, str):
            raise SettingsError(
                f"`allowed_origins` is {self.allowed_origins!r}, not a list",
                hint=f"Pass a list: [{self.allowed_origins!r}]",
            )
        object.__setattr__(self, "allowed_origins", tuple(self.allowed_origins))
        for origin in self.allowed_origins:
            if origin != "*" and not _is_origin(origin):
                raise SettingsError(
                    f"PICTURE_QUEUE_ALLOWED_ORIGINS has {origin!r}, which is not an origin",
                    hint="Write it as https://app.example.com, without a path",
                )
        seconds = self.process_seconds
        if not isinstance(seconds, int | float) or not 1 <= seconds <= _MAX_PROCESS_SECONDS:
            raise SettingsError(
                f"PICTURE_QUEUE_PROCESS_SECONDS is {seconds!r}",
                hint=f"Choose 1 to {_MAX_PROCESS_SECONDS:g}",
            )

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ) -> "WebSettings":
        """Read the settings from the environment.

        Raises:
            SettingsError: A setting is invalid; the error names it.
        """
        origins = environ.get("PICTURE_QUEUE_ALLOWED_ORIGINS")
        seconds = environ.get("PICTURE_QUEUE_PROCESS_SECONDS")
        return cls(
            process_secret=environ.get("PICTURE_QUEUE_PROCESS_SECRET") or None,
            jwt_secret=environ.get("SUPABASE_JWT_SECRET") or None,
            allowed_origins=_split(origins) if origins else ("*",),
            process_seconds=_number(seconds) if seconds else 50.0,
        )


def _split(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise SettingsError(
            f"PICTURE_QUEUE_PROCESS_SECONDS is {text!r}, not a number", hint="Set seconds, as in 50"
        ) from None


def _is_strong(secret: str) -> bool:
    return len(secret) >= _MIN_SECRET_LENGTH and secret.isascii() and secret.isprintable()


def _is_origin(text: str) -> bool:
    try:
        parts = urlsplit(text)
        is_complete = parts.scheme in ("http", "https") and bool(parts.hostname)
        return is_complete and text == f"{parts.scheme}://{parts.netloc}" and parts.port != 0
    except ValueError:  # a port that is not a number, or unbalanced brackets
        return False

# Written by scripts/unasync.py from picture_queue/_transport/backend.py: edit that file.

"""Calls to a project through its HTTP API or its database, with retries and a deadline."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from tenacity import Retrying

from picture_queue._rpc import Rpc
from picture_queue._rpc import project as _rpc
from picture_queue._transport.base import (
    UPGRADE_HINT,
    Transport,
    Deadline,
    StorageCall,
    check_version,
    is_transient,
    retry_policy,
)
from picture_queue._transport.errors import FunctionMissing, require_driver
from picture_queue.errors import (
    ConnectionFailed,
    DatabaseTooOld,
    SettingsError,
    UnreadableAnswer,
)
from picture_queue.settings import DatabaseSettings

# Transports are imported lazily: a worker that uses only the database saves 25 MB of memory.
if TYPE_CHECKING:
    from picture_queue._transport.postgres_sync import Postgres
    from picture_queue._transport.postgrest_sync import Postgrest

T = TypeVar("T")


class _VersionState:
    """The state of the check of the project's version, which the backends of its users share."""

    is_checked = False


class Backend:
    """Access to one project: directly to its database if that is configured, otherwise to its API.

    This is the only layer that retries calls and limits their duration.

    Args:
        api: The client of the HTTP API, which Storage and Realtime need; None if it is not
            configured.
        database: The settings of the database; None: all calls go to the API.
    """

    def __init__(
        self, api: "Postgrest | None", database: DatabaseSettings | None = None
    ) -> None:
        self.api = api
        self.database: Postgres | None = None
        if database is not None:
            with require_driver():
                from picture_queue._transport import postgres_sync
            self.database = postgres_sync.Postgres(database)
        transport: Transport | None = self.database or api
        assert transport is not None  # noqa: S101 - the caller passes at least one of the two
        self._transport = transport
        self._version = _VersionState()

    def for_user(self, token: str) -> "Backend":
        """Return a backend that makes calls as a user, over the connections of this one.

        Args:
            token: The access token of the user.

        Raises:
            SettingsError: The URL or the key of the API is not configured.
            NotAuthenticated: The token is not a JSON Web Token.
        """
        if self.api is None:
            raise SettingsError(
                "Calls as a user need the project's API, and SUPABASE_URL is not set",
                hint="Set SUPABASE_URL and a key in addition to PICTURE_QUEUE_DATABASE_URL",
            )
        backend = Backend(self.api.for_user(token))
        backend._version = self._version  # one check is enough for all users
        return backend

    def call(self, rpc: Rpc[T], timeout: float | None = None) -> T:
        """Make a call, retry it after a transient failure, and return its parsed result.

        Args:
            rpc: The call.
            timeout: Seconds to wait for the answer, including retries; None: the timeout of
                the settings.

        Raises:
            PictureQueueError: The project refused the call, or did not answer.
        """
        deadline = Deadline(self._transport.settings.timeout if timeout is None else timeout)
        if not self._version.is_checked:
            self._check_version(deadline)
        try:
            return self._retry(partial(self._transport.call, rpc), deadline)
        except FunctionMissing as error:
            # Check the version again, for a more precise error: since the last check, the SQL may
            # have been upgraded beyond this client, or removed.
            self._check_version(deadline)
            raise DatabaseTooOld(
                "The project's SQL lacks a function", detail=str(error), hint=UPGRADE_HINT
            ) from None

    def storage(self, call: StorageCall, timeout: float | None = None) -> bytes:
        """Call Storage, retry after a transient failure, and return its answer.

        Args:
            call: The call.
            timeout: Seconds to wait for the answer, including retries; None: the timeout of
                the settings.

        Raises:
            SettingsError: The URL or the key of the API is not configured.
            PictureQueueError: Storage refused the call, or did not answer.
        """
        api = self._api()
        deadline = Deadline(api.settings.timeout if timeout is None else timeout)
        return self._retry(partial(api.storage, call), deadline)

    @property
    def storage_url(self) -> str:
        """The URL of Storage."""
        return f"{self._api().settings.url}/storage/v1"

    def _retry(self, call: Callable[[Deadline], T], deadline: Deadline) -> T:
        """Make a call, and retry it after transient failures until the deadline."""
        try:
            return call(deadline)
        except Exception as error:
            if not is_transient(error):
                raise
            first_failure: Exception | None = error
        # Tenacity is set up only after a failure, since its setup takes a tenth of the time of a
        # call. The first attempt of tenacity raises the failure of the call above again, so that
        # this call counts as an attempt.
        for attempt in Retrying(**retry_policy(deadline)):
            with attempt:
                if first_failure is not None:
                    failure, first_failure = first_failure, None
                    raise failure
                return call(deadline)
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _check_version(self, deadline: Deadline) -> None:
        try:
            call = partial(self._transport.call, _rpc.picture_queue_version())
            version = self._retry(call, deadline)
        except FunctionMissing:
            version = None
        except UnreadableAnswer as error:  # all versions of the SQL answer in the same format
            raise ConnectionFailed(
                "The server does not answer like a Supabase project",
                detail="the answer to picture_queue_version is not in its format",
                hint="Check SUPABASE_URL: it is the project's base URL, without a path",
            ) from error
        check_version(version)
        self._version.is_checked = True

    def _api(self) -> "Postgrest":
        if self.api is None:
            raise SettingsError(
                "Pictures and live events need the project's API, and SUPABASE_URL is not set",
                hint="Set SUPABASE_URL and a key in addition to PICTURE_QUEUE_DATABASE_URL",
            )
        return self.api

    def close(self) -> None:
        """Close the connections, but not a supabase client that the caller passed."""
        if self.database is not None:
            self.database.close()
        if self.api is not None:
            self.api.close()

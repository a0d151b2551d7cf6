# Written by scripts/unasync.py from picture_queue/_transport/backend.py: edit that file.

"""A project, reached over its HTTP API, its database, or both."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from tenacity import Retrying

from picture_queue._rpc import Rpc
from picture_queue._rpc import project as _rpc
from picture_queue._transport.base import (
    UPGRADE,
    Transport,
    Deadline,
    StorageCall,
    check_version,
    is_transient,
    retry_policy,
)
from picture_queue._transport.errors import FunctionMissing, needs_driver
from picture_queue.errors import (
    ConnectionFailed,
    DatabaseTooOld,
    SettingsError,
    UnreadableAnswer,
)
from picture_queue.settings import DatabaseSettings

# Transports are imported lazily: a worker that uses only the database needs 25 MB less memory.
if TYPE_CHECKING:
    from supabase import Client

    from picture_queue._transport.postgres_sync import Postgres
    from picture_queue._transport.postgrest_sync import Postgrest

T = TypeVar("T")


class Backend:
    """One project. Calls go directly to the database if it is configured, otherwise to the API.

    This is the only layer that retries calls and limits how long they take.

    Args:
        api: The HTTP API; Storage and Realtime need it.
        database: The settings of the database; None: all calls go to the API.
    """

    def __init__(
        self, api: "Postgrest | None", database: DatabaseSettings | None = None
    ) -> None:
        self.api = api
        self.database: Postgres | None = None
        if database is not None:
            with needs_driver():
                from picture_queue._transport import postgres_sync
            self.database = postgres_sync.Postgres(database)
        transport: Transport | None = self.database or api
        assert transport is not None  # noqa: S101 - the caller passes at least one
        self._transport = transport
        self._version_is_checked = False

    def call(self, rpc: Rpc[T], timeout: float | None = None) -> T:
        """Make a call, retry it after a transient failure, and return its parsed result.

        Args:
            rpc: The call.
            timeout: Longest wait for the answer, retries included, seconds; None: the
                settings'.

        Raises:
            PictureQueueError: The database or the project refused the call, or did not answer.
        """
        deadline = Deadline(self._transport.settings.timeout if timeout is None else timeout)
        if not self._version_is_checked:
            self._check_version(deadline)
        try:
            return self._repeat(partial(self._transport.call, rpc), deadline)
        except FunctionMissing as error:
            # The database was migrated meanwhile: _check_version raises the exact error.
            self._check_version(deadline)
            raise DatabaseTooOld(
                "The project's SQL lacks a function", detail=str(error), hint=UPGRADE
            ) from None

    def storage(self, call: StorageCall, timeout: float | None = None) -> bytes:
        """Call Storage, retry after a transient failure, and return its answer.

        Args:
            call: The call.
            timeout: Longest wait for the answer, retries included, seconds; None: the
                settings'.

        Raises:
            SettingsError: The API's address or key is not known.
            PictureQueueError: Storage refused the call, or did not answer.
        """
        api = self._api()
        deadline = Deadline(api.settings.timeout if timeout is None else timeout)
        return self._repeat(partial(api.storage, call), deadline)

    @property
    def storage_url(self) -> str:
        """The address of Storage."""
        return f"{self._api().settings.url}/storage/v1"

    def _repeat(self, call: Callable[[Deadline], T], deadline: Deadline) -> T:
        try:
            return call(deadline)
        except Exception as error:
            if not is_transient(error):
                raise
            failure: Exception | None = error
        # Tenacity is set up only after a failure, since that takes a tenth of the time of a call.
        # Its first attempt raises the known failure again, so that it counts as an attempt.
        for attempt in Retrying(**retry_policy(deadline)):
            with attempt:
                if failure is not None:
                    first, failure = failure, None
                    raise first
                return call(deadline)
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _check_version(self, deadline: Deadline) -> None:
        try:
            call = partial(self._transport.call, _rpc.picture_queue_version())
            found = self._repeat(call, deadline)
        except FunctionMissing:
            found = None
        except UnreadableAnswer as error:  # all versions answer in the same format
            raise ConnectionFailed(
                "The address does not answer like a Supabase project",
                detail="the answer of picture_queue_version is another's",
                hint="Check SUPABASE_URL: it is the project's base address, without a path",
            ) from error
        check_version(found)
        self._version_is_checked = True

    def client(self) -> "Client":
        """Return the client of the package supabase; Realtime uses it.

        Raises:
            SettingsError: The API's address or key is not known.
        """
        return self._api().client()

    def _api(self) -> "Postgrest":
        if self.api is None:
            raise SettingsError(
                "Pictures and live events need the project's API",
                hint="Set SUPABASE_URL and a key beside PICTURE_QUEUE_DATABASE_URL",
            )
        return self.api

    def close(self) -> None:
        """Close the connections, except those that the caller passed in."""
        if self.database is not None:
            self.database.close()
        if self.api is not None:
            self.api.close()

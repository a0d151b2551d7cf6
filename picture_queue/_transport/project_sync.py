# Written by scripts/unasync.py from picture_queue/_transport/project.py: edit that file.

"""A project by whichever ways it is reached: its HTTP API, its database, or both."""

from typing import TYPE_CHECKING, TypeVar

from tenacity import Retrying

from picture_queue import _rpc
from picture_queue._rpc import Rpc
from picture_queue._transport.base import (
    REPEATING,
    UPGRADE,
    FunctionMissing,
    check_version,
    needs_driver,
    worth_repeating,
)
from picture_queue.errors import DatabaseTooOld, SettingsError
from picture_queue.settings import DatabaseSettings

# The two ways are imported by those who go them: a worker beside its database needs 25 MB less.
if TYPE_CHECKING:
    from supabase import Client

    from picture_queue._transport.postgres_sync import Postgres
    from picture_queue._transport.postgrest_sync import Postgrest

T = TypeVar("T")


class Project:
    """One project. Calls go straight to the database where its address is known.

    Args:
        api: The HTTP API; without it there are no files, and no events over Realtime.
        database: The database; without it calls go over the API.
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
        self._way: Postgres | Postgrest | None = self.database or self.api
        self._version_is_checked = False

    def call(self, rpc: Rpc[T]) -> T:
        """Makes the call, again after a lost answer, and returns its parsed result.

        Raises:
            PictureQueueError: What the database or the project answered, by name.
        """
        if not self._version_is_checked:
            self._check_version()
        try:
            return self._repeated(rpc)
        except FunctionMissing as error:
            # The database changed under a running client: say in which direction.
            self._check_version()
            raise DatabaseTooOld(
                "The project's SQL lacks a function", detail=str(error), hint=UPGRADE
            ) from None

    def _repeated(self, rpc: Rpc[T]) -> T:
        assert self._way is not None  # noqa: S101 - one of the two is there
        try:
            return self._way.call(rpc)
        except Exception as error:
            if not worth_repeating(error):
                raise
        # Only now: to set this up costs a tenth of a call.
        for attempt in Retrying(**REPEATING):
            with attempt:
                return self._way.call(rpc)
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _check_version(self) -> None:
        try:
            found = self._repeated(_rpc.picture_queue_version())
        except FunctionMissing:
            found = None
        check_version(found)
        self._version_is_checked = True

    def client(self) -> "Client":
        """Returns the supabase client, for files and Realtime.

        Raises:
            SettingsError: The API's address or key is not known.
        """
        return self._api().client()

    def named(self, error: Exception) -> Exception:
        """Returns the exception of this library for a failure of a call of the client."""
        return self._api().named(error)

    def _api(self) -> "Postgrest":
        if self.api is None:
            raise SettingsError(
                "Pictures and live events need the project's API",
                hint="Set SUPABASE_URL and a key beside PICTURE_QUEUE_DATABASE_URL",
            )
        return self.api

    def close(self) -> None:
        """Closes the connections, unless the caller brought them."""
        if self.database is not None:
            self.database.close()
        if self.api is not None:
            self.api.close()

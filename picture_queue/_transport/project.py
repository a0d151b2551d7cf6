"""A project by whichever ways it is reached: its HTTP API, its database, or both."""

from typing import TYPE_CHECKING, TypeVar

from tenacity import AsyncRetrying

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
    from supabase import AsyncClient

    from picture_queue._transport.postgres import AsyncPostgres
    from picture_queue._transport.postgrest import AsyncPostgrest

T = TypeVar("T")


class AsyncProject:
    """One project. Calls go straight to the database where its address is known.

    Args:
        api: The HTTP API; without it there are no files, and no events over Realtime.
        database: The database; without it calls go over the API.
    """

    def __init__(
        self, api: "AsyncPostgrest | None", database: DatabaseSettings | None = None
    ) -> None:
        self.api = api
        self.database: AsyncPostgres | None = None
        if database is not None:
            with needs_driver():
                from picture_queue._transport import postgres
            self.database = postgres.AsyncPostgres(database)
        self._way: AsyncPostgres | AsyncPostgrest | None = self.database or self.api
        self._version_is_checked = False

    async def call(self, rpc: Rpc[T]) -> T:
        """Makes the call, again after a lost answer, and returns its parsed result.

        Raises:
            PictureQueueError: What the database or the project answered, by name.
        """
        if not self._version_is_checked:
            await self._check_version()
        try:
            return await self._repeated(rpc)
        except FunctionMissing as error:
            # The database changed under a running client: say in which direction.
            await self._check_version()
            raise DatabaseTooOld(
                "The project's SQL lacks a function", detail=str(error), hint=UPGRADE
            ) from None

    async def _repeated(self, rpc: Rpc[T]) -> T:
        assert self._way is not None  # noqa: S101 - one of the two is there
        try:
            return await self._way.call(rpc)
        except Exception as error:
            if not worth_repeating(error):
                raise
        # Only now: to set this up costs a tenth of a call.
        async for attempt in AsyncRetrying(**REPEATING):
            with attempt:
                return await self._way.call(rpc)
        raise AssertionError("unreachable: the last attempt returns or raises")

    async def _check_version(self) -> None:
        try:
            found = await self._repeated(_rpc.picture_queue_version())
        except FunctionMissing:
            found = None
        check_version(found)
        self._version_is_checked = True

    async def client(self) -> "AsyncClient":
        """Returns the supabase client, for files and Realtime.

        Raises:
            SettingsError: The API's address or key is not known.
        """
        return await self._api().client()

    def named(self, error: Exception) -> Exception:
        """Returns the exception of this library for a failure of a call of the client."""
        return self._api().named(error)

    def _api(self) -> "AsyncPostgrest":
        if self.api is None:
            raise SettingsError(
                "Pictures and live events need the project's API",
                hint="Set SUPABASE_URL and a key beside PICTURE_QUEUE_DATABASE_URL",
            )
        return self.api

    async def aclose(self) -> None:
        """Closes the connections, unless the caller brought them."""
        if self.database is not None:
            await self.database.aclose()
        if self.api is not None:
            await self.api.aclose()

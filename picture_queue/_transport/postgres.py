"""A transport that calls the functions directly in the database, through a small connection pool.

A call is one statement in one round trip. It uses no named prepared statement and no session state,
so it works with a pooler in transaction mode, where each statement may run in another session.
"""

import threading
from typing import TypeVar

from psycopg import pq
from psycopg.errors import error_from_result
from psycopg.pq.abc import PGresult
from pydantic_core import from_json

from picture_queue._rpc import Rpc
from picture_queue._transport.base import Deadline, parse_answer
from picture_queue._transport.connection import AsyncPool, AsyncRawConnection, connect_async
from picture_queue._transport.errors import FunctionMissing, translate_database_error
from picture_queue._transport.statements import SIGNATURE_QUERY, Statement
from picture_queue.errors import ConnectionFailed, SettingsError
from picture_queue.settings import DatabaseSettings

T = TypeVar("T")

_TUPLES_OK = pq.ExecStatus.TUPLES_OK  # a global, to avoid an attribute look-up in each call


class AsyncPostgres:
    """A transport that calls the functions directly in the database.

    Args:
        settings: The URL of the database, and the options of the connections.
    """

    def __init__(self, settings: DatabaseSettings) -> None:
        self.settings = settings
        self._pool: AsyncPool | None = None
        self._pool_lock = threading.Lock()
        self._statements: dict[str, Statement] = {}

    async def call(self, rpc: Rpc[T], deadline: Deadline) -> T:
        """Make a call and return its parsed result.

        Args:
            rpc: The call.
            deadline: The time by which to connect and receive the answer.

        Raises:
            PictureQueueError: The database refused the call, or did not answer.
        """
        pool = self._current_pool()
        await pool.acquire_slot(deadline)
        connection = None
        try:
            connection = pool.pop_idle()
            if connection is None:
                connection = AsyncRawConnection(await connect_async(self.settings, deadline))
            statement = self._statements.get(rpc.function)
            if statement is None:
                statement = await self._load_statement(connection, rpc.function, deadline)
            sql, values = statement.bind(rpc.params)
            answer = _first_value(await connection.execute(sql, values, deadline.remaining()))
        except Exception as error:
            translated = translate_database_error(error, self.settings, deadline)
            if isinstance(translated, FunctionMissing):
                # A migration may create the function again, with other parameters.
                self._statements.pop(rpc.function, None)
            if isinstance(translated, ConnectionFailed):
                # After a restart or a network failure the idle connections are dead too.
                pool.close_idle()
            # A SettingsError is not chained to the error of psycopg, which may quote the password.
            needs_no_cause = translated is error or isinstance(translated, SettingsError)
            raise translated from (None if needs_no_cause else error)
        finally:
            if connection is not None:
                pool.release(connection)
            pool.release_slot()
        return parse_answer(rpc, answer, statement.decode)

    def _current_pool(self) -> AsyncPool:
        """Return the pool of this process and event loop; create it if there is none yet."""
        pool = self._pool
        if pool is None or not pool.owner.is_current():
            pool = self._renew_pool()
        return pool

    def _renew_pool(self) -> AsyncPool:
        with self._pool_lock:
            pool = self._pool
            if pool is None or not pool.owner.is_current():  # no other thread has renewed it
                if pool is not None:
                    pool.abandon()
                pool = self._pool = AsyncPool(self.settings.connections)
            return pool

    async def _load_statement(
        self, connection: AsyncRawConnection, function: str, deadline: Deadline
    ) -> Statement:
        result = await connection.execute(
            SIGNATURE_QUERY, [function.encode()], deadline.remaining()
        )
        signature = _first_value(result)
        if signature is None:
            raise FunctionMissing(function)
        statement = Statement(function, from_json(signature))
        self._statements[function] = statement
        return statement

    async def aclose(self) -> None:
        """Close idle connections now, and the connections of running calls at their end."""
        if self._pool is not None:
            self._current_pool().close()


def _first_value(result: PGresult) -> bytes | None:
    """Return the first value of the first row; None if it is null or there is no row."""
    if result.status != _TUPLES_OK:
        raise error_from_result(result, encoding="utf-8")
    return result.get_value(0, 0) if result.ntuples else None

# Written by scripts/unasync.py from picture_queue/_transport/postgres.py: edit that file.

"""Calls straight to the database, over connections that are kept.

A call is one statement in one round trip, without a named prepared statement and without session
state: so it is safe behind a pooler in transaction mode, where the next statement may run in
another session.
"""

import threading
from typing import Any, TypeVar

from psycopg import Connection, pq
from psycopg.conninfo import make_conninfo
from psycopg.errors import error_from_result
from psycopg.pq.abc import PGresult
from pydantic_core import from_json

from picture_queue._rpc import Rpc
from picture_queue._transport.answers import Wire
from picture_queue._transport.base import FunctionMissing
from picture_queue._transport.sqlstate import name_database_error
from picture_queue._transport.statements import SIGNATURE, Statement, statement_of
from picture_queue.settings import DatabaseSettings

T = TypeVar("T")

_ROWS = pq.ExecStatus.TUPLES_OK  # looked up once: each call asks for it


class Postgres:
    """One database, reached with its address.

    Args:
        settings: The address, and how to use it.
    """

    def __init__(self, settings: DatabaseSettings) -> None:
        self.settings = settings
        self._idle: list[Wire] = []
        self._room = threading.Semaphore(settings.connections)
        self._statements: dict[str, Statement] = {}
        self._closed = False

    def call(self, rpc: Rpc[T]) -> T:
        """Makes the call and returns its parsed result.

        Raises:
            PictureQueueError: What the database answered, by name, or that it did not.
        """
        with self._room:
            wire = None
            try:
                wire = self._idle.pop() if self._idle else Wire(connect(self.settings))
                statement = self._statements.get(rpc.function)
                if statement is None:
                    statement = self._learn(wire, rpc.function)
                text, values = statement.of(rpc.params)
                data = _value(wire.ask(text, values, self.settings.timeout))
                answer = None if data is None else statement.decode(data)
            except Exception as error:
                named = name_database_error(error, self.settings)
                raise named from (None if named is error else error)
            finally:
                if wire is not None:
                    self._give_back(wire)
        return rpc.parse(answer)

    def _learn(self, wire: Wire, function: str) -> Statement:
        answer = wire.ask(SIGNATURE, [function.encode()], self.settings.timeout)
        found = _value(answer)
        if found is None:
            raise FunctionMissing(function)
        statement = statement_of(function, from_json(found))
        self._statements[function] = statement
        return statement

    def _give_back(self, wire: Wire) -> None:
        # Of one that is not idle nobody knows what it is about to hear.
        if wire.idle and not self._closed:
            self._idle.append(wire)
        else:
            wire.close()

    def close(self) -> None:
        """Closes the connections; those of running calls when the calls end."""
        self._closed = True
        while self._idle:
            self._idle.pop().close()


def _value(result: PGresult) -> bytes | None:
    if result.status != _ROWS:
        raise error_from_result(result, encoding="utf-8")
    return result.get_value(0, 0) if result.ntuples else None


def connect(settings: DatabaseSettings) -> Connection[Any]:
    """Opens a connection.

    Raises:
        psycopg.Error: It cannot be opened.
    """
    return Connection.connect(
        make_conninfo(
            settings.url,
            application_name="picture_queue",
            connect_timeout=settings.connect_timeout,
            keepalives_idle=30,
            keepalives_interval=5,
            keepalives_count=3,
        ),
        autocommit=True,
    )

"""Privileges to read and write private topics, by the policies on ``realtime.messages``.

Like the Realtime server, the gateway sets the claims and ``realtime.topic`` in a transaction that
it always rolls back. To check the privilege to read, it inserts a row of the topic, and then
selects this row as the caller. To check the privilege to write, it inserts a row as the caller.
Source: https://github.com/supabase/realtime, lib/realtime/tenants/authorization.ex.
"""

import asyncpg

from picture_queue.local.gateway.credentials import Caller
from picture_queue.local.gateway.database import Connection, Database, act_as

_INSERT = "insert into realtime.messages (topic, extension, private) values ($1, 'broadcast', true)"


class Access:
    """Checks of privileges in the database; the results are not cached here."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def can_read(self, caller: Caller, topic: str) -> bool:
        """Return whether a policy lets the caller select the topic's messages.

        Raises:
            asyncpg.PostgresError: A policy failed.
        """
        async with self._database.connection() as connection:
            transaction = connection.transaction()
            await transaction.start()
            try:
                message_id = await connection.fetchval(_INSERT + " returning id", topic)
                await _set_caller(connection, caller, topic)
                is_visible = await connection.fetchval(
                    "select exists (select from realtime.messages"
                    " where topic = $1 and id = $2 and extension = 'broadcast')",
                    topic,
                    message_id,
                )
            finally:
                await transaction.rollback()
        return bool(is_visible)

    async def can_write(self, caller: Caller, topic: str) -> bool:
        """Return whether a policy lets the caller insert a message of the topic.

        Raises:
            asyncpg.PostgresError: A policy failed.
        """
        async with self._database.connection() as connection:
            transaction = connection.transaction()
            await transaction.start()
            try:
                await _set_caller(connection, caller, topic)
                await connection.execute(_INSERT, topic)
            except asyncpg.InsufficientPrivilegeError:
                return False
            finally:
                await transaction.rollback()
        return True


async def _set_caller(connection: Connection, caller: Caller, topic: str) -> None:
    await act_as(connection, caller, {"realtime.topic": topic})

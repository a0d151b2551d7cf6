"""The users in ``auth.users``, for administrators."""

import uuid
from dataclasses import dataclass, field
from typing import Any

import asyncpg

from picture_queue.local.gateway.auth.accounts import end_sessions
from picture_queue.local.gateway.auth.errors import AuthError
from picture_queue.local.gateway.database import Database, fetch_one

_COUNT = "select count(*) from auth.users where deleted_at is null"
_PAGE = (
    "select * from auth.users where deleted_at is null"
    " order by created_at desc, id limit $1 offset $2"
)
_FIND = "select * from auth.users where id = $1 and deleted_at is null"
_ADD = (
    "insert into auth.users (id, aud, role, email, encrypted_password, email_confirmed_at,"
    " raw_app_meta_data, raw_user_meta_data, created_at, updated_at)"
    " values ($1, 'authenticated', $2, $3, $4, case when $5 then now() end, $6, $7, now(), now())"
    " returning *"
)
# A null parameter leaves its column unchanged. A null inside an object of metadata removes its key.
_CHANGE = (
    "update auth.users set role = coalesce($2, role), email = coalesce($3, email),"
    " encrypted_password = coalesce($4, encrypted_password),"
    " email_confirmed_at = coalesce(email_confirmed_at, case when $5 then now() end),"
    " raw_app_meta_data = jsonb_strip_nulls(coalesce(raw_app_meta_data, '{}') || $6),"
    " raw_user_meta_data = jsonb_strip_nulls(coalesce(raw_user_meta_data, '{}') || $7),"
    " updated_at = now() where id = $1 and deleted_at is null returning *"
)


@dataclass(frozen=True)
class Attributes:
    """The fields of a user that an administrator sets; None for a field that does not change."""

    role: str | None = None
    email: str | None = None
    password_hash: str | None = None
    confirmed: bool = False
    app_metadata: dict[str, Any] = field(default_factory=dict)
    user_metadata: dict[str, Any] = field(default_factory=dict)

    def values(self) -> tuple[object, ...]:
        """Return the fields in the order of the parameters of the statements."""
        return (
            self.role,
            self.email,
            self.password_hash,
            self.confirmed,
            self.app_metadata,
            self.user_metadata,
        )


class UserDirectory:
    """Access to the users for administrators.

    Args:
        database: The database of the users.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def page(self, number: int, size: int) -> tuple[list[asyncpg.Record], int]:
        """Return one page of users, the newest first, and the number of all users."""
        async with self._database.connection() as connection:
            users = await connection.fetch(_PAGE, size, (number - 1) * size)
            return users, await connection.fetchval(_COUNT)

    async def find(self, user_id: uuid.UUID) -> asyncpg.Record:
        """Return a user.

        Raises:
            AuthError: No user has this id.
        """
        async with self._database.connection() as connection:
            return _expect_found(await connection.fetchrow(_FIND, user_id))

    async def add(self, user_id: uuid.UUID, attributes: Attributes) -> asyncpg.Record:
        """Create a user.

        Raises:
            AuthError: The e-mail address or the id is taken.
        """
        try:
            async with self._database.connection() as connection:
                return await fetch_one(connection, _ADD, user_id, *attributes.values())
        except asyncpg.UniqueViolationError:
            raise _email_exists() from None

    async def change(self, user_id: uuid.UUID, attributes: Attributes) -> asyncpg.Record:
        """Change a user; a new password ends all sessions of the user.

        Raises:
            AuthError: No user has this id, or the e-mail address is taken.
        """
        try:
            async with self._database.transaction() as connection:
                user = _expect_found(
                    await connection.fetchrow(_CHANGE, user_id, *attributes.values())
                )
                if attributes.password_hash is not None:
                    await end_sessions(connection, user_id)
                return user
        except asyncpg.UniqueViolationError:
            raise _email_exists() from None

    async def remove(self, user_id: uuid.UUID) -> None:
        """Delete a user and end all sessions of the user.

        Raises:
            AuthError: No user has this id.
        """
        async with self._database.connection() as connection:
            _expect_found(
                await connection.fetchrow(
                    "delete from auth.users where id = $1 returning id", user_id
                )
            )


def _expect_found(user: asyncpg.Record | None) -> asyncpg.Record:
    if user is None:
        raise AuthError(404, "user_not_found", "User not found")
    return user


def _email_exists() -> AuthError:
    return AuthError(
        422, "email_exists", "A user with this email address has already been registered"
    )

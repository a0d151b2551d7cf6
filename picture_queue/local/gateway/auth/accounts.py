"""Users, sessions and refresh tokens in the schema ``auth``."""

import hashlib
import secrets
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import asyncpg

from picture_queue.local.gateway.auth.errors import AuthError
from picture_queue.local.gateway.database import Connection, Database, fetch_one

# A client whose answer was lost may use the same refresh token again within this time.
_REUSE_INTERVAL: Final = timedelta(seconds=10)


@dataclass(frozen=True)
class Session:
    """A signed-in user and the refresh token that continues the session."""

    user: asyncpg.Record
    session_id: uuid.UUID
    refresh_token: str


class Accounts:
    """Access to the accounts. Each call is one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, email: str, password_hash: str, metadata: dict[str, Any]) -> Session:
        """Create a user and sign it in.

        Raises:
            AuthError: The e-mail address is taken.
        """
        try:
            async with self._database.transaction() as connection:
                user = await fetch_one(
                    connection,
                    "insert into auth.users (id, aud, role, email, encrypted_password,"
                    " email_confirmed_at, raw_app_meta_data, raw_user_meta_data,"
                    " created_at, updated_at)"
                    " values ($1, 'authenticated', 'authenticated', $2, $3, now(), $4, $5,"
                    " now(), now()) returning *",
                    uuid.uuid4(),
                    email,
                    password_hash,
                    {"provider": "email", "providers": ["email"]},
                    metadata,
                )
                return await _open_session(connection, user)
        except asyncpg.UniqueViolationError:
            raise AuthError(422, "user_already_exists", "User already registered") from None

    async def find_by_email(self, email: str) -> asyncpg.Record | None:
        """Return the user with an e-mail address, or None."""
        async with self._database.connection() as connection:
            return await connection.fetchrow(
                "select * from auth.users where email = $1 and deleted_at is null",
                email,
            )

    async def sign_in(self, user: asyncpg.Record) -> Session:
        """Open a session for a user who has authenticated."""
        async with self._database.transaction() as connection:
            return await _open_session(connection, user)

    async def refresh(self, token: str) -> Session:
        """Exchange a refresh token for the next one.

        Within 10 seconds, a token may be used again. A later reuse ends the session, because the
        token may have been stolen.

        Raises:
            AuthError: The token is unknown or was used before.
        """
        async with self._database.transaction() as connection:
            row = await connection.fetchrow(
                "select t.id, t.revoked_at, t.session_id, s.user_id"
                " from auth.refresh_tokens as t join auth.sessions as s on s.id = t.session_id"
                " where t.token = $1 for update of t, s",
                _digest(token),
            )
            if row is None:
                raise AuthError(
                    400,
                    "refresh_token_not_found",
                    "Invalid Refresh Token: Refresh Token Not Found",
                )
            revoked = row["revoked_at"]
            if revoked is None or datetime.now(UTC) - revoked <= _REUSE_INTERVAL:
                return await _continue_session(connection, row)
            await connection.execute("delete from auth.sessions where id = $1", row["session_id"])
        # Raise after the transaction, which would not delete the session otherwise.
        raise AuthError(400, "refresh_token_already_used", "Invalid Refresh Token: Already Used")

    async def find_user(self, claims: Mapping[str, Any]) -> asyncpg.Record:
        """Return the user of an access token.

        Raises:
            AuthError: The user or the session was deleted.
        """
        user_id, session_id = _parse_uuid(claims.get("sub")), _parse_uuid(claims.get("session_id"))
        async with self._database.connection() as connection:
            user = await connection.fetchrow(
                "select * from auth.users where id = $1 and deleted_at is null",
                user_id,
            )
            if user is None:
                raise AuthError(403, "user_not_found", "User from sub claim in JWT does not exist")
            if session_id is not None and not await connection.fetchval(
                "select exists (select from auth.sessions where id = $1)", session_id
            ):
                raise AuthError(
                    403,
                    "session_not_found",
                    "Session from session_id claim in JWT does not exist",
                )
        return user

    async def update(
        self,
        user_id: uuid.UUID,
        *,
        email: str | None,
        password_hash: str | None,
        metadata: dict[str, Any],
        session_id: object = None,
    ) -> asyncpg.Record:
        """Change the given fields of a user; null removes a key of the metadata.

        A new password ends the other sessions of the user, since they may belong to somebody who
        knew the old password.

        Raises:
            AuthError: The e-mail address is taken.
        """
        try:
            async with self._database.transaction() as connection:
                user = await fetch_one(
                    connection,
                    "update auth.users set email = coalesce($2, email),"
                    " encrypted_password = coalesce($3, encrypted_password),"
                    " raw_user_meta_data = jsonb_strip_nulls("
                    "   coalesce(raw_user_meta_data, '{}') || $4),"
                    " updated_at = now() where id = $1 returning *",
                    user_id,
                    email,
                    password_hash,
                    metadata,
                )
                if password_hash is not None:
                    await end_sessions(connection, user_id, except_session=_parse_uuid(session_id))
        except asyncpg.UniqueViolationError:
            raise AuthError(
                422,
                "email_exists",
                "A user with this email address has already been registered",
            ) from None
        return user

    async def sign_out(self, claims: Mapping[str, Any], scope: str) -> None:
        """End sessions of a user: all (``global``), the current (``local``) or the ``others``."""
        user_id, session_id = _parse_uuid(claims.get("sub")), _parse_uuid(claims.get("session_id"))
        async with self._database.transaction() as connection:
            await connection.execute(
                "delete from auth.sessions where user_id = $1 and case $3"
                " when 'local' then id = $2"
                " when 'others' then id is distinct from $2"
                " else true end",
                user_id,
                session_id,
                scope,
            )


async def end_sessions(
    connection: Connection, user_id: uuid.UUID, *, except_session: uuid.UUID | None = None
) -> None:
    """Delete the sessions of a user, with their refresh tokens."""
    await connection.execute(
        "delete from auth.sessions where user_id = $1 and id is distinct from $2",
        user_id,
        except_session,
    )


async def _open_session(connection: Connection, user: asyncpg.Record) -> Session:
    session_id = uuid.uuid4()
    await connection.execute(
        "insert into auth.sessions (id, user_id, created_at, updated_at)"
        " values ($1, $2, now(), now())",
        session_id,
        user["id"],
    )
    user = await _set_last_sign_in(connection, user["id"])
    token = await _insert_token(connection, session_id, None)
    return Session(user, session_id, token)


async def _continue_session(connection: Connection, used_token: asyncpg.Record) -> Session:
    session_id = used_token["session_id"]
    await connection.execute(
        "update auth.refresh_tokens set revoked_at = coalesce(revoked_at, now()) where id = $1",
        used_token["id"],
    )
    await connection.execute(
        "update auth.sessions set updated_at = now() where id = $1", session_id
    )
    user = await _set_last_sign_in(connection, used_token["user_id"])
    token = await _insert_token(connection, session_id, used_token["id"])
    return Session(user, session_id, token)


async def _set_last_sign_in(connection: Connection, user_id: uuid.UUID) -> asyncpg.Record:
    return await fetch_one(
        connection,
        "update auth.users set last_sign_in_at = now() where id = $1 returning *",
        user_id,
    )


async def _insert_token(connection: Connection, session_id: uuid.UUID, parent: int | None) -> str:
    """Create a refresh token; only its digest is stored."""
    token = secrets.token_urlsafe(24)
    await connection.execute(
        "insert into auth.refresh_tokens (token, session_id, parent, created_at)"
        " values ($1, $2, $3, now())",
        _digest(token),
        session_id,
        parent,
    )
    return token


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _parse_uuid(value: object) -> uuid.UUID | None:
    try:
        return uuid.UUID(str(value))
    except ValueError:
        return None

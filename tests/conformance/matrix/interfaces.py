"""Interfaces outside this library: plain HTTP, supabase-py, and PostgreSQL drivers."""

import asyncio
import json
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

import asyncpg
import httpx
import psycopg
from postgrest.exceptions import APIError
from supabase import AsyncClientOptions, ClientOptions, acreate_client, create_client

from tests.conformance.matrix.answer import Answer, Request, error_answer
from tests.conformance.matrix.project import Project
from tests.conformance.matrix.statement import SET_CALLER, SIGNATURES, Call


class Interface(Protocol):
    """An interface over which functions can be called.

    Attributes:
        name: The name in the matrix.
        extra: True if the interface needs Debian packages or npm packages.
        direct: True if the interface connects to the database, without the HTTP API.
    """

    name: str
    extra: bool
    direct: bool

    def skip_reason(self, role: str) -> str | None:
        """Return why this interface cannot make requests of a role; None if it can."""
        ...

    async def run(self, project: Project, requests: Sequence[Request]) -> list[Answer]:
        """Make the requests and return their answers."""
        ...


class Httpx:
    """Plain HTTP requests."""

    name, extra, direct = "httpx", False, False

    def skip_reason(self, role: str) -> str | None:
        return None

    async def run(self, project: Project, requests: Sequence[Request]) -> list[Answer]:
        async with httpx.AsyncClient(timeout=60) as http:

            async def call(request: Request) -> Answer:
                answer = await http.post(
                    f"{project.url}/rest/v1/rpc/{request.function}",
                    json=request.args,
                    headers=project.headers(request.role),
                )
                body = answer.json() if answer.content else None
                if answer.is_success:
                    return Answer(data=body, status=answer.status_code)
                texts = (body.get(name) for name in ("code", "message", "details", "hint"))
                return error_answer(*texts, status=answer.status_code)

            return await run_concurrently(call, requests)


class SupabaseAsync:
    """supabase-py with the async client."""

    name, extra, direct = "supabase-py async", False, False

    def skip_reason(self, role: str) -> str | None:
        return None

    async def run(self, project: Project, requests: Sequence[Request]) -> list[Answer]:
        async with httpx.AsyncClient(timeout=60) as http:
            clients = {}
            for role in {request.role for request in requests}:
                options = AsyncClientOptions(
                    auto_refresh_token=False, persist_session=False, httpx_client=http
                )
                options.headers["Authorization"] = project.headers(role)["Authorization"]
                clients[role] = await acreate_client(project.url, project.keys[role], options)

            async def call(request: Request) -> Answer:
                query = clients[request.role].rpc(request.function, request.args)
                try:
                    return Answer(data=_data((await query.execute()).data, request))
                except APIError as error:
                    return error_answer(error.code, error.message, error.details, error.hint)

            return await run_concurrently(call, requests)


class SupabaseSync:
    """supabase-py with the sync client."""

    name, extra, direct = "supabase-py sync", False, False

    def skip_reason(self, role: str) -> str | None:
        return None

    async def run(self, project: Project, requests: Sequence[Request]) -> list[Answer]:
        return await asyncio.to_thread(self._run, project, requests)

    def _run(self, project: Project, requests: Sequence[Request]) -> list[Answer]:
        with httpx.Client(timeout=60) as http:
            clients = {}
            for role in {request.role for request in requests}:
                options = ClientOptions(
                    auto_refresh_token=False, persist_session=False, httpx_client=http
                )
                options.headers["Authorization"] = project.headers(role)["Authorization"]
                clients[role] = create_client(project.url, project.keys[role], options)

            def call(request: Request) -> Answer:
                query = clients[request.role].rpc(request.function, request.args)
                try:
                    return Answer(data=_data(query.execute().data, request))
                except APIError as error:
                    return error_answer(error.code, error.message, error.details, error.hint)

            return [[call(request) for _ in range(request.times)][-1] for request in requests]


def _data(data: Any, request: Request) -> Any:
    """Return the data of an answer; without a body, supabase-py may return an empty list."""
    return None if request.is_void and data == [] else data


#: The number of concurrent calls of an async HTTP client.
_MAX_CONCURRENT_CALLS = 4


async def run_concurrently(
    call: Callable[[Request], Awaitable[Answer]], requests: Sequence[Request]
) -> list[Answer]:
    """Make the calls concurrently, but the calls of one function in order.

    The order matters for `claim_next_job`, which returns the oldest job of all queues.
    """
    slots = asyncio.Semaphore(_MAX_CONCURRENT_CALLS)
    locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def call_in_order(request: Request) -> Answer:
        async with locks[request.function], slots:
            return await call_repeatedly(call, request)

    return await asyncio.gather(*map(call_in_order, requests))


async def call_repeatedly(call: Callable[[Request], Awaitable[Answer]], request: Request) -> Answer:
    """Make a call as many times as the request says."""
    for _ in range(request.times - 1):
        await call(request)
    return await call(request)


# Psycopg and Asyncpg do before each call what PostgREST does: they set the role and the claims, and
# use a read-only transaction for functions that only read.


class Psycopg:
    """psycopg 3, with transactions and without prepared statements, as a pooler requires."""

    extra, direct = False, True

    def __init__(self, name: str = "psycopg", address: str | None = None) -> None:
        self.name = name
        self.extra = address is not None
        self._address = address

    def skip_reason(self, role: str) -> str | None:
        return None

    async def run(self, project: Project, requests: Sequence[Request]) -> list[Answer]:
        address = self._address or project.database
        assert address
        connection = await psycopg.AsyncConnection.connect(
            address, autocommit=True, prepare_threshold=None, row_factory=psycopg.rows.dict_row
        )
        async with connection:
            rows = await (await connection.execute(SIGNATURES)).fetchall()
            signatures = {row["name"]: row for row in rows}

            async def call(request: Request) -> Answer:
                statement = Call(signatures.get(request.function), request.function, request.args)
                claims = project.claims(request.role)
                await connection.set_read_only(statement.read_only)
                try:
                    async with connection.transaction():
                        await connection.execute(
                            SET_CALLER.format("%s", "%s"), (claims["role"], json.dumps(claims))
                        )
                        sql, values = statement.sql(lambda _: "%s"), statement.values
                        cursor = await connection.execute(sql, values)  # type: ignore[arg-type]
                        return _parse_answer(
                            next(iter((await cursor.fetchone() or {}).values()), None)
                        )
                except psycopg.Error as error:
                    diag = error.diag
                    return error_answer(
                        error.sqlstate,
                        diag.message_primary,
                        diag.message_detail,
                        diag.message_hint,
                    )

            return [await call_repeatedly(call, request) for request in requests]


class Asyncpg:
    """asyncpg."""

    name, extra, direct = "asyncpg", False, True

    def skip_reason(self, role: str) -> str | None:
        return None

    async def run(self, project: Project, requests: Sequence[Request]) -> list[Answer]:
        connection = await asyncpg.connect(project.database, timeout=30)
        try:
            signatures = {row["name"]: dict(row) for row in await connection.fetch(SIGNATURES)}

            async def call(request: Request) -> Answer:
                statement = Call(signatures.get(request.function), request.function, request.args)
                claims = project.claims(request.role)
                try:
                    async with connection.transaction(readonly=statement.read_only):
                        await connection.execute(
                            SET_CALLER.format("$1", "$2"), claims["role"], json.dumps(claims)
                        )
                        sql = statement.sql(lambda i: f"${i + 1}")
                        return _parse_answer(await connection.fetchval(sql, *statement.values))
                except asyncpg.PostgresError as error:
                    return error_answer(error.sqlstate, error.message, error.detail, error.hint)

            return [await call_repeatedly(call, request) for request in requests]
        finally:
            await connection.close(timeout=10)


def _parse_answer(text: str | None) -> Answer:
    return Answer(data=None if text is None else json.loads(text))

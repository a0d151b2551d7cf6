"""Delivery of the requests that SQL queues with ``net.http_post``, as the extension pg_net does."""

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator

import asyncpg
import httpx

from picture_queue.local.gateway.database import Database

_log = logging.getLogger(__name__)

_INTERVAL = 0.5  # seconds between two reads of the queue
_MAX_REQUESTS = 20  # that are being sent
_MAX_CONTENT = 64 * 1024  # bytes of an answer that are kept
_TAKE = """
delete from net.http_request_queue where id in (
  select id from net.http_request_queue order by id limit $1 for update skip locked)
returning id, method, url, headers, body, timeout_milliseconds
"""
_RECORD = """
insert into net._http_response (id, status_code, content, timed_out, error_msg)
values ($1, $2, $3, $4, $5)
"""
# pg_net keeps answers for six hours.
_PRUNE = "delete from net._http_response where created < now() - interval '6 hours'"


class HttpSender:
    """A task that sends the queued requests. It does not repeat a request that fails."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._sending: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Send requests until the block ends."""
        task = asyncio.create_task(self._run(), name="http sender")
        try:
            yield
        finally:
            for running in (task, *self._sending):
                running.cancel()
            await asyncio.wait({task, *self._sending}, timeout=2)

    async def _run(self) -> None:
        async with httpx.AsyncClient(trust_env=False) as http:
            while True:
                try:
                    await self._send_queued(http)
                except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
                    _log.debug("the queue of requests cannot be read", exc_info=True)
                await asyncio.sleep(_INTERVAL)

    async def _send_queued(self, http: httpx.AsyncClient) -> None:
        free = _MAX_REQUESTS - len(self._sending)
        if not free:
            return
        async with self._database.connection() as connection:
            rows = await connection.fetch(_TAKE, free)
            if rows:
                await connection.execute(_PRUNE)
        for row in rows:
            task = asyncio.create_task(self._send(http, row))
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)

    async def _send(self, http: httpx.AsyncClient, row: asyncpg.Record) -> None:
        status, content, error = None, None, None
        timed_out = False
        try:
            headers = {name: str(value) for name, value in row["headers"].items()}
            async with (
                asyncio.timeout(row["timeout_milliseconds"] / 1000),
                http.stream(
                    row["method"],
                    row["url"],
                    headers=headers,
                    content=json.dumps(row["body"]),
                    timeout=None,
                ) as response,
            ):
                content = await _read_text(response)
            status = response.status_code
        except TimeoutError:
            timed_out, error = True, f"Timeout of {row['timeout_milliseconds']} ms reached"
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as failure:
            error = str(failure) or type(failure).__name__
        try:
            async with self._database.connection() as connection:
                await connection.execute(_RECORD, row["id"], status, content, timed_out, error)
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
            _log.warning("the answer of request %s was lost", row["id"])


async def _read_text(response: httpx.Response) -> str:
    """Return the beginning of an answer as text that Postgres can store."""
    content = b""
    async for part in response.aiter_bytes():
        content += part
        if len(content) >= _MAX_CONTENT:
            break
    return content[:_MAX_CONTENT].decode(errors="replace").replace("\0", "")

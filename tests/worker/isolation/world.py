"""A worker in a process of its own with ordinary jobs, beside which something bad is placed."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg

from picture_queue import AsyncPictureQueue

CONCURRENCY = 6
QUICK = {"concurrency": CONCURRENCY, "poll_interval": 0.2, "shutdown_grace": 1.0}
GUARD = 60.0  # seconds; what takes longer hangs
_HERE = Path(__file__).parent
_LARGEST_LOG = 20_000_000  # bytes: a larger one is that of a loop that spins


class NotIsolated(AssertionError):
    """Ordinary work did not go on, or the bad item did not tell why."""


def expect(condition: object, what: str) -> None:
    if not condition:
        raise NotIsolated(what)


class Process:
    """``picture-queue worker`` with the app of the suite.

    Args:
        environment: Which project, over which transport.
        settings: Settings of the worker beside `QUICK`.
        log: File for what it writes.
        mutation: The isolation that is taken out; see `mutations`.
    """

    def __init__(
        self,
        environment: Mapping[str, str],
        settings: Mapping[str, Any],
        log: Path,
        mutation: str = "",
    ) -> None:
        self._log = log
        left_out = ("SUPABASE_", "PICTURE_QUEUE_DATABASE_URL")
        env = {name: text for name, text in os.environ.items() if not name.startswith(left_out)}
        env |= {
            "SUITE_SETTINGS": json.dumps({**QUICK, **settings}),
            "SUITE_MUTATION": mutation,
            "TZ": "Europe/Berlin",  # a zone in which the last moment of Python lies in no year
            **environment,
        }
        command = [sys.executable, "-m", "picture_queue_cli", "worker", "--app", "app:worker"]
        with log.open("wb") as file:
            self._process = subprocess.Popen(
                command, cwd=_HERE, env=env, stdout=file, stderr=file, stdin=subprocess.DEVNULL
            )

    @property
    def log(self) -> str:
        """The output so far."""
        return self._log.read_text("utf-8", "replace")

    @property
    def ended(self) -> bool:
        """True once the process has ended."""
        return self._process.poll() is not None

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()
        self._process.wait()

    async def stop(self, guard: float) -> None:
        """Ask it to stop, as a deployment does, and expect that it ends."""
        self._process.send_signal(signal.SIGTERM)
        try:
            code = await asyncio.to_thread(self._process.wait, guard)
        except subprocess.TimeoutExpired:
            self.kill()
            raise NotIsolated(f"the worker does not stop:\n{self.log[-4000:]}") from None
        expect(code == 0, f"the worker ended with code {code}:\n{self.log[-4000:]}")
        size = self._log.stat().st_size
        expect(size < _LARGEST_LOG, f"the worker logged {size} bytes:\n{self.log[:2000]}")


class World:
    """One worker, its queue, and the database as it is.

    Args:
        service: A client that nothing stands in the way of.
        db: A connection to the database likewise.
        queue: The queue of the worker.
        worker: The worker.
        guard: Seconds after which a wait has hung.
    """

    def __init__(
        self,
        service: AsyncPictureQueue,
        db: "asyncpg.Connection[Any]",
        queue: str,
        worker: Process,
        guard: float = GUARD,
    ) -> None:
        self.service = service
        self.db = db
        self.queue = queue
        self.worker = worker
        self.guard = guard

    # Jobs --------------------------------------------------------------------------------------

    async def enqueue(self, *jobs: dict[str, Any]) -> list[UUID]:
        """Enqueue jobs; they may be claimed once all are there."""
        made = await self.service.jobs.enqueue_many({"queue": self.queue, **job} for job in jobs)  # type: ignore[misc]
        return [one.id for one in made]

    async def rows(self, ids: Sequence[UUID]) -> list["asyncpg.Record"]:
        return await self.db.fetch(
            "select id, status, hold, attempt, error, scheduled_for from job_queue "
            "where id = any($1) order by seq",
            ids,
        )

    async def until(self, condition: Callable[[], Awaitable[object]], what: str) -> None:
        """Wait for a condition; one that does not come true is `NotIsolated`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self.guard):
                while not await condition():
                    if self.worker.ended:
                        break
                    await asyncio.sleep(0.02)
                else:
                    return
        state = "has ended" if self.worker.ended else "lives"
        raise NotIsolated(f"{what}; the worker {state}:\n{self.worker.log[-6000:]}")

    async def finished(self, ids: Sequence[UUID]) -> bool:
        ended = "select count(*) from job_queue where id = any($1) and finished_at is not null"
        return await self.db.fetchval(ended, ids) == len(ids)

    async def completed_at_once(self, ids: Sequence[UUID]) -> None:
        """Expect that jobs complete, each in its first attempt."""

        async def done() -> bool:
            return await self.finished(ids)

        try:
            await self.until(done, "ordinary jobs do not end")
        except NotIsolated as error:
            rows = [tuple(row)[1:5] for row in await self.rows(ids)]
            raise NotIsolated(f"{rows}: {error}") from None
        for row in await self.rows(ids):
            state = (row["status"], row["attempt"])
            expect(state == ("completed", 1), f"an ordinary job: {dict(row)}\n{self.worker.log}")

    # Reasons -----------------------------------------------------------------------------------

    async def history(self, job: UUID) -> str:
        """Return the traces that the attempts of a job left."""
        rows = await self.db.fetch(
            "select action, error, detail from picture_queue.history where job_id = $1", job
        )
        return "\n".join(str(tuple(row)) for row in rows)

    async def told(self, ids: Sequence[UUID], words: str) -> None:
        """Expect that the row or the history of each job says something, or a line of the log."""
        for row in await self.rows(ids):
            told = [str(row["error"]), await self.history(row["id"])]
            told += [line for line in self.worker.log.splitlines() if str(row["id"]) in line]
            expect(
                any(re.search(words, one) for one in told),
                f"nothing says {words!r} of {dict(row)}: {told}",
            )

    def logged(self, words: str) -> None:
        """Expect that the log says something."""
        expect(
            re.search(words, self.worker.log), f"no line says {words!r}:\n{self.worker.log[-6000:]}"
        )

"""A worker process, its queue, and checks of its jobs and its log."""

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
#: Settings with which jobs start and the worker stops quickly.
SETTINGS = {"concurrency": CONCURRENCY, "poll_interval": 0.2, "shutdown_grace": 1.0}
WAIT_TIMEOUT = 60.0  # In seconds. A longer wait fails the test.
_HERE = Path(__file__).parent
_MAX_LOG_BYTES = 20_000_000  # A larger log is a sign of a busy loop.


class IsolationFailure(AssertionError):
    """A bad job affected ordinary jobs, or its reason was not reported."""


def expect(condition: object, problem: str) -> None:
    if not condition:
        raise IsolationFailure(problem)


class Process:
    """A process ``picture-queue worker`` that runs the handlers of app.py.

    Args:
        environment: Environment variables that select the project and the transport.
        settings: Settings of the worker in addition to `SETTINGS`.
        log: The file for its output.
        mutation: The mutation to apply; see `mutations`.
    """

    def __init__(
        self,
        environment: Mapping[str, str],
        settings: Mapping[str, Any],
        log: Path,
        mutation: str = "",
    ) -> None:
        self._log = log
        excluded = ("SUPABASE_", "PICTURE_QUEUE_DATABASE_URL")
        env = {name: text for name, text in os.environ.items() if not name.startswith(excluded)}
        env |= {
            "SUITE_SETTINGS": json.dumps({**SETTINGS, **settings}),
            "SUITE_MUTATION": mutation,
            # In this time zone, datetime.max and datetime.min cannot be converted to UTC.
            "TZ": "Europe/Berlin",
            **environment,
        }
        command = [sys.executable, "-m", "picture_queue_cli", "worker", "--app", "app:worker"]
        with log.open("wb") as file:
            self._process = subprocess.Popen(
                command, cwd=_HERE, env=env, stdout=file, stderr=file, stdin=subprocess.DEVNULL
            )

    @property
    def log(self) -> str:
        """The output so far, as text."""
        return self._log.read_text("utf-8", "replace")

    @property
    def ended(self) -> bool:
        """True once the process has ended."""
        return self._process.poll() is not None

    def kill(self) -> None:
        """Kill the process."""
        self._process.kill()
        self._process.wait()

    async def stop(self, timeout: float) -> None:
        """Send SIGTERM, as a deployment does, and expect that the process ends."""
        self._process.send_signal(signal.SIGTERM)
        try:
            code = await asyncio.to_thread(self._process.wait, timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise IsolationFailure(f"the worker does not stop:\n{self.log[-4000:]}") from None
        expect(code == 0, f"the worker ended with code {code}:\n{self.log[-4000:]}")
        size = self._log.stat().st_size
        expect(size < _MAX_LOG_BYTES, f"the worker logged {size} bytes:\n{self.log[:2000]}")


class Harness:
    """One worker process, its queue, and checks of its jobs over a direct database connection.

    Args:
        service: A client that no fault affects.
        db: A connection to the database that no fault affects.
        queue: The queue of the worker.
        worker: The worker.
        wait_timeout: Seconds after which a wait fails the test.
    """

    def __init__(
        self,
        service: AsyncPictureQueue,
        db: "asyncpg.Connection[Any]",
        queue: str,
        worker: Process,
        wait_timeout: float = WAIT_TIMEOUT,
    ) -> None:
        self.service = service
        self.db = db
        self.queue = queue
        self.worker = worker
        self.wait_timeout = wait_timeout

    # Jobs --------------------------------------------------------------------------------------

    async def enqueue(self, *jobs: dict[str, Any]) -> list[UUID]:
        """Enqueue jobs in one call, so that none can be claimed before all are enqueued."""
        enqueued = await self.service.jobs.enqueue_many(
            {"queue": self.queue, **job}  # type: ignore[misc]
            for job in jobs
        )
        return [job.id for job in enqueued]

    async def read_rows(self, ids: Sequence[UUID]) -> list["asyncpg.Record"]:
        return await self.db.fetch(
            "select id, status, hold, attempt, error, scheduled_for from job_queue "
            "where id = any($1) order by seq",
            ids,
        )

    async def wait_until(self, condition: Callable[[], Awaitable[object]], problem: str) -> None:
        """Wait for a condition; raise `IsolationFailure` with `problem` if it stays false."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self.wait_timeout):
                while not await condition():
                    if self.worker.ended:
                        break
                    await asyncio.sleep(0.02)
                else:
                    return
        state = "has ended" if self.worker.ended else "runs"
        raise IsolationFailure(f"{problem}; the worker {state}:\n{self.worker.log[-6000:]}")

    async def have_finished(self, ids: Sequence[UUID]) -> bool:
        query = "select count(*) from job_queue where id = any($1) and finished_at is not null"
        return await self.db.fetchval(query, ids) == len(ids)

    async def expect_completed(self, ids: Sequence[UUID]) -> None:
        """Wait until the jobs have completed, each in its first attempt."""

        async def all_have_finished() -> bool:
            return await self.have_finished(ids)

        try:
            await self.wait_until(all_have_finished, "ordinary jobs do not end")
        except IsolationFailure as error:
            rows = [tuple(row)[1:5] for row in await self.read_rows(ids)]
            raise IsolationFailure(f"{rows}: {error}") from None
        for row in await self.read_rows(ids):
            state = (row["status"], row["attempt"])
            expect(state == ("completed", 1), f"an ordinary job: {dict(row)}\n{self.worker.log}")

    # Reasons -----------------------------------------------------------------------------------

    async def read_history(self, job: UUID) -> str:
        """Return the history of a job: actions, errors and details."""
        rows = await self.db.fetch(
            "select action, error, detail from picture_queue.history where job_id = $1", job
        )
        return "\n".join(str(tuple(row)) for row in rows)

    async def expect_reason(self, ids: Sequence[UUID], pattern: str) -> None:
        """Expect a pattern in the row, the history or a log line of each job."""
        for row in await self.read_rows(ids):
            texts = [str(row["error"]), await self.read_history(row["id"])]
            texts += [line for line in self.worker.log.splitlines() if str(row["id"]) in line]
            expect(
                any(re.search(pattern, text) for text in texts),
                f"no text matches {pattern!r} for {dict(row)}: {texts}",
            )

    def expect_logged(self, pattern: str) -> None:
        """Expect a pattern in the log."""
        expect(
            re.search(pattern, self.worker.log),
            f"no line matches {pattern!r}:\n{self.worker.log[-6000:]}",
        )

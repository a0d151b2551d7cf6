"""A database with one version of the SQL, and timed calls of its public functions.

The benchmark calls only public functions, so that it can compare any two versions of the SQL.
"""

import asyncio
import json
import subprocess
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
from compare.server import Connection, Server

ROOT = Path(__file__).resolve().parents[2]
JOB_TYPE = "bench"
WORKER = "bench"
CLAIM_SIZE = 100  # The number of jobs that a claim takes by default.

_MIGRATIONS = "supabase/migrations"
_MAINTENANCE_INTERVAL = 60.0  # seconds
_LEASE_TIMEOUT = 60.0  # seconds

Job = dict[str, Any]
Options = Mapping[str, Any]


class Calls:
    """Timed calls of the public functions over one connection; durations are in milliseconds.

    Args:
        connection: The connection.
        maintains_by_worker: True if `maintain_jobs` takes the name of a worker. In older versions
            of the SQL it has no such parameter, and claims do part of the maintenance.
    """

    def __init__(self, connection: Connection, maintains_by_worker: bool) -> None:
        self.connection = connection
        self._maintains_by_worker = maintains_by_worker
        self._maintained_at = 0.0

    async def _time(self, query: str, *arguments: Any) -> tuple[float, Any]:
        began = time.perf_counter()
        answer = await self.connection.fetchval(query, *arguments)
        took = (time.perf_counter() - began) * 1000
        return took, json.loads(answer) if isinstance(answer, str) else answer

    async def run(self, query: str, *arguments: Any) -> Any:
        """Run a statement that is not measured."""
        return await self.connection.fetchval(query, *arguments)

    async def enqueue_job(self, queue: str, options: Options | None = None) -> float:
        """Enqueue one job."""
        query = "select enqueue_job($1, $2::jsonb, queue => $3, options => $4::jsonb)"
        took, _ = await self._time(query, JOB_TYPE, '{"i": 1}', queue, json.dumps(options or {}))
        return took

    async def enqueue_jobs(self, queue: str, count: int, **fields: Any) -> float:
        """Enqueue jobs in one call.

        Args:
            queue: The queue.
            count: The number of jobs.
            **fields: Further fields of each job: a value, or a function of the job's number.
        """
        items = [
            {"job_type": JOB_TYPE, "queue": queue, "payload": {"i": i}}
            | {name: value(i) if callable(value) else value for name, value in fields.items()}
            for i in range(count)
        ]
        took, _ = await self._time("select enqueue_jobs($1::jsonb)", json.dumps(items))
        return took

    async def fill_queue(self, queue: str, count: int, **fields: Any) -> None:
        """Enqueue jobs for later claims, 10,000 a call."""
        for begin in range(0, count, 10_000):
            await self.enqueue_jobs(queue, min(count - begin, 10_000), **fields)

    async def claim(
        self,
        queue: str,
        count: int = CLAIM_SIZE,
        *,
        worker: str = WORKER,
        lease_seconds: float = 60,
    ) -> tuple[float, list[Job]]:
        """Claim up to `count` jobs."""
        return await self._time(
            "select claim_jobs(worker => $1, queues => $2, job_types => $3, max_jobs => $4,"
            " lease_seconds => $5, request_id => $6)",
            *(worker, [queue], [JOB_TYPE], count, lease_seconds, uuid4()),
        )

    async def claim_exactly(
        self, queue: str, count: int = CLAIM_SIZE, *, worker: str = WORKER
    ) -> tuple[float, list[Job]]:
        """Claim exactly `count` jobs.

        Raises:
            RuntimeError: The claim returned fewer jobs.
        """
        took, jobs = await self.claim(queue, count, worker=worker)
        if len(jobs) != count:
            raise RuntimeError(f"claim_jobs returned {len(jobs)} of {count} jobs of queue {queue}")
        return took, jobs

    async def report(self, jobs: Sequence[Job]) -> float:
        """Report claimed jobs as completed."""
        outcomes = [lease | {"outcome": "completed"} for lease in _leases(jobs)]
        took, _ = await self._time("select report_jobs($1::jsonb)", json.dumps(outcomes))
        return took

    async def heartbeat(self, jobs: Sequence[Job]) -> float:
        """Extend the leases of claimed jobs."""
        leases = json.dumps(_leases(jobs))
        took, _ = await self._time("select heartbeat_jobs($1, $2::jsonb)", WORKER, leases)
        return took

    async def cycle(self, queue: str, count: int = CLAIM_SIZE) -> tuple[float, float]:
        """Claim jobs and report them; return both durations."""
        claim, jobs = await self.claim_exactly(queue, count)
        return claim, await self.report(jobs)

    async def run_maintenance(self) -> None:
        """Run all maintenance, so that due jobs become claimable."""
        await self.run("select maintain_jobs(force => true)")

    async def acquire_maintenance_lease(self, worker: str = WORKER) -> None:
        """Call maintenance until this worker holds the lease and Postgres has planned the calls.

        Raises:
            TimeoutError: Another worker holds the lease all the time.
        """
        async with asyncio.timeout(_LEASE_TIMEOUT):
            while self._maintains_by_worker:
                _, answer = await self._time("select maintain_jobs(worker => $1)", worker)
                if answer.get("leased", True):
                    break
                await asyncio.sleep(float(answer["next_in"]))
        for _ in range(8):
            await self.maintain(worker)

    async def maintain(self, worker: str = WORKER) -> tuple[float, float]:
        """Do a worker's maintenance; return the duration and the seconds until the next call.

        In an older version of the SQL an idle worker claims once a second, and calls
        `maintain_jobs` once a minute.
        """
        if self._maintains_by_worker:
            took, answer = await self._time("select maintain_jobs(worker => $1)", worker)
            return took, float(answer.get("next_in", 1))
        query = "select claim_jobs($1, '{nothing}', $2, 1, request_id => $3)"
        took, _ = await self._time(query, worker, [JOB_TYPE], uuid4())
        now = time.monotonic()
        if now - self._maintained_at >= _MAINTENANCE_INTERVAL:
            self._maintained_at = now
            took += (await self._time("select maintain_jobs()"))[0]
        return took, 1.0


def _leases(jobs: Sequence[Job]) -> list[dict[str, Any]]:
    return [{"job_id": job["id"], "lease_id": job["lease_id"]} for job in jobs]


class Database:
    """A database with one version of the SQL.

    Args:
        name: `new` for the working tree, `old` for the baseline.
        dsn: The connection string of the database.
        maintains_by_worker: See `Calls`.
    """

    def __init__(self, name: str, dsn: str, maintains_by_worker: bool) -> None:
        self.name = name
        self._dsn = dsn
        self._maintains_by_worker = maintains_by_worker

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Calls]:
        """Open a connection without a statement timeout."""
        connection = await asyncpg.connect(
            self._dsn, timeout=10, server_settings={"statement_timeout": "0"}
        )
        try:
            yield Calls(connection, self._maintains_by_worker)
        finally:
            await connection.close(timeout=10)

    @asynccontextmanager
    async def connect_many(self, count: int) -> AsyncIterator[list[Calls]]:
        """Open several connections."""
        async with AsyncExitStack() as stack:
            yield [await stack.enter_async_context(self.connect()) for _ in range(count)]


def migrations_at(ref: str) -> list[str]:
    """Return the migrations of a git ref, in the order in which they are applied.

    Raises:
        SystemExit: There is no such ref, or it has no migrations.
    """

    def git(*arguments: str) -> str:
        process = subprocess.run(
            ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
        )
        if process.returncode:
            raise SystemExit(f"git {' '.join(arguments)}: {process.stderr.strip()}")
        return process.stdout

    names = git("ls-tree", "--name-only", ref, f"{_MIGRATIONS}/").splitlines()
    files = sorted(name for name in names if name.endswith(".sql"))
    if not files:
        raise SystemExit(f"{ref} has no migrations in {_MIGRATIONS}")
    return [git("show", f"{ref}:{name}") for name in files]


async def create_databases(server: Server, baseline: str | None) -> list[Database]:
    """Create a database for the working tree, and one for the baseline if it is given."""
    databases = []
    for name, ref in (("new", None), ("old", baseline)):
        if name == "old" and ref is None:
            continue
        await server.create_ours(f"engine_{name}", migrations_at(ref) if ref else None)
        dsn = server.dsn(f"engine_{name}", "postgres")
        connection = await asyncpg.connect(dsn, timeout=10)
        try:
            takes_worker = await connection.fetchval(
                "select 'worker' = any (coalesce(p.proargnames, '{}')) from pg_catalog.pg_proc p"
                " where p.oid = 'public.maintain_jobs'::regproc"
            )
        finally:
            await connection.close(timeout=10)
        databases.append(Database(name, dsn, takes_worker))
    return databases

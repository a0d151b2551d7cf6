"""A database with ordinary and bad jobs, and the calls that the tests make in this database."""

import asyncio
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import asyncpg

from . import internals

QUEUE = "shared"
TYPE, WORKER, EVENT, TAG = "ordinary-job", "ordinary-worker", "arrived", "ordinary"
BAD_TYPE, BAD_CHILD, BAD_WORKER = "bad-job", "bad-child", "bad-worker"
JOBS = 3  # The number of ordinary jobs in each state that a flow needs.
CALL_TIMEOUT = "8s"  # The statement_timeout of Supabase. No call may take longer.

Make = Callable[["IsolationDatabase", dict[str, Any]], Awaitable[str]]


class NotIsolated(AssertionError):
    """A bad job affected ordinary jobs, or its reason was not reported."""


class RefusedCall(Exception):
    """A call was refused with a PQ code."""

    def __init__(self, error: asyncpg.PostgresError) -> None:
        super().__init__(f"{error}: {getattr(error, 'detail', '')}")
        self.code = str(error).split(":")[0]
        self.text = str(self)


def _decode(text: str) -> Any:
    # Python refuses integers of more than 4,300 digits. Only bad jobs contain them.
    return json.loads(text, parse_int=lambda digits: int(digits) if len(digits) < 20 else digits)


class Session:
    """A connection of a client, with the statement timeout of Supabase."""

    def __init__(self, connection: internals.Connection) -> None:
        self.connection = connection

    async def try_call(self, sql: str, *args: Any) -> Any:
        """Make a call; a refusal raises `RefusedCall`, and any other error fails the test."""
        try:
            return await self.connection.fetchval(sql, *args)
        except asyncpg.PostgresError as error:
            if (error.sqlstate or "").startswith("PT"):
                raise RefusedCall(error) from error
            raise NotIsolated(f"{sql} raised {error.sqlstate}: {error}") from error

    async def call(self, sql: str, *args: Any) -> Any:
        """Make a call that must not be refused."""
        try:
            return await self.try_call(sql, *args)
        except RefusedCall as refused:
            raise NotIsolated(f"{sql} was refused: {refused}") from refused

    async def begin(self) -> None:
        await self.connection.execute("begin")

    async def commit(self) -> None:
        await self.connection.execute("commit")


class IsolationDatabase:
    """One queue with ordinary jobs, and with bad jobs of a higher priority.

    Attributes:
        owner: A connection without a timeout, for preparations and checks.
        jobs: The ordinary jobs by the state that they were created in.
        bad: The bad jobs by the state that they were created in.
        extra_jobs: Ordinary jobs that a `Disturbance` (`disturbances.py`) creates. They must start
            like the other ordinary jobs.
        queues: The queues that an ordinary worker claims from.
        types: The job types that an ordinary worker claims.
        saved: Values that a `Disturbance` or a `Flow` (`flows.py`) reads later in the test.
    """

    def __init__(self, owner: internals.Connection, connect: Callable[..., Awaitable[Any]]) -> None:
        self.owner = owner
        self._connect = connect
        self.now = datetime(2030, 1, 1, tzinfo=UTC)
        self.jobs: dict[str, list[str]] = defaultdict(list)
        self.bad: dict[str, list[str]] = defaultdict(list)
        self.extra_jobs: list[str] = []
        self.queues, self.types = [QUEUE], [TYPE]
        self.saved: dict[str, Any] = {}
        self._leases: dict[str, dict[str, str]] = {}
        self._tasks: list[asyncio.Task[Any]] = []

    # Calls -------------------------------------------------------------------------------------

    async def session(self, name: str, **settings: str) -> Session:
        """Return the session of this name; the settings apply when it is first opened."""
        return Session(await self._connect(name, **{"statement_timeout": CALL_TIMEOUT, **settings}))

    async def try_call(self, sql: str, *args: Any) -> Any:
        return await (await self.session("caller")).try_call(sql, *args)

    async def call(self, sql: str, *args: Any) -> Any:
        return await (await self.session("caller")).call(sql, *args)

    def start(self, call: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
        """Start a call in the background; the end of the test cancels it."""
        self._tasks.append(asyncio.create_task(call))
        return self._tasks[-1]

    async def stop(self) -> None:
        """Cancel the background calls."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def wait_until_blocked_or_done(self, session: Session, task: "asyncio.Task[Any]") -> None:
        """Wait until a call of this session has returned or waits for a lock."""
        async with asyncio.timeout(20):
            while not task.done() and not await self.is_waiting(session):
                await asyncio.wait([task], timeout=0.01)

    async def is_waiting(self, session: Session) -> bool:
        """Return True if this session waits for a lock."""
        pid = session.connection.get_server_pid()
        return await self.owner.fetchval("select cardinality(pg_blocking_pids($1)) > 0", pid)

    async def open_transaction(self, sql: str, *args: Any) -> "internals.Connection":
        """Run a statement in a transaction that stays open; the end of the test closes it."""
        connection = await self._connect(f"holder-{uuid4()}")
        await connection.execute("begin")
        await connection.fetch(sql, *args)
        self.saved["holder"] = connection.get_server_pid()
        return connection

    async def pass_time(self, seconds: float) -> None:
        """Advance the clock, which otherwise stands still."""
        self.now += timedelta(seconds=seconds)
        await internals.set_clock(self.owner, self.now.isoformat())

    # Work --------------------------------------------------------------------------------------

    async def enqueue(self, job_type: str, fields: dict[str, Any]) -> str:
        item = {"job_type": job_type, "queue": QUEUE, **fields}
        answer = await self.owner.fetchval("select enqueue_jobs($1)", [item])
        return answer[0]["job_id"]

    async def claim(self, *job_types: str, worker: str = WORKER, lease: float = 3600) -> list[Any]:
        """Claim all jobs of these types, by default of the types of an ordinary worker."""
        types = list(job_types) or self.types
        jobs = await self.call(
            "select claim_jobs($1, $2, $3, 200, $4)", worker, self.queues, types, lease
        )
        self._leases |= {job["id"]: self.lease(job) for job in jobs}
        return jobs

    @staticmethod
    def lease(job: dict[str, Any]) -> dict[str, str]:
        return {"job_id": job["id"], "lease_id": job["lease_id"]}

    def leases(self, ids: list[str]) -> list[dict[str, str]]:
        """Return the leases under which these jobs were claimed."""
        return [self._leases[job] for job in ids if job in self._leases]

    async def report(self, ids: list[str], outcome: str = "completed", **fields: Any) -> list[str]:
        """Report the same outcome for these jobs; return the answer for each."""
        items = [{**lease, "outcome": outcome, **fields} for lease in self.leases(ids)]
        answer = await self.call("select report_jobs($1)", items)
        return [item["outcome"] for item in answer["outcomes"]]

    async def maintain(self, rounds: int = 3) -> None:
        for _ in range(rounds):
            await self.call("select maintain_jobs(force => true)")

    async def states(self, ids: list[str]) -> list[str]:
        """Return for each of these jobs its hold, or its status if it has none."""
        rows = await self.owner.fetch(
            "select coalesce(hold, status) from job_queue where id::text = any($1) order by seq",
            ids,
        )
        return [row[0] for row in rows]

    # Creating jobs -----------------------------------------------------------------------------

    async def create_jobs(self, state: str, job_type: str, make: Make, count: int) -> list[str]:
        """Create jobs in a state; the delay of `due` and lease of `expired` jobs is ten seconds."""
        fields: dict[str, Any] = {"priority": 5 if job_type == BAD_TYPE else 0}
        options: dict[str, Any] = {"tags": [TAG]}
        if state == "due":
            options["delay_seconds"] = 10
        if state == "expired":
            fields["max_attempts"] = 1 if job_type == BAD_TYPE else 3
        created = [await make(self, {**fields, "options": options}) for _ in range(count)]
        if state in ("running", "expired", "parked"):
            worker = BAD_WORKER if job_type == BAD_TYPE else WORKER
            await self.claim(job_type, worker=worker, lease=10 if state == "expired" else 100)
        if state == "parked":
            await self.report(created, "parked", event=EVENT, delay_seconds=3600)
        return created

    # Checks ------------------------------------------------------------------------------------

    async def expect_new_jobs_complete(self) -> None:
        """Check that new jobs can be enqueued, claimed and completed, a parent before its child."""
        created = [await self.call("select enqueue_job($1, queue => $2)::text", TYPE, QUEUE)
                for _ in range(JOBS)]  # fmt: skip
        child = await self.call(
            "select enqueue_job($1, queue => $2, options => $3)::text",
            TYPE, QUEUE, {"depends_on": created[:1]},
        )  # fmt: skip
        await self.maintain(1)
        for expected in (created, [child]):
            claimed = [job["id"] for job in await self.claim()]
            expect(set(expected) <= set(claimed), f"of {expected} only {claimed} were claimed")
            outcomes = await self.report(claimed)
            expect(outcomes == ["ok"] * len(claimed), f"the reports answered {outcomes}")
        states = await self.states(self.extra_jobs)
        expect({*states} <= {"processing", "completed"}, f"the extra jobs are {states}")

    async def run_bad_jobs(self) -> None:
        """Wake, claim and complete the bad jobs as far as possible."""
        await self.try_call("select send_event($1)", EVENT)
        await self.claim(BAD_TYPE, worker=BAD_WORKER)
        # The query also finds bad jobs that earlier calls claimed.
        rows = await self.owner.fetch(
            "select id::text as job_id, lease_id::text from job_queue "
            f"where job_type = '{BAD_TYPE}' and status = 'processing' and hold is null"
        )
        items = [{**row, "outcome": "completed"} for row in rows]
        await self.call("select report_jobs($1)", items)
        await self.maintain()

    async def expect_reason(self, *words: str) -> str:
        """Return a text of the doctor, a failed step or a bad job with these words."""
        doctor = await self.call("select queue_doctor()")
        texts = [str(finding["detail"]) for finding in doctor if finding["verdict"] != "ok"]
        texts += [str(step) for step in await internals.failed_steps(self.owner)]
        for job in [job for ids in self.bad.values() for job in ids]:
            texts.append(str(await self.call("select get_job_history($1::text::uuid)", job)))
        for text in texts:
            if all(word in text for word in words):
                return text
        raise NotIsolated(f"no text has {words}: {texts}")


def expect(condition: bool, message: str) -> None:
    if not condition:
        raise NotIsolated(message)


@asynccontextmanager
async def open_database(url: str) -> AsyncIterator[IsolationDatabase]:
    """Connect to a database without other users."""
    connections: dict[str, Any] = {}
    async with AsyncExitStack() as stack:

        async def connect(name: str, **settings: str) -> Any:
            if name not in connections:
                connection = await asyncpg.connect(url, timeout=10, server_settings=settings)
                stack.callback(connection.terminate)
                await connection.set_type_codec(
                    "jsonb", encoder=json.dumps, decoder=_decode, schema="pg_catalog"
                )
                connections[name] = connection
            return connections[name]

        db = IsolationDatabase(await connect("owner"), connect)
        db.now = await db.owner.fetchval("select clock_timestamp()")
        await db.pass_time(0)
        await db.owner.fetchval("select set_queue($1)", QUEUE)
        stack.push_async_callback(db.stop)
        yield db

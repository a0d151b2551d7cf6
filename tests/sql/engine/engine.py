"""The connection of the model tests: synchronous calls, and a clock that the test sets.

Each example runs inside a savepoint of one transaction that is never committed. Every 25 examples
a new transaction begins, because rolled back savepoints leave dead rows in the pages.
"""

import asyncio
import json
import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple, TypeVar

import asyncpg

T = TypeVar("T")

EXAMPLES_PER_TRANSACTION = 25
TABLES = (
    "public.images", "picture_queue.prediction", "picture_queue.deleted_generation",
    "public.generations", "public.job_queue",
    "picture_queue.history", "picture_queue.dependency", "picture_queue.failed_dependency",
    "picture_queue.batch",
    "picture_queue.limit_rule", "picture_queue.limit_key", "picture_queue.follow_up",
    "picture_queue.failed_step", "picture_queue.lease_extension",
    "picture_queue.start", "picture_queue.freed_key", "picture_queue.tenant",
    "picture_queue.schedule", "picture_queue.log", "picture_queue.external_event",
    "picture_queue.depth",
    "picture_queue.answer", "picture_queue.depth_change", "picture_queue.throughput",
    "picture_queue.worker", "picture_queue.job_type", "picture_queue.breaker", "realtime.messages",
)  # fmt: skip

CLOCK = """
create or replace function picture_queue._now() returns timestamptz
language sql stable set search_path = pg_catalog, pg_temp
as $$ select pg_catalog.to_timestamp(pg_catalog.current_setting('test.now')::double precision) $$
"""


class JobRow(NamedTuple):
    """A row of `job_queue`; times are seconds since the epoch."""

    id: str
    seq: int
    queue: str
    job_type: str
    priority: int
    status: str
    hold: str | None
    attempt: int
    max_attempts: int
    version: int
    rank: int
    turn: float
    lease_id: str | None
    lease_expires_at: float | None
    lease_seconds: float | None
    scheduled_for: float | None
    expires_at: float | None
    started_at: float | None
    finished_at: float | None
    updated_at: float
    cancel_requested_at: float | None
    worker: str | None
    user_id: str | None
    tenant: str | None
    limit_keys: list[str] | None
    slots: list[str] | None
    blocked_on: str | None
    parked_on: str | None
    unique_key: str | None
    batch_id: str | None
    progress: int
    message: str | None
    result: Any
    error: str | None
    event: Any
    timeout_seconds: float | None
    payload: dict[str, Any]

    @property
    def state(self) -> tuple[str, str | None]:
        return self.status, self.hold

    @property
    def terminal(self) -> bool:
        return self.status in ("completed", "failed", "cancelled")

    @property
    def running(self) -> bool:
        return self.state == ("processing", None)

    @property
    def keys(self) -> set[str]:
        """All limit keys of the job, including those that every job has."""
        own = {"global", f"queue:{self.queue}", f"type:{self.job_type}"}
        return own.union([f"user:{self.user_id}"] if self.user_id else [], self.limit_keys or [])


_TIMES = {name for name in JobRow._fields if name.endswith("_at")} | {"scheduled_for"}
_COLUMNS = ", ".join(
    f"extract(epoch from j.{name})::float8" if name in _TIMES else f"j.{name}"
    for name in JobRow._fields
)

# The state that the model checks after each step, in one round trip. The query deletes the
# messages, so that the next read returns only the messages of the next step. `wrong_depth` has the
# counters of the depth that differ from the number of rows. `running` has the slots taken under
# each limit key; slots that were freed since the last maintenance are still in `limit_key.running`
# and are subtracted.
READ_STATE = f"""
with sent as (
  delete from realtime.messages returning topic, payload
)
select jsonb_build_object(
  'jobs', (select coalesce(jsonb_agg(jsonb_build_array({_COLUMNS})), '[]') from public.job_queue j),
  'events', (select coalesce(jsonb_agg(jsonb_build_array(topic, payload)), '[]') from sent),
  'wrong_depth', (
    select jsonb_agg(to_jsonb(difference)) from (
      select queue, status, hold, sum(n) as surplus from (
        select queue, status, hold, n from picture_queue.depth
        union all select queue, status, hold, n from picture_queue.depth_change
        union all select queue, status, hold, -1 from public.job_queue
      ) counted group by queue, status, hold having sum(n) <> 0) difference),
  'running', (select coalesce(jsonb_object_agg(limit_key.key, limit_key.running - (
      select coalesce(sum(freed.n), 0) from picture_queue.freed_key freed
      where freed.key = limit_key.key)), '{{}}')
    from picture_queue.limit_key),
  'failed', (select coalesce(jsonb_agg(to_jsonb(step)), '[]') from picture_queue.failed_step step),
  'waits', (select coalesce(jsonb_agg(jsonb_build_array(child_id, parent_id)), '[]')
    from picture_queue.dependency),
  'paused', (select coalesce(jsonb_object_agg(name,
      extract(epoch from least(paused_until, '2200-01-01'))), '{{}}')
    from picture_queue.queue where paused_until > picture_queue._now()),
  'batches', (select coalesce(jsonb_agg(to_jsonb(batch)), '[]') from picture_queue.batch)
)
"""


class Refusal(NamedTuple):
    """The PQ code and the DETAIL of a call that the database refused."""

    code: str
    detail: str = ""


class Engine:
    """A connection whose SQL functions see `now` as the time, in seconds since the epoch."""

    def __init__(self, db_url: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._connection: asyncpg.Connection[Any] = self._wait(
            asyncpg.connect(db_url, timeout=10, command_timeout=60)
        )
        self._wait(
            self._connection.set_type_codec(
                "jsonb", encoder=json.dumps, decoder=json.loads, schema="pg_catalog"
            )
        )
        self._examples = 0
        self._started_at = time.monotonic()
        self.now = 0.0

    def _wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self._loop.run_until_complete(coroutine)

    def execute(self, sql: str) -> None:
        self._wait(self._connection.execute(sql))

    def value(self, sql: str, *args: Any) -> Any:
        return self._wait(self._connection.fetchval(sql, *args))

    def call(self, sql: str, *args: Any) -> Any:
        """Call a function; throughout the call the time is `now`."""
        self.value("select set_config('test.now', $1, true)", repr(self.now))
        return self.value(sql, *args)

    def try_call(self, sql: str, *args: Any) -> Any:
        """Call a function; return a `Refusal` if the database raises a PQ error."""
        self.execute("savepoint try_call")
        try:
            answer = self.call(sql, *args)
        except asyncpg.PostgresError as error:
            if not (error.sqlstate or "").startswith("PT"):
                raise
            self.execute("rollback to savepoint try_call")
            answer = Refusal(error.message.split(":")[0], error.detail or "")
        self.execute("release savepoint try_call")
        return answer

    def read_state(self) -> dict[str, Any]:
        state: dict[str, Any] = self.value(READ_STATE)
        state["jobs"] = {row[0]: JobRow(*row) for row in state["jobs"]}
        return state

    @contextmanager
    def example(self) -> Iterator[None]:
        """Give an example empty tables, and roll back its changes afterwards."""
        if self._examples % EXAMPLES_PER_TRANSACTION == 0:
            self._begin()
        self._examples += 1
        if self._examples % 100 == 0:
            print(
                f"{self._examples} sequences of calls, {time.monotonic() - self._started_at:.0f} s",
                flush=True,
            )
        self.execute("savepoint example")
        try:
            yield
        finally:
            self.execute("rollback to savepoint example; release savepoint example")

    def _begin(self) -> None:
        if self._examples:
            self.execute("rollback")
        # Until the rollback, the truncate hides rows that other tests committed.
        self.execute(f"begin; {CLOCK}; truncate {', '.join(TABLES)}")
        self.execute("delete from picture_queue.queue where name <> 'default'")

    def close(self) -> None:
        with suppress(asyncpg.PostgresError, asyncpg.InterfaceError):
            self.execute("rollback")
        self._wait(self._connection.close(timeout=10))
        self._loop.close()

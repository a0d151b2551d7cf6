"""Limits of spending under concurrency: 50 users at their limits, each with 20 threads.

Each user has one kind of limit, and the project has a budget. Threads start generations as fast as
they can, while other threads complete, fail, cancel and retry them. An observer reads snapshots of
the database and checks that no snapshot exceeds a limit.
"""

import json
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from queue import LifoQueue
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg.rows import dict_row

from tests.sql.ledger_queries import UNBALANCED, WRONG_ACCOUNTS, WRONG_COSTS

pytestmark = pytest.mark.timeout(300)

LONG = os.environ.get("PICTURE_QUEUE_TEST_PROFILE") == "long"
SECONDS = 60.0 if LONG else 8.0
USERS, THREADS, CONNECTIONS = 50, 20, 40
PRICE = 0.003  # USD, of a picture of the default model
KINDS: dict[str, dict[str, Any]] = {
    "per_minute": {"per_minute": 7},
    "max_pending": {"max_pending": 3},
    "usd_per_day": {"usd_per_day": 0.03},
    "needs_credits": {"needs_credits": True},
    "all": {"per_minute": 30, "max_pending": 5, "usd_per_day": 0.05, "needs_credits": True},
}
HIGHEST_RATES = {"per_minute": 10_000, "per_hour": 10_000, "max_pending": 10_000}
GRANT = 0.0215  # USD: seven pictures at PRICE, and a rest that is less than PRICE
PROJECT_BUDGET = 0.9  # USD a day
REFUSALS = ("PQ_RATE_LIMITED", "PQ_OVER_BUDGET", "PQ_NO_CREDIT", "PQ_BUSY")
START = "select start_generation('a cat', input => %s, options => %s)"
OBSERVE = """
select
  (select coalesce(jsonb_object_agg(key, spent), '{}') from (
    select coalesce(user_id::text, 'service') as key,
      sum(amount_usd * case phase when 'reserve' then 1 else -1 end) as spent
    from picture_queue.ledger where phase in ('reserve', 'refund') group by 1) by_key) as spent,
  (select coalesce(jsonb_object_agg(user_id, n), '{}') from (
    select user_id, count(*) as n from generations
    where status in ('pending', 'processing') and user_id is not null group by 1) unfinished
  ) as pending,
  (select coalesce(jsonb_object_agg(user_id, n), '{}') from (
    select user_id, count(*) as n from picture_queue.ledger
    where phase = 'reserve' and round = 1 and at > now() - interval '1 minute'
      and user_id is not null group by 1) starts) as started
"""


class Load:
    """Threads that start and end generations, over a bounded number of connections."""

    def __init__(self, url: str) -> None:
        self.users = {kind: [uuid4() for _ in range(USERS // len(KINDS))] for kind in KINDS}
        self.kind = {str(user): kind for kind, users in self.users.items() for user in users}
        self.ends_at = 0.0
        self.outcomes: Counter[tuple[str, str]] = Counter()
        self.problems: list[str] = []
        self.snapshots = 0
        self.queue = f"q-{uuid4().hex[:8]}"
        self.observer = psycopg.connect(url, autocommit=True, row_factory=dict_row)
        self.connections: LifoQueue[psycopg.Connection[Any]] = LifoQueue()
        for _ in range(CONNECTIONS):
            self.connections.put(psycopg.connect(url, autocommit=True, row_factory=dict_row))

    def close(self) -> None:
        self.observer.close()
        while not self.connections.empty():
            self.connections.get().close()

    def call(self, sql: str, *args: Any, user: UUID | None = None) -> Any:
        """Make a call and return its value; for a user, with the role that PostgREST would set."""
        connection = self.connections.get()
        try:
            with connection.transaction(), connection.cursor() as cursor:
                if user is not None:
                    claims = json.dumps({"role": "authenticated", "sub": str(user)})
                    cursor.execute("select set_config('request.jwt.claims', %s, true)", [claims])
                    cursor.execute("set local role authenticated")
                row = cursor.execute(sql, args).fetchone()
                return None if row is None else next(iter(row.values()))
        finally:
            self.connections.put(connection)

    def prepare(self) -> None:
        self.call("select set_budget('project', %s)", json.dumps({"usd_per_day": PROJECT_BUDGET}))
        self.call(
            "select register_worker('w', array[%s], %s)",
            self.queue,
            json.dumps({"generate-image": {"queue": self.queue}}),
        )
        for user, kind in self.kind.items():
            self.call(
                "select set_budget(%s, %s)", f"user:{user}", json.dumps(HIGHEST_RATES | KINDS[kind])
            )
            if "needs_credits" in KINDS[kind]:
                self.call("select grant_credits(%s, %s::numeric)", user, GRANT)

    def start(self, user: UUID) -> None:
        """Start generations of a user until the load ends; repeat a third of the calls."""
        rng = random.Random()
        while time.monotonic() < self.ends_at:
            options = json.dumps({"generation_id": str(uuid4())})
            pictures = json.dumps({"num_outputs": rng.choice((1, 1, 2))})
            for _ in range(rng.choice((1, 1, 2))):
                try:
                    self.call(START, pictures, options, user=user)
                    self.outcomes[self.kind[str(user)], "started"] += 1
                except psycopg.Error as error:
                    code = (error.diag.message_primary or "").partition(":")[0]
                    self.outcomes[self.kind[str(user)], code] += 1
                    if code not in REFUSALS:
                        self.problems.append(f"{error} {error.diag.message_detail}")

    def end(self, seed: int) -> None:
        """Claim generations, and complete, fail, cancel or retry them."""
        rng = random.Random(seed)
        while time.monotonic() < self.ends_at:
            claimed = self.call(
                "select claim_jobs('w', array[%s], array['generate-image'], 5)", self.queue
            )
            for job in claimed:
                self._end_job(job, rng)
            if not claimed:
                time.sleep(0.02)

    def _end_job(self, job: dict[str, Any], rng: random.Random) -> None:
        outcome = rng.choice(("completed", "failed", "failed", "cancelled"))
        if outcome == "completed":
            image = json.dumps([{"n": 1, "path": "a", "mime_type": "image/png"}])
            self.call("select save_images(%s, %s, %s)", job["id"], job["lease_id"], image)
        report = {
            "job_id": job["id"],
            "lease_id": job["lease_id"],
            "outcome": outcome,
            "retryable": rng.random() < 0.2,
            "delay_seconds": 0,
        }
        self.call("select report_jobs(%s)", json.dumps([report]))
        self.outcomes["worker", outcome] += 1
        if outcome != "completed" and rng.random() < 0.3:
            try:
                self.call("select retry_job(%s)", job["id"])
                self.outcomes["worker", "retried"] += 1
            except psycopg.Error as error:
                self.outcomes["worker", (error.diag.message_primary or "")[:20]] += 1

    def observe(self) -> None:
        """Check the limits in one snapshot after another."""
        while time.monotonic() < self.ends_at:
            self.check()
            time.sleep(0.05)

    def check(self) -> None:
        """Check the limits in a snapshot."""
        row = self.observer.execute(OBSERVE).fetchone()
        assert row is not None
        self.snapshots += 1
        spent, pending, started = row["spent"], row["pending"], row["started"]
        if sum(spent.values()) > PROJECT_BUDGET + 1e-9:
            self.problems.append(f"the project spent {sum(spent.values())}")
        for user, kind in self.kind.items():
            budget = KINDS[kind]
            for name, found, limit in (
                ("spent", spent.get(user, 0), budget.get("usd_per_day")),
                ("credits", spent.get(user, 0), GRANT if "needs_credits" in budget else None),
                ("pending", pending.get(user, 0), budget.get("max_pending")),
                ("started", started.get(user, 0), budget.get("per_minute")),
            ):
                if limit is not None and found > limit + 1e-9:
                    self.problems.append(f"{kind} user {user}: {name} is {found}, above {limit}")

    def run(self, workers: int = 4) -> None:
        self.ends_at = time.monotonic() + SECONDS
        threads: list[tuple[Callable[..., None], Any]] = [
            (self.start, UUID(user)) for user in self.kind for _ in range(THREADS)
        ]
        threads += [(self.end, n) for n in range(workers)]
        with ThreadPoolExecutor(len(threads) + 1) as pool:
            watching = pool.submit(self.observe)
            running = [pool.submit(work, argument) for work, argument in threads]
            for future in [*running, watching]:
                future.result()
        self.check()


@pytest.fixture
def load(own_database: str) -> Any:
    threading.stack_size(256 * 1024)  # less than the default, for a thousand threads
    new_load = Load(own_database)
    yield new_load
    new_load.close()
    threading.stack_size(0)


def test_no_limit_is_exceeded_by_1000_threads_and_the_ledger_balances(load: Load) -> None:
    load.prepare()
    load.run()
    print(dict(load.outcomes), load.snapshots)
    assert not load.problems, load.problems[:5]
    assert load.snapshots >= 5
    # Each kind of limit was reached.
    for kind, code in (
        ("per_minute", "PQ_RATE_LIMITED"),
        ("max_pending", "PQ_RATE_LIMITED"),
        ("usd_per_day", "PQ_OVER_BUDGET"),
        ("needs_credits", "PQ_NO_CREDIT"),
    ):
        assert load.outcomes[kind, "started"] > 0
        assert load.outcomes[kind, code] > 0
    load.call("select maintain_jobs(true)")
    assert load.call(UNBALANCED) == []
    assert load.call(WRONG_ACCOUNTS) == []
    assert load.call(WRONG_COSTS) == []

"""The ledger and the accounts agree after every step of a random history of generations."""

import json
import os
import random
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.rows import tuple_row

from .ledger_queries import UNBALANCED, WRONG_ACCOUNTS, WRONG_COSTS

pytestmark = pytest.mark.timeout(900)

LONG = os.environ.get("PICTURE_QUEUE_TEST_PROFILE") == "long"
USERS = [f"00000000-0000-4000-8000-00000000000{n}" for n in range(3)]
#: Models with the name of their input for the number of pictures.
MODELS = {
    "black-forest-labs/flux-schnell": "num_outputs",  # has a price
    "stability-ai/sdxl": "num_outputs",  # its cost is an estimate
    "black-forest-labs/flux-kontext-dev": None,  # its cost is not known
}
STEPS = (
    *("start",) * 5,
    *(
        "claim",
        "complete",
        "complete_without_pictures",
        "fail",
        "back_off",
        "release",
        "cancel",
        "retry",
    ),
    *("fail_after_pictures", "cancel_after_pictures"),
    *("sweep", "prune", "delete", "maintain", "grant", "change_budgets", "settle_again"),
)


class History:
    """A random history of calls in one transaction.

    Attributes:
        leases: The ids of the claimed jobs, with the ids of their leases.
    """

    def __init__(self, connection: psycopg.Connection[Any], seed: int) -> None:
        self.connection = connection
        self.rng = random.Random(seed)
        self.leases: list[tuple[str, str]] = []

    def value(self, sql: str, *args: Any) -> Any:
        """Return a value, or None if the database refused the call with one of our errors."""
        try:
            with self.connection.transaction():
                row = self.connection.execute(sql, args).fetchone()
                return None if row is None else row[0]
        except psycopg.Error as error:
            assert (error.diag.message_primary or "").startswith("PQ_"), error
            return None

    def run(self, step: str) -> None:
        """Make the calls of a step, then check the ledger, the accounts and the budgets."""
        getattr(self, step)()
        for query in (UNBALANCED, WRONG_ACCOUNTS, WRONG_COSTS):
            assert self.value(query) == [], (step, query)
        for key, account in self.value(ACCOUNTS).items():
            assert account["credits_usd"] >= 0, (step, key, account)
            assert account["pending"] >= 0, (step, key, account)
            for spent, limit in (("day_usd", "usd_per_day"), ("pending", "max_pending")):
                # The budget may have changed in the history; the last one has the highest limits.
                if limit in BUDGETS[0]:
                    assert account[spent] <= BUDGETS[-1][limit] + 1e-9, (step, key, account)

    def start(self) -> None:
        model = self.rng.choice(list(MODELS))
        count_input = MODELS[model]
        model_input: dict[str, Any] = {count_input: self.rng.randint(1, 4)} if count_input else {}
        if model.endswith("kontext-dev"):
            model_input["input_image"] = "https://example.com/a.png"
        options = {"generation_id": str(uuid4())}
        if self.rng.random() < 0.9:
            options["user_id"] = self.rng.choice(USERS)
        for _ in range(self.rng.choice((1, 2))):  # a start may be repeated
            self.value(
                "select start_generation('a cat', %s, %s, %s)",
                *(model, json.dumps(model_input), json.dumps(options)),
            )

    def claim(self) -> None:
        jobs = self.value("select claim_jobs('w', '{ledger}', '{generate-image}', 3)") or []
        self.leases += [(job["id"], job["lease_id"]) for job in jobs]

    def _report(self, outcome: str, **fields: Any) -> None:
        if not self.leases:
            self.claim()
        if self.leases:
            job, lease = self.leases.pop(self.rng.randrange(len(self.leases)))
            if outcome == "completed":
                self._make_pictures(job, lease, fields.pop("pictures"))
            item = {"job_id": job, "lease_id": lease, "outcome": outcome, **fields}
            for _ in range(self.rng.choice((1, 2))):  # a report may be repeated
                self.value("select report_jobs(%s)", json.dumps([item]))

    def _make_pictures(self, job: str, lease: str, pictures: int) -> None:
        begun = self.value("select begin_prediction(%s, %s)", job, lease)
        if begun:
            metrics = self.rng.choice(
                [{"predict_time": self.rng.uniform(0, 30)}, {"predict_time": "odd"}, {}]
            )
            self.value(
                "select finish_prediction(%s, %s, %s, 'succeeded', metrics => %s)::text",
                *(job, lease, begun["prediction"]["id"], json.dumps(metrics)),
            )
        images = [{"n": n + 1, "path": "a", "mime_type": "image/png"} for n in range(pictures)]
        self.value("select save_images(%s, %s, %s)::text", job, lease, json.dumps(images))

    def complete(self) -> None:
        self._report("completed", pictures=self.rng.randint(1, 6))

    def complete_without_pictures(self) -> None:
        self._report("completed", pictures=0)

    def fail(self) -> None:
        self._report("failed", retryable=False)

    def fail_after_pictures(self) -> None:
        self._stop_after_pictures("failed")

    def cancel_after_pictures(self) -> None:
        self.value(
            "select cancel_generation(id) from generations "
            "where status = 'processing' order by random() limit 1"
        )
        self._stop_after_pictures("cancelled")

    def _stop_after_pictures(self, outcome: str) -> None:
        if self.leases:
            job, lease = self.leases[-1]
            self._make_pictures(job, lease, self.rng.randint(0, 3))
            item = {"job_id": job, "lease_id": lease, "outcome": outcome, "retryable": False}
            self.value("select report_jobs(%s)", json.dumps([item]))

    def back_off(self) -> None:
        self._report("failed", retryable=True, delay_seconds=0)

    def release(self) -> None:
        self._report("released")

    def cancel(self) -> None:
        self.value(
            "select cancel_generation(id) from generations "
            "where status in ('pending', 'processing') order by random() limit 1"
        )

    def retry(self) -> None:
        self.value(
            "select retry_job(job_id) from generations "
            "where status in ('failed', 'cancelled') order by random() limit 1"
        )

    def sweep(self) -> None:
        self.connection.execute(
            "update job_queue set lease_expires_at = '2000-01-01' "
            "where lease_expires_at is not null"
        )
        self.value("select picture_queue._do_due_steps(1000, true)")

    def prune(self) -> None:
        self.connection.execute(
            "update job_queue set finished_at = finished_at - interval '1 year'"
        )
        self.value("select picture_queue.prune()")

    def delete(self) -> None:
        self.connection.execute(
            "delete from generations where id in (select id from generations "
            "where status not in ('pending', 'processing') order by random() limit 1)"
        )

    def maintain(self) -> None:
        self.connection.execute(
            "update picture_queue.account_change set at = at - interval '1 hour'"
        )
        self.value("select maintain_jobs(true)")

    def grant(self) -> None:
        key = self.rng.choice(("once", "twice", None))
        usd = self.rng.choice((0.01, 0.05, -0.02))
        self.value("select grant_credits(%s, %s::numeric, %s)", self.rng.choice(USERS), usd, key)

    def change_budgets(self) -> None:
        budget = {**self.rng.choice(BUDGETS), "needs_credits": self.rng.choice((True, False))}
        self.value("select set_budget('user:*', %s)", json.dumps(budget))
        if self.rng.random() < 0.3:
            self.value("select delete_budget('project')::text")
        else:
            self.value("select set_budget('project', '{\"usd_per_day\": 0.3}')")

    def settle_again(self) -> None:
        self.value("select picture_queue._settle(array(select id from generations))")


#: The budgets of users, from the strictest to the most generous.
BUDGETS: list[dict[str, Any]] = [
    {"per_minute": 10_000, "per_hour": 10_000, "max_pending": 2, "usd_per_day": 0.02},
    {"per_minute": 10_000, "per_hour": 10_000, "max_pending": 9, "usd_per_day": 0.15},
]
ACCOUNTS = """
select coalesce(jsonb_object_agg(a.key, picture_queue._read_account(a.key)), '{}')
from picture_queue.account a where a.key <> 'project'
"""


@pytest.fixture(scope="module")
def connection(own_database: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(own_database, row_factory=tuple_row) as connection:
        connection.execute(
            "select register_worker('w', '{ledger}', %s)",
            [json.dumps({"generate-image": {"queue": "ledger"}})],
        )
        connection.execute("select set_budget('user:*', %s)", [json.dumps(BUDGETS[-1])])
        connection.commit()
        yield connection
        connection.rollback()


@settings(
    max_examples=500 if LONG else 25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(steps=st.lists(st.sampled_from(STEPS), min_size=5, max_size=40), seed=st.integers(0, 999))
def test_the_ledger_and_the_accounts_agree_after_every_step(
    connection: psycopg.Connection[Any], steps: list[str], seed: int
) -> None:
    history = History(connection, seed)
    try:
        for step in steps:
            history.run(step)
    finally:
        connection.rollback()

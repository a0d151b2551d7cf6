"""Races: eight connections make calls at the same time and commit.

A deadlock in any call fails the test.
"""

import asyncio
import os
import random
from itertools import pairwise
from typing import Any
from uuid import UUID, uuid4

import pytest

from .conftest import CLIENT_COUNT, JOB_TYPE, Refusal

LONG = os.environ.get("PICTURE_QUEUE_TEST_PROFILE") == "long"
ROUNDS = 250 if LONG else 25

pytestmark = pytest.mark.timeout(300)


async def test_no_job_is_claimed_twice(clients):
    created = await clients.first.enqueue(*[{} for _ in range(400)])
    claimed: list[str] = []
    await clients.work(5, lambda jobs: claimed.extend(job["id"] for job in jobs))
    assert len(claimed) == 400
    assert set(claimed) == {job["job_id"] for job in created}


async def test_a_job_has_one_valid_lease_while_leases_expire(clients):
    """Every claim counts as one attempt, and only the latest lease can complete the job."""
    await clients.first.enqueue(*[{"max_attempts": 1000} for _ in range(20)])
    claims = completes = 0

    async def work(client: Any) -> None:
        nonlocal claims, completes
        for _ in range(30):
            jobs = await client.claim(2)
            claims += len(jobs)
            done, expired = jobs[:1], jobs[1:]
            await client.value(
                "update job_queue set lease_expires_at = '2000-01-01' "
                "where id = any($1) and lease_expires_at is not null",
                [UUID(job["id"]) for job in expired],
            )  # fmt: skip
            await client.value("select picture_queue._do_due_steps(100, true)")
            ok = (await client.report(done, "completed")).count("ok")
            completes += ok
            assert set(await client.report(expired, "completed")) <= {"stale"}

    await clients.run_all(work)
    (row,) = await clients.first.rows(
        "select sum(attempt) as attempts, count(*) filter (where status = 'completed') as done "
        "from job_queue where queue = $1", clients.queue,
    )  # fmt: skip
    assert (row["attempts"], row["done"]) == (claims, completes)
    assert completes == 20


class RunningCounter:
    """Repeated counts of the running jobs, taken by one connection while the others work.

    Attributes:
        samples: The counts; True marks a count that began after the limit was lowered and no older
            claim was running.
    """

    def __init__(self, clients: Any) -> None:
        self.observer = clients.members[-1]
        self.samples: list[tuple[bool, int]] = []
        self.is_lowered = False
        self.is_done = False

    async def count_until_done(self) -> None:
        while not self.is_done:
            is_lowered = self.is_lowered
            self.samples.append((is_lowered, await self.observer.count_running()))


async def complete_all(clients: Any, counter: RunningCounter, max_jobs: int = 3) -> None:
    """Complete all jobs on seven connections while the eighth one counts the running jobs."""

    async def work(client: Any) -> None:
        if client is counter.observer:
            await counter.count_until_done()
            return
        while not counter.is_done:
            await client.report(await client.claim(max_jobs), "completed")
            if not await has_unfinished(client):
                counter.is_done = True

    async with asyncio.timeout(45):
        await clients.run_all(work)


async def has_unfinished(client: Any, n: int = 1) -> bool:
    """Return True if at least `n` jobs are unfinished."""
    return await client.value(
        "select count(*) >= $2 from job_queue where queue = $1 and finished_at is null",
        client.queue, n,
    )  # fmt: skip


@pytest.mark.parametrize("key", ["queue:{queue}", f"type:{JOB_TYPE}", "{queue}:1", "{queue}:*"])
async def test_a_limit_is_never_exceeded_and_all_jobs_end(clients, key):
    await clients.first.value(
        "select set_limit($1, max_running => 3)", key.format(queue=clients.queue)
    )
    await clients.first.enqueue(
        *[{"options": {"limit_keys": [clients.key(1)]}} for _ in range(150)]
    )
    counter = RunningCounter(clients)
    await complete_all(clients, counter)
    assert max(n for _, n in counter.samples) <= 3
    assert await clients.count_unfinished() == 0


async def test_jobs_with_two_limits_do_not_deadlock(clients):
    """Jobs name the keys in opposite orders, and neither limit is exceeded."""
    first, second = clients.key(1), clients.key(2)
    for key in (first, second):
        await clients.first.value("select set_limit($1, max_running => 2)", key)
    orders = [[first, second], [second, first], [first], [second]]
    await clients.first.enqueue(*[{"options": {"limit_keys": orders[n % 4]}} for n in range(160)])
    counter = RunningCounter(clients)
    await complete_all(clients, counter)
    assert max(n for _, n in counter.samples) <= 4
    assert await clients.count_unfinished() == 0


async def test_a_rate_is_never_exceeded(clients):
    await clients.first.value(
        "select set_limit($1, rate => 7, period_seconds => 3600)", clients.key(1)
    )
    await clients.first.enqueue(*[{"options": {"limit_keys": [clients.key(1)]}} for _ in range(60)])

    async def claim(client: Any) -> int:
        return sum([len(await client.claim(2)) for _ in range(5)])

    assert sum(await clients.run_all(claim)) == 7


async def test_a_lowered_limit_applies_to_claims_that_begin_later(clients):
    """Claims that had begun before the change may still use the old limit."""
    key = f"queue:{clients.queue}"
    await clients.first.value("select set_limit($1, max_running => 20)", key)
    await clients.first.enqueue(*[{} for _ in range(300)])
    counter = RunningCounter(clients)

    async def lower() -> None:
        while await has_unfinished(counter.observer, 250):
            pass
        await counter.observer.value("select set_limit($1, max_running => 2)", key)
        claims_at_change = dict(claims)
        while any(claims[name] == n for name, n in claims_at_change.items()):
            await counter.observer.count_running()  # the other connections claim meanwhile
        counter.is_lowered = True
        await counter.count_until_done()

    async def work(client: Any) -> None:
        while not counter.is_done:
            jobs = await client.claim(5)
            claims[client.name] += 1
            await client.report(jobs, "completed")
            if not await has_unfinished(client):
                counter.is_done = True

    claims = {client.name: 0 for client in clients.members[:-1]}
    async with asyncio.timeout(45):
        await asyncio.gather(lower(), *(work(client) for client in clients.members[:-1]))
    counts = [n for is_lowered, n in counter.samples if is_lowered]
    assert counts, "all jobs ended before the lower limit applied"
    for before, after in pairwise(counts):
        assert after <= max(before, 2), counts
    assert await clients.count_unfinished() == 0


@pytest.mark.parametrize("key_kind", ["idempotency_key", "unique", "job_id"])
async def test_concurrent_enqueues_of_the_same_job_create_one_job(clients, key_kind):
    for n in range(ROUNDS):
        item = {
            "idempotency_key": {"idempotency_key": f"{clients.queue}-{n}"},
            "unique": {"payload": {"n": n}, "options": {"unique": {}}},
            "job_id": {"job_id": str(uuid4())},
        }[key_kind]
        answers = [answer[0] for answer in await clients.run_all(lambda m, i=item: m.enqueue(i))]
        expected = ["created"] + ["existing"] * (CLIENT_COUNT - 1)
        assert sorted(a["outcome"] for a in answers) == expected
        assert len({a["job_id"] for a in answers}) == 1
    assert await clients.count_unfinished() == ROUNDS


async def test_concurrent_enqueues_of_unique_jobs_do_not_deadlock(clients):
    items = [{"payload": {"n": n}, "options": {"unique": {}}} for n in range(30)]
    await clients.run_all(lambda client: client.enqueue(*items))
    assert await clients.count_unfinished() == 30


async def test_a_cancel_during_a_claim_ends_the_job_or_requests_its_cancellation(clients):
    for _ in range(ROUNDS):
        (created,) = await clients.first.enqueue({})
        cancel, jobs = await asyncio.gather(
            clients.first.value("select cancel_job($1)", UUID(created["job_id"])),
            clients.second.claim(),
        )
        job = await clients.first.job(created["job_id"])
        if jobs:
            assert (job["status"], cancel["status"]) == ("processing", "processing")
            assert job["cancel_requested_at"] is not None
            await clients.second.report(jobs, "cancelled")
        else:
            assert (job["status"], cancel["status"]) == ("cancelled", "cancelled")


async def test_a_job_cancelled_during_the_report_of_its_completion_is_completed(clients):
    for _ in range(ROUNDS):
        await clients.first.enqueue({})
        jobs = await clients.first.claim()
        cancel, outcome = await asyncio.gather(
            clients.second.value("select cancel_job($1)", UUID(jobs[0]["id"])),
            clients.first.report(jobs, "completed"),
        )
        assert outcome == ["ok"]
        assert (await clients.first.job(jobs[0]["id"]))["status"] == "completed"
        assert cancel == Refusal("PQ_FINISHED_JOB") or cancel["cancel_requested"]


async def test_a_report_during_the_sweep_of_its_lease_is_written_or_stale(clients):
    for _ in range(ROUNDS):
        await clients.first.enqueue({})
        jobs = await clients.first.claim()
        await expire(clients.first, jobs)
        outcome, _ = await asyncio.gather(
            clients.first.report(jobs, "completed"),
            clients.second.value("select picture_queue._do_due_steps(100, true)"),
        )
        job = await clients.first.job(jobs[0]["id"])
        assert (outcome, job["status"]) in [(["ok"], "completed"), (["stale"], "pending")]
        await clients.first.report(await clients.first.claim(), "completed")


async def test_a_heartbeat_during_the_sweep_extends_the_lease_or_returns_it_as_lost(clients):
    for _ in range(ROUNDS):
        await clients.first.enqueue({})
        jobs = await clients.first.claim()
        await expire(clients.first, jobs)
        lease = {"job_id": jobs[0]["id"], "lease_id": jobs[0]["lease_id"]}
        answer, _ = await asyncio.gather(
            clients.first.value("select heartbeat_jobs($1, $2)", clients.first.name, [lease]),
            clients.second.value("select picture_queue._do_due_steps(100, true)"),
        )
        job = await clients.first.job(jobs[0]["id"])
        if job["status"] == "pending" and not answer["lost"]:
            # Maintenance had locked the row, so the next heartbeat reports the lease as lost.
            answer = await clients.first.value(
                "select heartbeat_jobs($1, $2)", clients.first.name, [lease]
            )
        assert (job["status"] == "pending") == (answer["lost"] == [jobs[0]["id"]])
        await clients.first.report([*jobs, *await clients.first.claim()], "completed")


async def expire(client: Any, jobs: list[dict[str, Any]]) -> None:
    await client.value(
        "update job_queue set lease_expires_at = '2000-01-01' where id = any($1)",
        [UUID(job["id"]) for job in jobs],
    )


@pytest.mark.parametrize("outcome", ["completed", "failed", "cancelled"])
async def test_a_child_enqueued_while_its_parent_ends_is_resolved(clients, outcome):
    for _ in range(ROUNDS):
        (parent,) = await clients.first.enqueue({"max_attempts": 1})
        jobs = await clients.first.claim()
        _, (child,) = await asyncio.gather(
            clients.first.report(jobs, outcome),
            clients.second.enqueue({"options": {"depends_on": [parent["job_id"]]}}),
        )
        await clients.first.maintain()
        job = await clients.first.job(child["job_id"])
        assert (job["status"], job["hold"]) == (
            ("pending", None) if outcome == "completed" else ("cancelled", None)
        )
        await clients.first.report(await clients.first.claim(), "completed")


async def test_parents_that_end_at_the_same_time_start_their_child_once(clients):
    for _ in range(10):
        parents = await clients.first.enqueue(*[{} for _ in clients.members])
        ids = [parent["job_id"] for parent in parents]
        (child,) = await clients.first.enqueue({"options": {"depends_on": ids}})
        claims = await clients.run_all(lambda client: client.claim())
        await asyncio.gather(
            *(m.report(jobs, "completed") for m, jobs in zip(clients.members, claims, strict=True))
        )
        await clients.first.maintain()
        job = await clients.first.job(child["job_id"])
        assert (job["status"], job["hold"], job["version"]) == ("pending", None, 2)
        await clients.first.report(await clients.first.claim(), "completed")


async def test_an_event_sent_while_a_job_parks_wakes_the_job(clients):
    for n in range(ROUNDS):
        await clients.first.enqueue({})
        jobs = await clients.first.claim()
        name = f"{clients.queue}-{n}"
        await asyncio.gather(
            clients.first.report(jobs, "parked", event=name, delay_seconds=3600),
            clients.second.value("select send_event($1, $2)", name, {"n": n}),
        )
        job = await clients.first.job(jobs[0]["id"])
        assert (job["status"], job["hold"], job["event"]) == ("pending", None, {"n": n})
        await clients.first.report(await clients.first.claim(), "completed")


@pytest.mark.parametrize("on_conflict", ["replace", "debounce"])
async def test_a_replace_or_debounce_during_a_claim_changes_the_job_before_it_starts_or_not_at_all(
    clients, on_conflict
):
    for n in range(ROUNDS):
        unique = {"by": ["n"], "on_conflict": on_conflict}
        delay = {"delay_seconds": 600} if on_conflict == "debounce" else {}
        await clients.first.enqueue({"payload": {"n": n, "v": 1}, "options": {"unique": unique}})
        answer, jobs = await asyncio.gather(
            clients.first.enqueue(
                {"payload": {"n": n, "v": 2}, "options": {"unique": unique, **delay}}
            ),
            clients.second.claim(),
        )
        is_changed = isinstance(answer, list) and answer[0]["outcome"] != "existing"
        if not is_changed:
            assert [job["payload"]["v"] for job in jobs] == [1]
            assert answer == Refusal("PQ_RUNNING_JOB") or on_conflict == "debounce"
        elif on_conflict == "debounce":
            assert jobs == []
        else:
            jobs = jobs or await clients.second.claim()
            assert [job["payload"]["v"] for job in jobs] == [2]
        await clients.second.report(jobs, "completed")


async def test_a_batch_enqueues_one_callback_if_its_jobs_end_at_the_same_time(clients):
    for _ in range(10):
        batch = uuid4()
        item = {"job_type": JOB_TYPE, "queue": clients.queue}
        await clients.first.value(
            "select enqueue_batch($1, $2, $3)", [item] * CLIENT_COUNT, item, batch
        )  # fmt: skip
        claims = await clients.run_all(lambda client: client.claim())
        await asyncio.gather(
            *(m.report(jobs, "completed") for m, jobs in zip(clients.members, claims, strict=True))
        )
        await clients.first.maintain()
        (callback,) = await clients.first.claim(10)
        assert callback["payload"]["completed"] == callback["payload"]["total"] == CLIENT_COUNT
        row = await clients.first.value("select get_batch($1)", batch)
        assert (row["completed"], row["callback_job_id"]) == (CLIENT_COUNT, callback["id"])
        await clients.first.report([callback], "completed")


async def test_concurrent_maintenance_enqueues_one_job_for_a_tick(clients):
    name = f"s-{clients.queue}"
    await clients.first.value(
        "select set_schedule($1, $2)", name,
        {"every_seconds": 3600, "job_type": JOB_TYPE, "queue": clients.queue},
    )  # fmt: skip
    for n in range(10):
        # The latest tick was n + 1 seconds ago, and no maintenance has run since.
        await clients.first.value(
            "update picture_queue.schedule set next_at = now() - make_interval(secs => $2), "
            "created_at = now() - make_interval(hours => 10, secs => $2) where name = $1",
            name, n + 1,
        )  # fmt: skip
        await clients.run_all(
            lambda client: client.value("select picture_queue._do_due_steps(100, false)")
        )
        assert await clients.count_unfinished() == n + 1
    await clients.first.value("select delete_schedule($1)", name)


@pytest.mark.parametrize("paused_object", ["queue", "key"])
async def test_no_claim_that_begins_after_a_pause_returns_jobs(clients, paused_object):
    await clients.first.enqueue(
        *[{"options": {"limit_keys": [clients.key(1)]}} for _ in range(500)]
    )
    is_paused = asyncio.Event()

    async def claim(client: Any) -> None:
        while True:
            began_after_pause = is_paused.is_set()
            jobs = await client.claim()
            assert not (began_after_pause and jobs)
            if began_after_pause:
                return

    async def pause() -> None:
        while await clients.first.count_running() < 30:
            pass
        if paused_object == "queue":
            await clients.first.value("select pause_queue($1)", clients.queue)
        else:
            await clients.first.value("select pause_key($1)", clients.key(1))
        is_paused.set()

    async with asyncio.timeout(45):
        await asyncio.gather(pause(), *(claim(client) for client in clients.members[1:]))
    await clients.first.value("select resume_queue($1)", clients.queue)
    await clients.first.value("select resume_key($1)", clients.key(1))
    assert len(await clients.first.claim(1)) == 1


async def call_at_random(client: Any, rng: random.Random) -> None:  # noqa: C901
    """Make sixty random calls."""
    # A purge can deadlock if a job depends both on another job and on a child of that job.
    client.tries = 4
    held: list[dict[str, Any]] = []
    known = await client.rows("select id from job_queue where queue = $1", client.queue)
    ids = [row["id"] for row in known]

    async def claim() -> None:
        held.extend(await client.claim(rng.choice([1, 3, 10])))

    async def report() -> None:
        outcomes = ["completed", "failed", "snoozed", "released", "parked", "cancelled"]
        jobs, held[:] = held[:], []
        await client.report(jobs, rng.choice(outcomes), event=event(), delay_seconds=0)

    def event() -> str:
        return f"{client.queue}-{rng.randrange(3)}"

    def keys() -> list[str]:
        return [f"{client.queue}:{n}" for n in rng.sample([1, 2, 3], 2)]

    async def heartbeat() -> None:
        leases = [{"job_id": j["id"], "lease_id": j["lease_id"]} for j in held]
        await client.value("select heartbeat_jobs($1, $2)", client.name, leases)

    async def enqueue_child() -> None:
        parents = [str(job_id) for job_id in rng.sample(ids, 2)]
        options = {"depends_on": parents, "on_parent_failure": "run"}
        (child,) = await client.enqueue({"options": options})
        ids.append(UUID(child["job_id"]))

    async def enqueue_unique() -> None:
        unique = {"on_conflict": rng.choice(["debounce", "ignore"])}
        await client.enqueue({"options": {"unique": unique, "limit_keys": keys()}})

    async def enqueue_many() -> None:
        await client.enqueue(*[{"options": {"limit_keys": keys()}} for _ in range(5)])

    async def sweep() -> None:
        if held:
            await expire(client, [held.pop()])
        await client.value("select picture_queue._do_due_steps(100, true)")

    calls = [
        *[claim, report] * 3, heartbeat, enqueue_child, enqueue_unique, enqueue_many, sweep,
        lambda: client.value("select cancel_job($1)", rng.choice(ids)),
        lambda: client.value("select retry_job($1)", rng.choice(ids)),
        lambda: client.value("select send_event($1)", event()),
        lambda: client.value(
            "select set_limit($1, max_running => $2)", keys()[0], rng.randint(1, 3)
        ),
        lambda: client.value("select purge_queue($1)", client.queue),
    ]  # fmt: skip
    for _ in range(60):
        await rng.choice(calls)()


@pytest.mark.parametrize("seed", range(30 if LONG else 2))
async def test_counters_are_exact_after_random_concurrent_calls(clients, seed):
    """Every call succeeds after retries, and the counters of queues and keys match the rows."""
    await clients.first.value("select set_limit($1, max_running => 2)", clients.key("*"))
    await clients.first.value("select set_queue($1, $2)", clients.queue, {"fair_share": True})
    await clients.first.enqueue(*[{"options": {"limit_keys": [clients.key(1)]}} for _ in range(40)])

    await clients.run_all(
        lambda client: call_at_random(
            client, random.Random(f"{seed} {clients.members.index(client)}")
        )
    )
    assert await clients.first.rows(
        "select status, hold, sum(n) from ("
        "  select status, hold, n from picture_queue.depth where queue = $1"
        "  union all select status, hold, n from picture_queue.depth_change where queue = $1"
        "  union all select status, hold, -1 from job_queue where queue = $1) d "
        "group by status, hold having sum(n) <> 0", clients.queue,
    ) == []  # fmt: skip
    assert await clients.first.rows(
        "select l.key, l.running from picture_queue.limit_key l where l.key like $1 || ':%' "
        "and l.running - (select coalesce(sum(f.n), 0) from picture_queue.freed_key f "
        "  where f.key = l.key) <> (select count(*) from job_queue j "
        "  where j.status = 'processing' and j.hold is null and l.key = any (j.slots))",
        clients.queue,
    ) == []  # fmt: skip

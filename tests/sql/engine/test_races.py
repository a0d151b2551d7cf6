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

from .conftest import SIZE, TYPE, Refusal

LONG = os.environ.get("PICTURE_QUEUE_TEST_PROFILE") == "long"
ROUNDS = 250 if LONG else 25

pytestmark = pytest.mark.timeout(300)


async def test_no_job_is_claimed_twice(crowd):
    made = await crowd.one.enqueue(*[{} for _ in range(400)])
    claimed: list[str] = []
    await crowd.work(5, lambda jobs: claimed.extend(job["id"] for job in jobs))
    assert len(claimed) == 400
    assert set(claimed) == {one["job_id"] for one in made}


async def test_a_job_has_one_valid_lease_while_leases_expire(crowd):
    """Every claim counts as one attempt, and only the latest lease can complete the job."""
    await crowd.one.enqueue(*[{"max_attempts": 1000} for _ in range(20)])
    claims = completes = 0

    async def work(member: Any) -> None:
        nonlocal claims, completes
        for _ in range(30):
            jobs = await member.claim(2)
            claims += len(jobs)
            done, expired = jobs[:1], jobs[1:]
            await member.value(
                "update job_queue set lease_expires_at = '2000-01-01' "
                "where id = any($1) and lease_expires_at is not null",
                [UUID(job["id"]) for job in expired],
            )  # fmt: skip
            await member.value("select picture_queue._do_due_steps(100, true)")
            ok = (await member.report(done, "completed")).count("ok")
            completes += ok
            assert set(await member.report(expired, "completed")) <= {"stale"}

    await crowd.all(work)
    (row,) = await crowd.one.rows(
        "select sum(attempt) as attempts, count(*) filter (where status = 'completed') as done "
        "from job_queue where queue = $1", crowd.queue,
    )  # fmt: skip
    assert (row["attempts"], row["done"]) == (claims, completes)
    assert completes == 20


class Watcher:
    """A connection that counts the running jobs again and again while the others work."""

    def __init__(self, crowd: Any) -> None:
        self.observer = crowd.members[-1]
        self.seen: list[tuple[bool, int]] = []
        self.is_lowered = False
        self.is_over = False

    async def count_running(self) -> None:
        while not self.is_over:
            is_lowered = self.is_lowered
            self.seen.append((is_lowered, await self.observer.running()))


async def complete_all(crowd: Any, watcher: Watcher, most: int = 3) -> None:
    """Let seven connections complete all jobs while the eighth counts the running ones."""

    async def work(member: Any) -> None:
        if member is watcher.observer:
            await watcher.count_running()
            return
        while not watcher.is_over:
            await member.report(await member.claim(most), "completed")
            if not await is_open(member):
                watcher.is_over = True

    async with asyncio.timeout(45):
        await crowd.all(work)


async def is_open(member: Any, n: int = 1) -> bool:
    """Return True if at least `n` jobs are unfinished."""
    return await member.value(
        "select count(*) >= $2 from job_queue where queue = $1 and finished_at is null",
        member.queue, n,
    )  # fmt: skip


@pytest.mark.parametrize("key", ["queue:{queue}", f"type:{TYPE}", "{queue}:1", "{queue}:*"])
async def test_a_limit_is_never_exceeded_and_all_jobs_end(crowd, key):
    await crowd.one.value("select set_limit($1, max_running => 3)", key.format(queue=crowd.queue))
    await crowd.one.enqueue(*[{"options": {"limit_keys": [crowd.key(1)]}} for _ in range(150)])
    watcher = Watcher(crowd)
    await complete_all(crowd, watcher)
    assert max(n for _, n in watcher.seen) <= 3
    assert await crowd.open() == 0


async def test_jobs_with_two_limits_do_not_deadlock(crowd):
    """Jobs name the keys in opposite orders, and neither limit is exceeded."""
    one, two = crowd.key(1), crowd.key(2)
    for key in (one, two):
        await crowd.one.value("select set_limit($1, max_running => 2)", key)
    orders = [[one, two], [two, one], [one], [two]]
    await crowd.one.enqueue(*[{"options": {"limit_keys": orders[n % 4]}} for n in range(160)])
    watcher = Watcher(crowd)
    await complete_all(crowd, watcher)
    assert max(n for _, n in watcher.seen) <= 4
    assert await crowd.open() == 0


async def test_a_rate_is_never_exceeded(crowd):
    await crowd.one.value("select set_limit($1, rate => 7, period_seconds => 3600)", crowd.key(1))
    await crowd.one.enqueue(*[{"options": {"limit_keys": [crowd.key(1)]}} for _ in range(60)])

    async def claim(member: Any) -> int:
        return sum([len(await member.claim(2)) for _ in range(5)])

    assert sum(await crowd.all(claim)) == 7


async def test_a_lowered_limit_applies_to_claims_that_begin_later(crowd):
    """Claims that had begun before the change may still use the old limit."""
    key = f"queue:{crowd.queue}"
    await crowd.one.value("select set_limit($1, max_running => 20)", key)
    await crowd.one.enqueue(*[{} for _ in range(300)])
    watcher = Watcher(crowd)

    async def lower() -> None:
        while await is_open(watcher.observer, 250):
            pass
        await watcher.observer.value("select set_limit($1, max_running => 2)", key)
        under_way = dict(claims)
        while not watcher.is_over and any(claims[name] == n for name, n in under_way.items()):
            await watcher.count_running()
        watcher.is_lowered = True
        await watcher.count_running()

    async def work(member: Any) -> None:
        while not watcher.is_over:
            jobs = await member.claim(5)
            claims[member.name] += 1
            await member.report(jobs, "completed")
            if not await is_open(member):
                watcher.is_over = True

    claims = {member.name: 0 for member in crowd.members[:-1]}
    async with asyncio.timeout(45):
        await asyncio.gather(lower(), *(work(member) for member in crowd.members[:-1]))
    counts = [n for is_lowered, n in watcher.seen if is_lowered]
    for before, after in pairwise(counts):
        assert after <= max(before, 2), counts
    assert await crowd.open() == 0


@pytest.mark.parametrize("by", ["idempotency_key", "unique", "job_id"])
async def test_concurrent_enqueues_of_one_job_create_it_once(crowd, by):
    for n in range(ROUNDS):
        item = {
            "idempotency_key": {"idempotency_key": f"{crowd.queue}-{n}"},
            "unique": {"payload": {"n": n}, "options": {"unique": {}}},
            "job_id": {"job_id": str(uuid4())},
        }[by]
        answers = [answer[0] for answer in await crowd.all(lambda m, i=item: m.enqueue(i))]
        assert sorted(a["outcome"] for a in answers) == ["created"] + ["existing"] * (SIZE - 1)
        assert len({a["job_id"] for a in answers}) == 1
    assert await crowd.open() == ROUNDS


async def test_concurrent_enqueues_of_unique_jobs_do_not_deadlock(crowd):
    items = [{"payload": {"n": n}, "options": {"unique": {}}} for n in range(30)]
    await crowd.all(lambda member: member.enqueue(*items))
    assert await crowd.open() == 30


async def test_a_job_is_cancelled_while_it_is_claimed(crowd):
    for _ in range(ROUNDS):
        (made,) = await crowd.one.enqueue({})
        cancel, jobs = await asyncio.gather(
            crowd.one.value("select cancel_job($1)", UUID(made["job_id"])), crowd.other.claim()
        )
        job = await crowd.one.job(made["job_id"])
        if jobs:
            assert (job["status"], cancel["status"]) == ("processing", "processing")
            assert job["cancel_requested_at"] is not None
            await crowd.other.report(jobs, "cancelled")
        else:
            assert (job["status"], cancel["status"]) == ("cancelled", "cancelled")


async def test_a_job_is_cancelled_while_it_is_reported(crowd):
    for _ in range(ROUNDS):
        await crowd.one.enqueue({})
        jobs = await crowd.one.claim()
        cancel, outcome = await asyncio.gather(
            crowd.other.value("select cancel_job($1)", UUID(jobs[0]["id"])),
            crowd.one.report(jobs, "completed"),
        )
        assert outcome == ["ok"]
        assert (await crowd.one.job(jobs[0]["id"]))["status"] == "completed"
        assert cancel == Refusal("PQ_FINISHED_JOB") or cancel["cancel_requested"]


async def test_a_lease_expires_while_its_job_is_reported(crowd):
    for _ in range(ROUNDS):
        await crowd.one.enqueue({})
        jobs = await crowd.one.claim()
        await expire(crowd.one, jobs)
        outcome, _ = await asyncio.gather(
            crowd.one.report(jobs, "completed"),
            crowd.other.value("select picture_queue._do_due_steps(100, true)"),
        )
        job = await crowd.one.job(jobs[0]["id"])
        assert (outcome, job["status"]) in [(["ok"], "completed"), (["stale"], "pending")]
        await crowd.one.report(await crowd.one.claim(), "completed")


async def test_a_lease_expires_during_a_heartbeat(crowd):
    for _ in range(ROUNDS):
        await crowd.one.enqueue({})
        jobs = await crowd.one.claim()
        await expire(crowd.one, jobs)
        lease = {"job_id": jobs[0]["id"], "lease_id": jobs[0]["lease_id"]}
        answer, _ = await asyncio.gather(
            crowd.one.value("select heartbeat_jobs($1, $2)", crowd.one.name, [lease]),
            crowd.other.value("select picture_queue._do_due_steps(100, true)"),
        )
        job = await crowd.one.job(jobs[0]["id"])
        if job["status"] == "pending" and not answer["lost"]:
            # Maintenance had locked the row, so the next heartbeat reports the lease as lost.
            answer = await crowd.one.value("select heartbeat_jobs($1, $2)", crowd.one.name, [lease])
        assert (job["status"] == "pending") == (answer["lost"] == [jobs[0]["id"]])
        await crowd.one.report([*jobs, *await crowd.one.claim()], "completed")


async def expire(member: Any, jobs: list[dict[str, Any]]) -> None:
    await member.value(
        "update job_queue set lease_expires_at = '2000-01-01' where id = any($1)",
        [UUID(job["id"]) for job in jobs],
    )


@pytest.mark.parametrize("outcome", ["completed", "failed", "cancelled"])
async def test_a_parent_ends_while_its_child_is_enqueued(crowd, outcome):
    for _ in range(ROUNDS):
        (parent,) = await crowd.one.enqueue({"max_attempts": 1})
        jobs = await crowd.one.claim()
        _, (child,) = await asyncio.gather(
            crowd.one.report(jobs, outcome),
            crowd.other.enqueue({"options": {"depends_on": [parent["job_id"]]}}),
        )
        await crowd.one.maintain()
        job = await crowd.one.job(child["job_id"])
        assert (job["status"], job["hold"]) == (
            ("pending", None) if outcome == "completed" else ("cancelled", None)
        )
        await crowd.one.report(await crowd.one.claim(), "completed")


async def test_parents_that_end_at_the_same_time_start_their_child_once(crowd):
    for _ in range(10):
        parents = await crowd.one.enqueue(*[{} for _ in crowd.members])
        ids = [one["job_id"] for one in parents]
        (child,) = await crowd.one.enqueue({"options": {"depends_on": ids}})
        claims = await crowd.all(lambda member: member.claim())
        await asyncio.gather(
            *(m.report(jobs, "completed") for m, jobs in zip(crowd.members, claims, strict=True))
        )
        await crowd.one.maintain()
        job = await crowd.one.job(child["job_id"])
        assert (job["status"], job["hold"], job["version"]) == ("pending", None, 2)
        await crowd.one.report(await crowd.one.claim(), "completed")


async def test_an_event_is_sent_while_a_job_parks_on_it(crowd):
    for n in range(ROUNDS):
        await crowd.one.enqueue({})
        jobs = await crowd.one.claim()
        name = f"{crowd.queue}-{n}"
        await asyncio.gather(
            crowd.one.report(jobs, "parked", event=name, delay_seconds=3600),
            crowd.other.value("select send_event($1, $2)", name, {"n": n}),
        )
        job = await crowd.one.job(jobs[0]["id"])
        assert (job["status"], job["hold"], job["event"]) == ("pending", None, {"n": n})
        await crowd.one.report(await crowd.one.claim(), "completed")


@pytest.mark.parametrize("on_conflict", ["replace", "debounce"])
async def test_a_unique_job_is_replaced_or_debounced_while_it_is_claimed(crowd, on_conflict):
    for n in range(ROUNDS):
        unique = {"by": ["n"], "on_conflict": on_conflict}
        delay = {"delay_seconds": 600} if on_conflict == "debounce" else {}
        await crowd.one.enqueue({"payload": {"n": n, "v": 1}, "options": {"unique": unique}})
        answer, jobs = await asyncio.gather(
            crowd.one.enqueue(
                {"payload": {"n": n, "v": 2}, "options": {"unique": unique, **delay}}
            ),
            crowd.other.claim(),
        )
        renewed = isinstance(answer, list) and answer[0]["outcome"] != "existing"
        if not renewed:
            assert [job["payload"]["v"] for job in jobs] == [1]
            assert answer == Refusal("PQ_RUNNING_JOB") or on_conflict == "debounce"
        elif on_conflict == "debounce":
            assert jobs == []
        else:
            jobs = jobs or await crowd.other.claim()
            assert [job["payload"]["v"] for job in jobs] == [2]
        await crowd.other.report(jobs, "completed")


async def test_a_batch_enqueues_one_callback_if_its_jobs_end_at_the_same_time(crowd):
    for _ in range(10):
        batch = uuid4()
        item = {"job_type": TYPE, "queue": crowd.queue}
        await crowd.one.value(
            "select enqueue_batch($1, $2, $3)", [item] * SIZE, item, batch
        )  # fmt: skip
        claims = await crowd.all(lambda member: member.claim())
        await asyncio.gather(
            *(m.report(jobs, "completed") for m, jobs in zip(crowd.members, claims, strict=True))
        )
        await crowd.one.maintain()
        (callback,) = await crowd.one.claim(10)
        assert callback["payload"]["completed"] == callback["payload"]["total"] == SIZE
        row = await crowd.one.value("select get_batch($1)", batch)
        assert (row["completed"], row["callback_job_id"]) == (SIZE, callback["id"])
        await crowd.one.report([callback], "completed")


async def test_concurrent_maintenance_enqueues_one_job_for_a_tick(crowd):
    name = f"s-{crowd.queue}"
    await crowd.one.value(
        "select set_schedule($1, $2)", name,
        {"every_seconds": 3600, "job_type": TYPE, "queue": crowd.queue},
    )  # fmt: skip
    for n in range(10):
        # The latest tick was n + 1 seconds ago, and no maintenance has run since.
        await crowd.one.value(
            "update picture_queue.schedule set next_at = now() - make_interval(secs => $2), "
            "created_at = now() - make_interval(hours => 10, secs => $2) where name = $1",
            name, n + 1,
        )  # fmt: skip
        await crowd.all(lambda member: member.value("select picture_queue._run_schedules(100)"))
        assert await crowd.open() == n + 1
    await crowd.one.value("select delete_schedule($1)", name)


@pytest.mark.parametrize("what", ["queue", "key"])
async def test_no_claim_that_begins_after_a_pause_returns_jobs(crowd, what):
    await crowd.one.enqueue(*[{"options": {"limit_keys": [crowd.key(1)]}} for _ in range(500)])
    is_paused = asyncio.Event()

    async def claim(member: Any) -> None:
        while True:
            begun_paused = is_paused.is_set()
            jobs = await member.claim()
            assert not (begun_paused and jobs)
            if begun_paused:
                return

    async def pause() -> None:
        while await crowd.one.running() < 30:
            pass
        if what == "queue":
            await crowd.one.value("select pause_queue($1)", crowd.queue)
        else:
            await crowd.one.value("select pause_key($1)", crowd.key(1))
        is_paused.set()

    async with asyncio.timeout(45):
        await asyncio.gather(pause(), *(claim(member) for member in crowd.members[1:]))
    await crowd.one.value("select resume_queue($1)", crowd.queue)
    await crowd.one.value("select resume_key($1)", crowd.key(1))
    assert len(await crowd.one.claim(1)) == 1


async def call_at_random(member: Any, dice: random.Random) -> None:  # noqa: C901
    """Make sixty random calls."""
    member.tries = 4  # a purge can deadlock with jobs that depend on both a job and its child
    held: list[dict[str, Any]] = []
    known = await member.rows("select id from job_queue where queue = $1", member.queue)
    ids = [row["id"] for row in known]

    async def claim() -> None:
        held.extend(await member.claim(dice.choice([1, 3, 10])))

    async def report() -> None:
        words = ["completed", "failed", "snoozed", "released", "parked", "cancelled"]
        jobs, held[:] = held[:], []
        await member.report(jobs, dice.choice(words), event=event(), delay_seconds=0)

    def event() -> str:
        return f"{member.queue}-{dice.randrange(3)}"

    def keys() -> list[str]:
        return [f"{member.queue}:{n}" for n in dice.sample([1, 2, 3], 2)]

    async def heartbeat() -> None:
        leases = [{"job_id": j["id"], "lease_id": j["lease_id"]} for j in held]
        await member.value("select heartbeat_jobs($1, $2)", member.name, leases)

    async def enqueue_child() -> None:
        parents = [str(one) for one in dice.sample(ids, 2)]
        options = {"depends_on": parents, "on_parent_failure": "run"}
        (child,) = await member.enqueue({"options": options})
        ids.append(UUID(child["job_id"]))

    async def enqueue_unique() -> None:
        unique = {"on_conflict": dice.choice(["debounce", "ignore"])}
        await member.enqueue({"options": {"unique": unique, "limit_keys": keys()}})

    async def enqueue_many() -> None:
        await member.enqueue(*[{"options": {"limit_keys": keys()}} for _ in range(5)])

    async def sweep() -> None:
        if held:
            await expire(member, [held.pop()])
        await member.value("select picture_queue._do_due_steps(100, true)")

    calls = [
        *[claim, report] * 3, heartbeat, enqueue_child, enqueue_unique, enqueue_many, sweep,
        lambda: member.value("select cancel_job($1)", dice.choice(ids)),
        lambda: member.value("select retry_job($1)", dice.choice(ids)),
        lambda: member.value("select send_event($1)", event()),
        lambda: member.value(
            "select set_limit($1, max_running => $2)", keys()[0], dice.randint(1, 3)
        ),
        lambda: member.value("select purge_queue($1)", member.queue),
    ]  # fmt: skip
    for _ in range(60):
        await dice.choice(calls)()


@pytest.mark.parametrize("seed", range(30 if LONG else 2))
async def test_counters_are_exact_after_random_concurrent_calls(crowd, seed):
    """Every call succeeds in the end, and the counts of depth and slots match the rows."""
    await crowd.one.value("select set_limit($1, max_running => 2)", crowd.key("*"))
    await crowd.one.value("select set_queue($1, $2)", crowd.queue, {"fair_share": True})
    await crowd.one.enqueue(*[{"options": {"limit_keys": [crowd.key(1)]}} for _ in range(40)])

    await crowd.all(
        lambda member: call_at_random(
            member, random.Random(f"{seed} {crowd.members.index(member)}")
        )
    )
    assert await crowd.one.rows(
        "select status, hold, sum(n) from ("
        "  select status, hold, n from picture_queue.depth where queue = $1"
        "  union all select status, hold, n from picture_queue.depth_change where queue = $1"
        "  union all select status, hold, -1 from job_queue where queue = $1) d "
        "group by status, hold having sum(n) <> 0", crowd.queue,
    ) == []  # fmt: skip
    assert await crowd.one.rows(
        "select l.key, l.running from picture_queue.limit_key l where l.key like $1 || ':%' "
        "and l.running - (select coalesce(sum(f.n), 0) from picture_queue.freed_key f "
        "  where f.key = l.key) <> (select count(*) from job_queue j "
        "  where j.status = 'processing' and j.hold is null and l.key = any (j.slots))",
        crowd.queue,
    ) == []  # fmt: skip

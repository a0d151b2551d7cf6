"""Flows: each makes a call that handles ordinary jobs and a bad job together."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from .database import BAD_TYPE, EVENT, JOBS, QUEUE, TAG, TYPE, WORKER, IsolationDatabase, expect
from .disturbances import Disturbance


@dataclass(frozen=True)
class Flow:
    """A call, and the checks of the ordinary jobs after it.

    Attributes:
        name: The call that is tested.
        act: A function that makes the call and checks the ordinary jobs.
        states: The states in which `run` creates ordinary jobs and a bad job.
        arrange: Creates more ordinary jobs, before `Disturbance.apply` is called.
        maintains: True if `act` runs maintenance, which may do the follow-ups of many jobs.
    """

    name: str
    act: Callable[[IsolationDatabase], Awaitable[None]]
    states: tuple[str, ...] = ()
    arrange: Callable[[IsolationDatabase], Awaitable[None]] | None = None
    maintains: bool = False


async def enqueue(db: IsolationDatabase) -> None:
    jobs = [{"job_type": TYPE, "queue": QUEUE}] * JOBS
    keyed = [{**job, "idempotency_key": str(n), "options": {"unique": {}}}
             for n, job in enumerate(jobs[:1])]  # fmt: skip
    for items in (jobs, keyed, [{**jobs[0], "scheduled_for": "2031-01-01T00:00:00Z"}]):
        answer = await db.call("select enqueue_jobs($1)", items)
        expect([item["outcome"] for item in answer] == ["created"] * len(items), f"{answer}")


async def enqueue_batch(db: IsolationDatabase) -> None:
    batch, callback = str(uuid4()), {"job_type": "ordinary-callback", "queue": QUEUE}
    answer = await db.call(
        "select enqueue_batch($1, $2, $3::text::uuid)",
        [{"job_type": TYPE, "queue": QUEUE}] * JOBS, callback, batch,
    )  # fmt: skip
    members = [job["job_id"] for job in answer["jobs"]]
    await db.claim()
    await db.report(members)
    await db.maintain()
    found = await db.call("select get_batch($1::text::uuid)", batch)
    expect(found["completed"] == JOBS and found["callback_job_id"] is not None, f"{found}")


async def claim(db: IsolationDatabase) -> None:
    request = str(uuid4())
    for attempt in ("first", "repeated"):
        jobs = await db.call(
            "select claim_jobs($1, $2, $3, 50, 3600, $4::text::uuid)",
            WORKER, [QUEUE], [BAD_TYPE, TYPE], request,
        )  # fmt: skip
        claimed = {job["id"] for job in jobs}
        expect(claimed >= set(db.jobs["pending"]), f"the {attempt} claim returned {claimed}")


async def report(db: IsolationDatabase) -> None:
    items = [
        {**lease, "outcome": "completed", "result": {"n": n}}
        for n, lease in enumerate(db.leases(db.bad["running"] + db.jobs["running"]))
    ]
    claim = {"worker": WORKER, "queues": [QUEUE], "job_types": [TYPE], "max_jobs": 50}
    answer = await db.call("select report_jobs($1, $2)", items, claim)
    outcomes = {item["job_id"]: item["outcome"] for item in answer["outcomes"]}
    expect(all(outcomes[job] == "ok" for job in db.jobs["running"]), f"{outcomes}")
    expect(await db.states(db.jobs["running"]) == ["completed"] * JOBS, "not completed")
    claimed = {job["id"] for job in answer["jobs"]}
    expect(claimed >= set(db.jobs["pending"]), f"the claim returned {claimed}")


async def report_failures(db: IsolationDatabase) -> None:
    """Report failures that are retried and that pause a limit key."""
    ids = db.bad["running"] + db.jobs["running"]
    outcome = {"outcome": "failed", "error": "no", "delay_seconds": 5, "pause_key": "nothing"}
    answer = await db.call(
        "select report_jobs($1)", [{**lease, **outcome} for lease in db.leases(ids)]
    )
    outcomes = {item["job_id"]: item["outcome"] for item in answer["outcomes"]}
    expect(all(outcomes[job] == "ok" for job in db.jobs["running"]), f"{outcomes}")
    await db.pass_time(6)
    await db.maintain(1)
    claimed = {job["id"] for job in await db.claim(BAD_TYPE, TYPE)}
    expect(claimed >= set(db.jobs["running"]), f"the claim returned {claimed}")


async def heartbeat(db: IsolationDatabase) -> None:
    leases = db.leases(db.bad["running"] + db.jobs["running"])
    answer = await db.call("select heartbeat_jobs($1, $2)", WORKER, leases)
    expect(not set(db.jobs["running"]) & set(answer["lost"]), f"{answer}")
    extended = await db.owner.fetchval(
        "select count(*) from job_queue where id::text = any($1) "
        "and lease_expires_at = picture_queue._now() + make_interval(secs => lease_seconds)",
        db.jobs["running"],
    )
    expect(extended == JOBS, f"{extended} leases of {JOBS} were extended")


async def arrange_followups(db: IsolationDatabase) -> None:
    """Create a schedule, a parent with a child, a batch and a limit key with a blocked job.

    When the jobs in ``db.jobs["ending"]`` end, the jobs in ``following`` must start.
    """
    job = {"job_type": TYPE, "queue": QUEUE}
    await db.call("select set_schedule('ordinary', $1)", {**job, "every_seconds": 10})
    await db.call("select set_limit('ordinary-key', 1)")
    parent = await db.enqueue(TYPE, {})
    first = await db.enqueue(TYPE, {"options": {"limit_keys": ["ordinary-key"]}})
    member, batch = str(uuid4()), str(uuid4())
    await db.call(
        "select enqueue_batch($1, $2, $3::text::uuid)", [{**job, "job_id": member}], job, batch
    )
    await db.claim()
    second = await db.enqueue(TYPE, {"options": {"limit_keys": ["ordinary-key"]}})
    child = await db.enqueue(TYPE, {"options": {"depends_on": [parent]}})
    await db.claim()
    db.jobs["ending"] = [parent, first, member]
    db.jobs["following"] = [second, child]
    db.saved["batch"] = batch


async def maintain(db: IsolationDatabase) -> None:
    expect(await db.report(db.jobs["ending"]) == ["ok"] * 3, "a report was refused")
    await db.maintain()
    batch = await db.call("select get_batch($1::text::uuid)", db.saved["batch"])
    (schedule,) = [found for found in await db.call("select list_schedules()")
                   if found["name"] == "ordinary"]  # fmt: skip
    db.jobs["following"] += [batch["callback_job_id"], schedule["last_job_id"]]
    expected = db.jobs["following"] + db.jobs["expired"] + db.jobs["due"]
    claimed = [job["id"] for job in await db.claim()]
    expect(set(claimed) >= set(expected), f"of {expected} only {claimed} were claimed")


async def claim_next_job(db: IsolationDatabase) -> None:
    """Claim and complete jobs one by one, through the functions that need no lease."""
    ordinary = [await db.enqueue(TYPE, {"priority": 5}) for _ in range(JOBS)]
    for _ in range(JOBS + len(db.bad["pending"])):
        job = await db.call("select to_jsonb(j) from claim_next_job($1) j", QUEUE)
        if job and job["id"] in ordinary:
            ordinary.remove(job["id"])
            status = await db.call("select complete_job($1::text::uuid, '{}')", job["id"])
            expect(status == "completed", f"{status}")
    expect(not ordinary, f"{ordinary} were not claimed")
    await db.call("select to_jsonb(j) from claim_next_job() j")


async def change_jobs(db: IsolationDatabase) -> None:
    await db.call("select change_jobs('cancel', $1)", {"tag": TAG})
    expect(await db.states(db.jobs["pending"]) == ["cancelled"] * JOBS, "not cancelled")
    await db.call("select change_jobs('retry', $1)", {"tag": TAG, "status": "cancelled"})
    expect(await db.states(db.jobs["pending"]) == ["pending"] * JOBS, "not retried")
    for job in db.jobs["pending"]:
        await db.call("select cancel_job($1::text::uuid)", job)
    await db.call("select change_jobs('discard', $1)", {"tag": TAG, "status": "cancelled"})
    expect(await db.states(db.jobs["pending"]) == [], "not discarded")


async def purge(db: IsolationDatabase) -> None:
    await db.call("select purge_queue($1)", QUEUE)
    expect(await db.states(db.jobs["pending"]) == ["cancelled"] * JOBS, "not cancelled")


async def send_event(db: IsolationDatabase) -> None:
    await db.call("select send_event($1, '{}')", EVENT)
    await db.maintain(1)
    claimed = [job["id"] for job in await db.claim(BAD_TYPE, TYPE)]
    expect(set(claimed) >= set(db.jobs["parked"]), f"the claim returned {claimed}")


async def read_lists(db: IsolationDatabase) -> None:
    status = await db.call("select queue_status()")
    expect(QUEUE in [queue["queue"] for queue in status["queues"]], f"{status}")
    listed = await db.call("select list_jobs($1)", {"queue": QUEUE, "job_type": TYPE})
    expect({job["id"] for job in listed} >= set(db.jobs["pending"]), f"{listed}")
    queues = {queue["name"]: queue for queue in await db.call("select list_queues()")}
    expect(queues[QUEUE]["jobs"]["pending"] >= JOBS, f"{queues}")
    for sql in ("queue_counts()", "list_limits()", "list_schedules()", "queue_doctor()"):
        await db.call(f"select {sql}")


FLOWS = (
    Flow("enqueue_jobs", enqueue, ("pending",)),
    Flow("enqueue_batch", enqueue_batch, ("pending",), maintains=True),
    Flow("claim_jobs", claim, ("pending",)),
    Flow("report_jobs", report, ("running", "pending")),
    Flow("report_jobs that fail", report_failures, ("running",), maintains=True),
    Flow("heartbeat_jobs", heartbeat, ("running",)),
    Flow("maintain_jobs", maintain, ("expired", "due"), arrange_followups, maintains=True),
    Flow("claim_next_job", claim_next_job, ("pending",)),
    Flow("change_jobs", change_jobs, ("pending",)),
    Flow("purge_queue", purge, ("pending",)),
    Flow("send_event", send_event, ("parked",), maintains=True),
    Flow("reads", read_lists, ("pending",)),
)


async def run(db: IsolationDatabase, disturbance: Disturbance, flow: Flow) -> None:
    """Create ordinary and bad jobs, run the flow, and check that the reason is reported."""

    async def create_ordinary(db: IsolationDatabase, fields: dict[str, Any]) -> str:
        return await db.enqueue(TYPE, fields)

    for state in flow.states:
        db.jobs[state] = await db.create_jobs(state, TYPE, create_ordinary, JOBS)
        db.bad[state] = await db.create_jobs(state, BAD_TYPE, disturbance.make, 1)
    if flow.arrange:
        await flow.arrange(db)
    await disturbance.apply(db)
    await db.pass_time(20)
    await flow.act(db)
    if not flow.maintains:
        await disturbance.check(db)
    await db.expect_new_jobs_complete()
    await disturbance.check_reason(db)

"""Flows: each makes a call that handles ordinary jobs and a bad job together."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from .kinds import Kind
from .world import BAD_TYPE, EVENT, JOBS, QUEUE, TAG, TYPE, WORKER, World, expect


@dataclass(frozen=True)
class Flow:
    """A call, and the checks of the ordinary jobs after it.

    Attributes:
        name: The call that is tested.
        act: A function that makes the call and checks the ordinary jobs.
        states: The states in which `run` creates ordinary jobs and a bad job.
        arrange: Creates more ordinary jobs, before `Kind.spoil` makes the bad jobs bad.
        maintains: True if `act` runs maintenance, which may do the follow-ups of many jobs.
    """

    name: str
    act: Callable[[World], Awaitable[None]]
    states: tuple[str, ...] = ()
    arrange: Callable[[World], Awaitable[None]] | None = None
    maintains: bool = False


async def enqueue(world: World) -> None:
    jobs = [{"job_type": TYPE, "queue": QUEUE}] * JOBS
    keyed = [{**job, "idempotency_key": str(n), "options": {"unique": {}}}
             for n, job in enumerate(jobs[:1])]  # fmt: skip
    for items in (jobs, keyed, [{**jobs[0], "scheduled_for": "2031-01-01T00:00:00Z"}]):
        answer = await world.call("select enqueue_jobs($1)", items)
        expect([item["outcome"] for item in answer] == ["created"] * len(items), f"{answer}")


async def enqueue_batch(world: World) -> None:
    batch, callback = str(uuid4()), {"job_type": "ordinary-callback", "queue": QUEUE}
    answer = await world.call(
        "select enqueue_batch($1, $2, $3::text::uuid)",
        [{"job_type": TYPE, "queue": QUEUE}] * JOBS, callback, batch,
    )  # fmt: skip
    members = [job["job_id"] for job in answer["jobs"]]
    await world.claim()
    await world.report(members)
    await world.maintain()
    found = await world.call("select get_batch($1::text::uuid)", batch)
    expect(found["completed"] == JOBS and found["callback_job_id"] is not None, f"{found}")


async def claim(world: World) -> None:
    request = str(uuid4())
    for attempt in ("first", "repeated"):
        jobs = await world.call(
            "select claim_jobs($1, $2, $3, 50, 3600, $4::text::uuid)",
            WORKER, [QUEUE], [BAD_TYPE, TYPE], request,
        )  # fmt: skip
        claimed = {job["id"] for job in jobs}
        expect(claimed >= set(world.jobs["pending"]), f"the {attempt} claim returned {claimed}")


async def report(world: World) -> None:
    items = [
        {**lease, "outcome": "completed", "result": {"n": n}}
        for n, lease in enumerate(world.leases(world.bad["running"] + world.jobs["running"]))
    ]
    claim = {"worker": WORKER, "queues": [QUEUE], "job_types": [TYPE], "max_jobs": 50}
    answer = await world.call("select report_jobs($1, $2)", items, claim)
    outcomes = {item["job_id"]: item["outcome"] for item in answer["outcomes"]}
    expect(all(outcomes[job] == "ok" for job in world.jobs["running"]), f"{outcomes}")
    expect(await world.states(world.jobs["running"]) == ["completed"] * JOBS, "not completed")
    claimed = {job["id"] for job in answer["jobs"]}
    expect(claimed >= set(world.jobs["pending"]), f"the claim returned {claimed}")


async def report_failures(world: World) -> None:
    """Report failures that are retried and that pause a limit key."""
    ids = world.bad["running"] + world.jobs["running"]
    outcome = {"outcome": "failed", "error": "no", "delay_seconds": 5, "pause_key": "nothing"}
    answer = await world.call(
        "select report_jobs($1)", [{**lease, **outcome} for lease in world.leases(ids)]
    )
    outcomes = {item["job_id"]: item["outcome"] for item in answer["outcomes"]}
    expect(all(outcomes[job] == "ok" for job in world.jobs["running"]), f"{outcomes}")
    await world.pass_time(6)
    await world.maintain(1)
    claimed = {job["id"] for job in await world.claim(BAD_TYPE, TYPE)}
    expect(claimed >= set(world.jobs["running"]), f"the claim returned {claimed}")


async def heartbeat(world: World) -> None:
    leases = world.leases(world.bad["running"] + world.jobs["running"])
    answer = await world.call("select heartbeat_jobs($1, $2)", WORKER, leases)
    expect(not set(world.jobs["running"]) & set(answer["lost"]), f"{answer}")
    extended = await world.owner.fetchval(
        "select count(*) from job_queue where id::text = any($1) "
        "and lease_expires_at = picture_queue._now() + make_interval(secs => lease_seconds)",
        world.jobs["running"],
    )
    expect(extended == JOBS, f"{extended} leases of {JOBS} were extended")


async def arrange_followups(world: World) -> None:
    """Create a schedule, a parent with a child, a batch and a limit key with a blocked job.

    When the jobs in ``world.jobs["ending"]`` end, the jobs in ``following`` must start.
    """
    job = {"job_type": TYPE, "queue": QUEUE}
    await world.call("select set_schedule('ordinary', $1)", {**job, "every_seconds": 10})
    await world.call("select set_limit('ordinary-key', 1)")
    parent = await world.enqueue(TYPE, {})
    first = await world.enqueue(TYPE, {"options": {"limit_keys": ["ordinary-key"]}})
    member, batch = str(uuid4()), str(uuid4())
    await world.call(
        "select enqueue_batch($1, $2, $3::text::uuid)", [{**job, "job_id": member}], job, batch
    )
    await world.claim()
    second = await world.enqueue(TYPE, {"options": {"limit_keys": ["ordinary-key"]}})
    child = await world.enqueue(TYPE, {"options": {"depends_on": [parent]}})
    await world.claim()
    world.jobs["ending"] = [parent, first, member]
    world.jobs["following"] = [second, child]
    world.saved["batch"] = batch


async def maintain(world: World) -> None:
    expect(await world.report(world.jobs["ending"]) == ["ok"] * 3, "a report was refused")
    await world.maintain()
    batch = await world.call("select get_batch($1::text::uuid)", world.saved["batch"])
    (schedule,) = [found for found in await world.call("select list_schedules()")
                   if found["name"] == "ordinary"]  # fmt: skip
    world.jobs["following"] += [batch["callback_job_id"], schedule["last_job_id"]]
    expected = world.jobs["following"] + world.jobs["expired"] + world.jobs["due"]
    claimed = [job["id"] for job in await world.claim()]
    expect(set(claimed) >= set(expected), f"of {expected} only {claimed} were claimed")


async def claim_next_job(world: World) -> None:
    """Claim and complete jobs one by one, through the functions that need no lease."""
    ordinary = [await world.enqueue(TYPE, {"priority": 5}) for _ in range(JOBS)]
    for _ in range(JOBS + len(world.bad["pending"])):
        job = await world.call("select to_jsonb(j) from claim_next_job($1) j", QUEUE)
        if job and job["id"] in ordinary:
            ordinary.remove(job["id"])
            status = await world.call("select complete_job($1::text::uuid, '{}')", job["id"])
            expect(status == "completed", f"{status}")
    expect(not ordinary, f"{ordinary} were not claimed")
    await world.call("select to_jsonb(j) from claim_next_job() j")


async def change_jobs(world: World) -> None:
    await world.call("select change_jobs('cancel', $1)", {"tag": TAG})
    expect(await world.states(world.jobs["pending"]) == ["cancelled"] * JOBS, "not cancelled")
    await world.call("select change_jobs('retry', $1)", {"tag": TAG, "status": "cancelled"})
    expect(await world.states(world.jobs["pending"]) == ["pending"] * JOBS, "not retried")
    for job in world.jobs["pending"]:
        await world.call("select cancel_job($1::text::uuid)", job)
    await world.call("select change_jobs('discard', $1)", {"tag": TAG, "status": "cancelled"})
    expect(await world.states(world.jobs["pending"]) == [], "not discarded")


async def purge(world: World) -> None:
    await world.call("select purge_queue($1)", QUEUE)
    expect(await world.states(world.jobs["pending"]) == ["cancelled"] * JOBS, "not cancelled")


async def send_event(world: World) -> None:
    await world.call("select send_event($1, '{}')", EVENT)
    await world.maintain(1)
    claimed = [job["id"] for job in await world.claim(BAD_TYPE, TYPE)]
    expect(set(claimed) >= set(world.jobs["parked"]), f"the claim returned {claimed}")


async def read_lists(world: World) -> None:
    status = await world.call("select queue_status()")
    expect(QUEUE in [queue["queue"] for queue in status["queues"]], f"{status}")
    listed = await world.call("select list_jobs($1)", {"queue": QUEUE, "job_type": TYPE})
    expect({job["id"] for job in listed} >= set(world.jobs["pending"]), f"{listed}")
    queues = {queue["name"]: queue for queue in await world.call("select list_queues()")}
    expect(queues[QUEUE]["jobs"]["pending"] >= JOBS, f"{queues}")
    for sql in ("queue_counts()", "list_limits()", "list_schedules()", "queue_doctor()"):
        await world.call(f"select {sql}")


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


async def run(world: World, kind: Kind, flow: Flow) -> None:
    """Create ordinary and bad jobs, run the flow, and check that the reason is reported."""

    async def create_ordinary(world: World, given: dict[str, Any]) -> str:
        return await world.enqueue(TYPE, given)

    for state in flow.states:
        world.jobs[state] = await world.create_jobs(state, TYPE, create_ordinary, JOBS)
        world.bad[state] = await world.create_jobs(state, BAD_TYPE, kind.make, 1)
    if flow.arrange:
        await flow.arrange(world)
    await kind.spoil(world)
    await world.pass_time(20)
    await flow.act(world)
    if not flow.maintains:
        await kind.check(world)
    await world.expect_new_jobs_complete()
    await kind.check_reason(world)

"""The bad jobs, locks and settings that must not affect ordinary jobs."""

import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from . import internals
from .database import (
    BAD_CHILD,
    BAD_TYPE,
    JOBS,
    QUEUE,
    TYPE,
    WORKER,
    IsolationDatabase,
    RefusedCall,
    expect,
)

LONG = os.environ.get("PICTURE_QUEUE_TEST_PROFILE") == "long"
DEPENDENTS = 100_000 if LONG else 5_000
MAX_DEPENDENTS = 500  # The most dependents that a call other than maintenance may resolve.
UNKNOWN_JOBS = 100_000 if LONG else 1_000

Step = Callable[[IsolationDatabase], Awaitable[Any]]


async def do_nothing(db: IsolationDatabase) -> None:
    """Do nothing. The flows must also pass without a bad job."""


async def make_job(db: IsolationDatabase, fields: dict[str, Any]) -> str:
    return await db.enqueue(BAD_TYPE, fields)


@dataclass(frozen=True)
class Disturbance:
    """A bad job, a lock or a setting that must not affect ordinary jobs.

    Attributes:
        name: The name in the ids of the tests.
        apply: A function that makes the created jobs bad, takes the lock, or changes the setting.
        check_reason: Checks that the doctor, a failed step or the history names the cause.
        make: Enqueues a job that `apply` makes bad.
        check: Checks further conditions right after a call other than maintenance.
    """

    name: str
    apply: Step
    check_reason: Step
    make: Callable[[IsolationDatabase, dict[str, Any]], Awaitable[str]] = make_job
    check: Step = do_nothing


# Batches -----------------------------------------------------------------------------------------


async def make_job_in_batch(db: IsolationDatabase, fields: dict[str, Any]) -> str:
    batch, callback = str(uuid4()), {"job_type": "bad-callback", "queue": QUEUE}
    answer = await db.owner.fetchval(
        "select enqueue_batch($1, $2, $3::text::uuid)",
        [{"job_type": BAD_TYPE, "queue": QUEUE, **fields}], callback, batch,
    )  # fmt: skip
    db.saved.setdefault("batches", []).append(batch)
    return answer["jobs"][0]["job_id"]


def corrupt_callback(**changes: Any) -> Step:
    async def apply(db: IsolationDatabase) -> None:
        await internals.corrupt_callbacks(
            db.owner, db.saved["batches"], {"job_type": "bad-callback", **changes}
        )

    return apply


async def corrupt_callback_policy(db: IsolationDatabase) -> None:
    await internals.corrupt_policy(db.owner, "bad-policy")
    await internals.corrupt_callbacks(db.owner, db.saved["batches"], {"job_type": "bad-policy"})


async def check_batches(db: IsolationDatabase) -> None:
    """Check that the batch of a refused callback records the reason."""
    await db.run_bad_jobs()
    for batch in db.saved["batches"]:
        found = await db.call("select get_batch($1::text::uuid)", batch)
        ended = found["open"] == 0
        expect(ended and found["callback_error"] and not found["callback_job_id"], f"{found}")


async def check_batch_counts(db: IsolationDatabase) -> None:
    """Check that the batch is counted after the lock is released."""
    await db.saved["lock"].execute("rollback")
    await db.pass_time(1)  # Maintenance retries locked rows only after a delay.
    await db.run_bad_jobs()
    for batch in db.saved["batches"]:
        found = await db.call("select get_batch($1::text::uuid)", batch)
        expect(found["open"] == 0 and found["callback_job_id"], f"{found}")


# Dependents --------------------------------------------------------------------------------------


def make_parent(children: int) -> Callable[[IsolationDatabase, dict[str, Any]], Awaitable[str]]:
    async def make(db: IsolationDatabase, fields: dict[str, Any]) -> str:
        parent = await db.enqueue(BAD_TYPE, fields)
        child = {"job_type": BAD_CHILD, "queue": QUEUE, "options": {"depends_on": [parent]}}
        for start in range(0, children, 10_000):
            items = [child] * min(10_000, children - start)
            await db.owner.fetchval("select enqueue_jobs($1)", items)
        return parent

    return make


async def count_children(db: IsolationDatabase, condition: str = "true") -> int:
    return await db.owner.fetchval(
        f"select count(*) from job_queue where job_type = '{BAD_CHILD}' and {condition}"
    )


async def check_few_changed(db: IsolationDatabase) -> None:
    """Check that a call changes only a few dependents itself, however many there are.

    A purge also cancels dependents, because they are pending jobs of the queue.
    """
    children = await count_children(db)
    changed = children - await count_children(
        db, "(hold = 'waiting' or error = 'The queue was purged.')"
    )
    expect(changed <= MAX_DEPENDENTS, f"{changed} dependents were changed by one call")


async def check_children(db: IsolationDatabase) -> None:
    """Check that rounds of maintenance resolve all dependents, and that cancels have a reason."""
    await db.run_bad_jobs()
    for _ in range(DEPENDENTS // 200):
        if not await count_children(db, "hold = 'waiting'"):
            break
        await db.maintain(1)
    expect(not await count_children(db, "hold = 'waiting'"), "children still wait")
    expect(
        not await count_children(db, "status = 'cancelled' and error is null"), "no error is set"
    )


# Values that the validator would refuse ----------------------------------------------------------

HUGE = "jsonb_build_object('text', repeat('x', 8000000))"
UNREADABLE = "jsonb_build_object('n', ('1' || repeat('0', 5000))::numeric)"


def corrupt_payloads(payload: str) -> Step:
    async def apply(db: IsolationDatabase) -> None:
        await internals.corrupt_payloads(db.owner, BAD_TYPE, payload)

    return apply


def check_validator(payload: str, *words: str) -> Step:
    """Return a step that checks the error of an enqueue of a valid and an invalid job."""

    async def check(db: IsolationDatabase) -> None:
        await db.run_bad_jobs()
        try:
            await db.try_call(
                f"""select enqueue_jobs(jsonb_build_array('{{"job_type": "{TYPE}"}}'::jsonb,
                jsonb_build_object('job_type', '{BAD_TYPE}', 'payload', {payload})))"""
            )
        except RefusedCall as refused:
            expect(all(word in refused.text for word in words), refused.text)
        else:
            expect(False, "the enqueue was accepted")

    return check


async def corrupt_policy(db: IsolationDatabase) -> None:
    await internals.corrupt_policy(db.owner, "bad-policy")


async def check_policy(db: IsolationDatabase) -> None:
    """Check that the error of an enqueue names the queue in the policy of the job type."""
    try:
        await db.try_call("select enqueue_job('bad-policy')")
    except RefusedCall as refused:
        expect(internals.BAD_QUEUE_NAME in refused.text, refused.text)
    else:
        expect(False, "the enqueue was accepted")


# Jobs that no worker can run ---------------------------------------------------------------------


async def enqueue_unknown_jobs(db: IsolationDatabase) -> None:
    item = {"job_type": "unknown-job", "queue": QUEUE, "priority": 4}
    for _ in range(UNKNOWN_JOBS // 1000):
        await db.owner.fetchval("select enqueue_jobs($1)", [item] * 1000)


async def check_status(db: IsolationDatabase) -> None:
    """Check that the status names job types without a worker."""
    await db.enqueue("unknown-job", {})
    found = (await db.call("select queue_status()"))["job_types_without_worker"]
    expect("unknown-job" in [entry["job_type"] for entry in found], f"{found}")


async def share_key_with_paused_queue(db: IsolationDatabase) -> None:
    """Make jobs of a paused queue, and ordinary jobs after them, wait for the same limit key."""
    for queue in ("paused", "beside"):
        await db.owner.fetchval("select set_queue($1)", queue)
    await db.owner.fetchval("select set_limit('shared-key', $1)", JOBS)
    keyed = {"options": {"limit_keys": ["shared-key"]}}
    claim = "select claim_jobs($1, '{paused,beside}', '{keyed-job}', 50)", WORKER
    for _ in range(JOBS):
        await db.enqueue("keyed-job", {**keyed, "queue": "paused"})
    running = await db.owner.fetchval(*claim)
    for _ in range(19):
        await db.enqueue("keyed-job", {**keyed, "queue": "paused"})
    db.extra_jobs = [await db.enqueue("keyed-job", {**keyed, "queue": "beside"})
                        for _ in range(JOBS)]  # fmt: skip
    expect(await db.owner.fetchval(*claim) == [], "the key is full")
    db.queues.append("beside")
    db.types.append("keyed-job")
    await db.owner.fetchval("select pause_queue('paused', reason => 'inspection')")
    items = [{**db.lease(job), "outcome": "completed"} for job in running]
    await db.owner.fetchval("select report_jobs($1)", items)


async def check_queue(db: IsolationDatabase) -> None:
    """Check that the list of queues names the paused queue and the reason."""
    queues = {queue["name"]: queue for queue in await db.call("select list_queues()")}
    expect(queues["paused"]["pause_reason"] == "inspection", f"{queues}")


# Schedules ---------------------------------------------------------------------------------------


async def set_bad_schedule(db: IsolationDatabase) -> None:
    job = {"job_type": BAD_TYPE, "queue": QUEUE, "every_seconds": 10}
    await db.owner.fetchval("select set_schedule('bad', $1)", job)


async def corrupt_schedule(db: IsolationDatabase) -> None:
    await set_bad_schedule(db)
    await internals.corrupt_schedule(db.owner, "bad")


async def check_schedule(db: IsolationDatabase) -> None:
    """Check that a schedule whose job is refused records the reason."""
    await db.maintain()
    schedules = await db.call("select list_schedules()")
    (bad,) = [schedule for schedule in schedules if schedule["name"] == "bad"]
    expect("nobody" in (bad["last_error"] or ""), f"{bad}")


# Triggers of the user ----------------------------------------------------------------------------

REFUSAL = "a trigger of the user refuses the change"


def add_trigger(event: str, condition: str, table: str = "public.job_queue") -> Step:
    """Return a step that creates a trigger which raises an error."""

    async def add(db: IsolationDatabase) -> None:
        await db.owner.execute(
            f"""create function public.refuse_row() returns trigger language plpgsql
            as $$ begin raise exception '{REFUSAL}'; end $$;
            create trigger refuse before {event} on {table} for each row when ({condition})
            execute function public.refuse_row()"""
        )

    return add


async def make_generation(db: IsolationDatabase, fields: dict[str, Any]) -> str:
    job = str(uuid4())
    generation = await internals.insert_generation(db.owner, job, "bad")
    return await db.enqueue(BAD_TYPE, {**fields, "job_id": job, "generation_id": generation})


def check_trigger(
    make: Callable[[IsolationDatabase, dict[str, Any]], Awaitable[str]] = make_job,
) -> Step:
    """Return a step that checks that the trigger's message is in the job or in failed_step."""

    async def check(db: IsolationDatabase) -> None:
        # Jobs that were created earlier may have ended in a way that does not fire the trigger.
        db.bad["new"] = [await make(db, {"options": {}})]
        await db.run_bad_jobs()
        await db.expect_reason(REFUSAL)

    return check


# Open transactions -------------------------------------------------------------------------------


async def check_holder(db: IsolationDatabase) -> None:
    """Check that the doctor names a session that holds a transaction open for over a minute."""
    await db.pass_time(120)
    await db.expect_reason(f"session {db.saved['holder']} ")


def leave_open(sql: str) -> Step:
    """Return a step that runs a statement in a transaction and leaves it open."""

    async def apply(db: IsolationDatabase) -> None:
        db.saved["lock"] = await db.open_transaction(sql)

    return apply


async def lock_jobs(db: IsolationDatabase) -> None:
    await db.open_transaction(f"select from job_queue where job_type = '{BAD_TYPE}' for update")


async def make_job_with_key(db: IsolationDatabase, fields: dict[str, Any]) -> str:
    await db.owner.fetchval("select set_limit('bad-key', 10)")
    options = {**fields["options"], "limit_keys": ["bad-key"]}
    return await db.enqueue(BAD_TYPE, {**fields, "options": options})


async def lock_batches(db: IsolationDatabase) -> None:
    db.saved["lock"] = connection = await db.open_transaction("select 1")
    await internals.lock_rows(connection, "batch", "id::text = any($1)", db.saved["batches"])


def lock_rows(table: str, where: str, prepare: Step = do_nothing) -> Step:
    """Return a step that locks rows of a table until the end of the test."""

    async def apply(db: IsolationDatabase) -> None:
        await prepare(db)
        connection = await db.open_transaction("select 1")
        expect(
            await internals.lock_rows(connection, table, where) > 0,
            f"nothing to lock in {table}",
        )

    return apply


async def lock_key(db: IsolationDatabase) -> None:
    connection = await db.open_transaction("select 1")
    expect(await internals.lock_key(connection, "bad-key") > 0, "nothing to lock")


async def set_breaker(db: IsolationDatabase) -> None:
    await db.owner.fetchval("select set_queue($1, $2)", QUEUE, {"breaker_failures": 3})


async def register_worker(db: IsolationDatabase) -> None:
    types = {TYPE: {}, BAD_TYPE: {}}
    await db.owner.fetchval("select register_worker($1, $2, $3)", WORKER, [QUEUE], types)


async def work_in_one_transaction(db: IsolationDatabase) -> None:
    """Leave open a transaction that claims a job and would run it before the commit."""
    await db.enqueue(BAD_TYPE, {"priority": 9})
    await db.open_transaction("select * from claim_next_job($1)", QUEUE)


def leave_call_uncommitted(sql: str) -> Step:
    """Return a step that makes an operator's call without a commit."""

    async def apply(db: IsolationDatabase) -> None:
        await db.owner.fetchval("select set_limit('old-key', 5)")
        await set_bad_schedule(db)
        db.saved["sql"] = f"select {sql}"
        await db.open_transaction(db.saved["sql"])

    return apply


async def check_operator(db: IsolationDatabase) -> None:
    """Check that the call of a second operator returns, or raises PQ_BUSY."""
    try:
        await db.try_call(db.saved["sql"])
    except RefusedCall as refused:
        expect(refused.code == "PQ_BUSY", refused.text)
    await check_holder(db)


OPERATOR_CALLS = (
    f"set_limit('queue:{QUEUE}', 1000)",
    f"set_limit('type:{TYPE}', 1000)",
    "delete_limit('old-key')",
    f"pause_key('type:{TYPE}')",
    "resume_key('old-key')",
    f"pause_queue('{QUEUE}')",
    f"""set_queue('{QUEUE}', '{{"breaker_failures": 3}}')""",
    f"drain_queue('{QUEUE}')",
    """set_setting('{"max_attempts": 4}')""",
    "set_tenant('large', 3)",
    "pause_schedule('bad')",
    f"""change_jobs('cancel', '{{"job_type": "{BAD_TYPE}"}}')""",
)

DISTURBANCES = (
    Disturbance("nothing bad", do_nothing, do_nothing),
    Disturbance(
        "callback with an unreadable value",
        corrupt_callback(user_id="x"),
        check_batches,
        make_job_in_batch,
    ),
    Disturbance(
        "callback with an unknown field",
        corrupt_callback(colour=1),
        check_batches,
        make_job_in_batch,
    ),
    Disturbance(
        "callback whose policy is invalid",
        corrupt_callback_policy,
        check_batches,
        make_job_in_batch,
    ),
    Disturbance(
        "callback refused by a trigger",
        add_trigger("insert", "new.job_type = 'bad-callback'"),
        check_batches,
        make_job_in_batch,
    ),
    Disturbance(
        "many dependents", do_nothing, check_children, make_parent(DEPENDENTS), check_few_changed
    ),
    Disturbance("huge payload", corrupt_payloads(HUGE), check_validator(HUGE, "PQ_TOO_LARGE")),
    Disturbance(
        "unreadable number",
        corrupt_payloads(UNREADABLE),
        check_validator(UNREADABLE, "PQ_", "jobs[1]", "payload"),
    ),
    Disturbance("policy with a bad queue name", corrupt_policy, check_policy),
    Disturbance("unknown job types at the head", enqueue_unknown_jobs, check_status),
    Disturbance("paused queue that shares a limit key", share_key_with_paused_queue, check_queue),
    Disturbance("failing schedule", corrupt_schedule, check_schedule),
    Disturbance(
        "trigger on any update",
        add_trigger("update", f"old.job_type = '{BAD_TYPE}'"),
        check_trigger(),
    ),
    Disturbance(
        "trigger on the start",
        add_trigger(
            "update",
            f"old.job_type = '{BAD_TYPE}' and old.status = 'pending' and new.status = 'processing'",
        ),
        check_trigger(),
    ),
    Disturbance(
        "trigger on the completion",
        add_trigger("update", f"old.job_type = '{BAD_TYPE}' and new.status = 'completed'"),
        check_trigger(),
    ),
    Disturbance(
        "trigger on a waiting child",
        add_trigger("update", f"old.job_type = '{BAD_CHILD}'"),
        check_trigger(make_parent(1)),
        make_parent(1),
    ),
    Disturbance(
        "trigger on a generation",
        add_trigger("update", "old.prompt = 'bad'", "public.generations"),
        check_trigger(make_generation),
        make_generation,
    ),
    Disturbance("held lock on a job", lock_jobs, check_holder),
    Disturbance("held lock on a batch", lock_batches, check_batch_counts, make_job_in_batch),
    Disturbance(
        "held lock on a queue", lock_rows("queue", f"name = '{QUEUE}'", set_breaker), check_holder
    ),
    Disturbance("held lock on a limit key", lock_key, check_holder, make_job_with_key),
    Disturbance(
        "held lock on a worker",
        lock_rows("worker", f"name = '{WORKER}'", register_worker),
        check_holder,
    ),
    Disturbance(
        "held lock on a schedule",
        lock_rows("schedule", "name = 'bad'", set_bad_schedule),
        check_holder,
    ),
    Disturbance("held snapshot", leave_open("select count(*) from job_queue"), check_holder),
    Disturbance("worker stopped in its transaction", work_in_one_transaction, check_holder),
    *[
        Disturbance(f"uncommitted {sql.split('(')[0]}", leave_call_uncommitted(sql), check_operator)
        for sql in OPERATOR_CALLS
    ],
)

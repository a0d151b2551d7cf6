"""The kinds of bad jobs that run together with ordinary jobs."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import asyncpg

from . import misbehaviour
from .harness import CONCURRENCY, Harness, expect

REASON = misbehaviour.REASON

#: A function that takes the row of a bad job and returns whether the row is as expected.
RowPredicate = Callable[["asyncpg.Record"], bool]
#: A coroutine function that takes the ids of the bad jobs.
Step = Callable[[Harness, Sequence[UUID]], Awaitable[None]]


async def do_nothing(harness: Harness, job_ids: Sequence[UUID]) -> None:
    """Do nothing."""


def has_failed(row: "asyncpg.Record") -> bool:
    return row["status"] == "failed"


def is_scheduled(row: "asyncpg.Record") -> bool:
    return (row["status"], row["hold"]) == ("pending", "scheduled")


def has_ended(row: "asyncpg.Record") -> bool:
    return row["status"] in ("completed", "failed")


def is_running(row: "asyncpg.Record") -> bool:
    return row["status"] == "processing"


def is_pending(row: "asyncpg.Record") -> bool:
    return row["status"] == "pending"


@dataclass(frozen=True)
class BadJob:
    """A kind of bad job, of which a test enqueues several.

    Attributes:
        name: The name of the kind.
        job: The job to enqueue.
        count: The number of bad jobs. By default there is one for each slot, so that no ordinary
            job could run if the bad jobs never freed their slots.
        is_expected: A function that returns True if the row of a bad job has the state that the job
            must reach while ordinary jobs run.
        pattern: A regular expression that must match the row, the history or a log line of the job.
        spoil: A step that makes the enqueued jobs bad before they may start.
        check_report: A step that checks that the reason is reported, in addition to `pattern`.
        settings: Settings of the worker. With settings, the worker runs no other kind of bad job.
        checks_stop: True if the test stops the worker before it checks the reason, and checks that
            the worker ends. This worker runs no other kind of bad job.
    """

    name: str
    job: dict[str, Any] = field(default_factory=dict)
    count: int = CONCURRENCY
    is_expected: RowPredicate = has_failed
    pattern: str = ""
    spoil: Step = do_nothing
    check_report: Step = do_nothing
    settings: dict[str, Any] = field(default_factory=dict)
    checks_stop: bool = False

    @property
    def needs_separate_worker(self) -> bool:
        """True if its worker must not run other kinds of bad jobs."""
        return self.checks_stop or bool(self.settings)


def make_job(
    misbehaviour: str, job_type: str = "bad", after: float = 0.05, **options: Any
) -> dict[str, Any]:
    """Return a job whose handler waits `after` seconds and then misbehaves.

    The module `misbehaviour` has the names of the misbehaviours.
    """
    payload = {"misbehaviour": misbehaviour, "after": after}
    return {"job_type": job_type, "payload": payload, "max_attempts": 1, **options}


# Handlers ----------------------------------------------------------------------------------------

#: Jobs of these kinds use much memory, so a test enqueues a single one.
HUGE = ("result of 100 MB", "raises 10 MB of text")
#: The text of these exceptions cannot be read, so the report has the class of the error instead.
TEXT_FAILURES = {
    "__str__ raises": "UnreadableText",
    "recurses without end": "RecursionError",
}

HANDLERS = (
    *(
        BadJob(f"{name}{where}", make_job(name, job_type), pattern=TEXT_FAILURES.get(name, REASON),
             count=1 if name in HUGE else CONCURRENCY)
        for name in misbehaviour.RAISES
        for where, job_type in (("", "bad"), (" in a thread", "bad-thread"))
    ),
    # With a second attempt, a job that snoozes or fails waits for its next start. A snooze has no
    # text to report, but the exception has one.
    *(BadJob(name, make_job(name, max_attempts=2), is_expected=is_scheduled,
           pattern=REASON if "epoch" in name else "") for name in misbehaviour.WAITS),
)  # fmt: skip

DISTURB_OTHERS = (
    BadJob("cancels tasks of other jobs",
           make_job("cancels tasks of other jobs", after=0), is_expected=has_ended),
    BadJob("waits for tasks of other jobs",
           make_job("waits for tasks of other jobs", timeout=0.1, after=0),
           pattern="did not end within"),
    BadJob("leaves callbacks that raise",
           make_job("leaves callbacks that raise"), is_expected=has_ended),
    BadJob("returns in two processes after a fork",
           make_job("returns in two processes after a fork"), count=1, is_expected=has_ended),
)  # fmt: skip

STUCK = (
    BadJob("ignores cancellation",
           make_job("ignores cancellation", timeout=0.3), count=1, is_expected=is_running,
           pattern="has not stopped|still runs|did not end", checks_stop=True),
    BadJob("ignores cancellation when the worker stops", make_job("ignores cancellation"),
           count=1, is_expected=is_running,
           pattern="has not stopped|still runs|not end|released|gave the job to another worker",
           checks_stop=True),
    BadJob("leaves a task that ignores cancellation",
           make_job("leaves a task that ignores cancellation"),
           is_expected=has_ended, checks_stop=True),
    BadJob("waits in a thread of asyncio forever",
           make_job("waits in a thread of asyncio forever", timeout=0.3), count=1,
           pattern="did not end within", checks_stop=True),
    BadJob("never ends in its thread",
           make_job(misbehaviour.NEVER_ENDS, "bad-thread", timeout=0.3), count=1,
           pattern="did not end within", checks_stop=True),
)  # fmt: skip


# Results -----------------------------------------------------------------------------------------

# These results have no equivalent in JSON, so a job may complete with null or a text, or fail.
CAN_COMPLETE = (
    "result NaN",
    "result with infinity",
    "result with a decimal beyond floats",
    "result that is a generator",
)
RESULTS = tuple(
    BadJob(name, make_job(name), count=1 if name in HUGE else CONCURRENCY,
           is_expected=has_ended if name in CAN_COMPLETE else has_failed,
           pattern="" if name in CAN_COMPLETE else "[Rr]esult|JSON|large|coroutine")
    for name in misbehaviour.RESULTS
)  # fmt: skip


# Rows --------------------------------------------------------------------------------------------


def spoil_payload(sql: str) -> Step:
    """Return a step that writes a payload into the rows, without the checks of `enqueue_jobs`."""

    async def spoil(harness: Harness, job_ids: Sequence[UUID]) -> None:
        await harness.db.execute(
            f"update job_queue set payload = {sql} where id = any($1)", job_ids
        )

    return spoil


ROWS = (
    BadJob("number of 5,000 digits in the payload", make_job(misbehaviour.HARMLESS), count=2,
           spoil=spoil_payload("jsonb_build_object('n', ('1' || repeat('0', 5000))::numeric)"),
           pattern="(?i)payload|digits|number|read"),
    BadJob("payload nested 3,000 times", make_job(misbehaviour.HARMLESS), count=2,
           spoil=spoil_payload("""(repeat('{"a":', 3000) || '1' || repeat('}', 3000))::jsonb"""),
           pattern="(?i)payload|nest|depth|recursion|deep|read"),
    BadJob("payload that is not an object", make_job(misbehaviour.HARMLESS), count=2,
           spoil=spoil_payload("'[1]'"), pattern="(?i)payload|object|list"),
    BadJob("payload without the field that the handler reads", make_job(misbehaviour.HARMLESS),
           spoil=spoil_payload("'{}'"), pattern="misbehaviour"),
)  # fmt: skip


# Environment -------------------------------------------------------------------------------------

REFUSAL = "a trigger of the user refuses it"


def add_trigger(condition: str) -> Step:
    """Return a step that adds a trigger that refuses some updates, as a user's own trigger may."""

    async def spoil(harness: Harness, job_ids: Sequence[UUID]) -> None:
        name = f"refuse_{harness.queue.replace('-', '_')}"
        await harness.db.execute(
            f"""create or replace function public.{name}() returns trigger language plpgsql
            as $$ begin raise exception '{REFUSAL}'; end $$;
            create or replace trigger {name} before update on public.job_queue for each row
            when (old.queue = '{harness.queue}' and old.job_type = 'bad' and {condition})
            execute function public.{name}()"""
        )

    return spoil


async def check_trigger_error(harness: Harness, job_ids: Sequence[UUID]) -> None:
    """Check that the doctor, a history or the log has the trigger's error; drop the trigger."""
    texts = str(await harness.db.fetchval("select queue_doctor()"))
    name = f"refuse_{harness.queue.replace('-', '_')}"
    await harness.db.execute(f"drop function public.{name}() cascade")
    texts += "".join([await harness.read_history(job) for job in job_ids]) + harness.worker.log
    expect(REFUSAL in texts, f"{REFUSAL!r} is not reported: {texts[-3000:]}")


PAUSED_KEY = "isolation-paused"


async def pause_key(harness: Harness, job_ids: Sequence[UUID]) -> None:
    await harness.service.limits.pause(PAUSED_KEY)


async def check_explanation(harness: Harness, job_ids: Sequence[UUID]) -> None:
    """Check that `explain` gives the reason why each job does not start."""
    for explanation in await harness.service.jobs.explain(job_ids):
        expect(explanation.reason in ("key_paused", "limit", "no_worker"), f"{explanation}")


# Triggers, limits, handlers and timeouts of the user that keep a job from running or completing.
ENVIRONMENT = (
    BadJob("trigger that refuses completions", make_job(misbehaviour.HARMLESS),
           count=2, is_expected=lambda row: row["status"] in ("processing", "failed"),
           spoil=add_trigger("new.status = 'completed'"),
           check_report=check_trigger_error, settings={"lease": 30}),
    BadJob("trigger that refuses starts", make_job(misbehaviour.HARMLESS),
           count=2, is_expected=is_pending,
           spoil=add_trigger("new.status = 'processing'"),
           check_report=check_trigger_error, settings={"lease": 30}),
    BadJob("paused limit key", make_job(misbehaviour.HARMLESS, limit_keys=[PAUSED_KEY]),
           is_expected=is_pending, spoil=pause_key, check_report=check_explanation),
    BadJob("job type without a handler", {"job_type": "unknown-to-all"}, is_expected=is_pending,
           check_report=check_explanation),
    BadJob("timeout of a millisecond",
           make_job("ignores cancellation", timeout=0.001), pattern="did not end"),
)  # fmt: skip

"""Options of calls: those of a new job, the policy of a queue, a filter of jobs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Required, TypedDict, get_args
from uuid import UUID

from pydantic import JsonValue

from picture_queue.errors import InvalidArgument
from picture_queue.records import Hold

BackoffPolicy = Literal["constant", "linear", "exponential"]


@dataclass(frozen=True, slots=True)
class Backoff:
    """The pauses of a job between its attempts.

    What is None is looked for in the job's type, then its queue, then the project's settings.

    Args:
        policy: The pause stays the same, grows by its first length, or doubles each time.
        base: The first pause, seconds.
        cap: The longest pause, seconds.
        jitter: Random part of a pause, both ways, 0 to 1.

    Raises:
        InvalidArgument: A part is invalid; the error names it and its value.
    """

    policy: BackoffPolicy | None = None
    base: float | None = None
    cap: float | None = None
    jitter: float | None = None

    def __post_init__(self) -> None:
        if self.policy is not None and self.policy not in get_args(BackoffPolicy):
            raise InvalidArgument(
                f"The backoff's policy is {self.policy!r}",
                hint=f"Choose {', '.join(get_args(BackoffPolicy))}",
            )
        year = 31_536_000.0
        for name, low, high in (("base", 0.001, year), ("cap", 0.001, year), ("jitter", 0.0, 1.0)):
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise InvalidArgument(
                    f"The backoff's {name} is {value}", hint=f"Choose {low:g} to {high:g}"
                )


@dataclass(frozen=True, slots=True)
class Unique:
    """A rule by which a new job counts as the same as one that exists already.

    Args:
        by: The names in the payload that count; None: the whole payload. Job type and owner always
            count.
        period: How long after its enqueue a job is in the way of others, seconds; None: as long as
            it is in one of the states.
        states: The states in which a job is in the way of others; pending and processing by
            default, pending always.
        on_conflict: ``ignore`` leaves the job that is there; ``replace`` gives it everything the
            new one has, unless it runs; ``debounce`` gives it the newest payload and time.
    """

    by: Sequence[str] | None = None
    period: float | None = None
    states: Sequence[str] | None = None
    on_conflict: Literal["ignore", "replace", "debounce"] = "ignore"


class JobOptions(TypedDict, total=False):
    """The options of a job, beside its type and payload.

    Attributes:
        priority: Higher runs first; 0 by default.
        queue: Which queue; the job type's, then ``default``.
        scheduled_for: Not before this time; without a zone it is local time.
        delay: Not before so many seconds, instead of ``scheduled_for``.
        max_attempts: Attempts before it fails; the job type's, the queue's, then 3.
        timeout: Longest run of one attempt, seconds.
        expires_at: Not to be started after this time: then it fails.
        expires_in: The same, in seconds from now.
        backoff: How long it waits after a failed attempt.
        tags: Words to find it by, 20 at most, of 64 characters at most.
        metadata: A JSON object that comes with it, for your own use.
        tenant: On whose account it runs in a queue that shares fairly; ``user_id`` by default.
        limit_keys: Keys it runs under, such as ``model:flux``, beside its queue, type and owner; 8
            at most.
        depends_on: Jobs that have to finish first: they exist, or stand before it in the same call.
        on_parent_failure: What becomes of it when one of those fails or is cancelled: ``cancel``
            (the default), ``fail`` or ``run``.
        batch_id: The batch it belongs to.
        unique: When it counts as the same as one that is there.
        user_id: Whose it is: that user may read, watch and cancel it.
        idempotency_key: With the same key, type and owner the first job is returned.
        job_id: Its id, made by you; repeating the call returns the job that is there.
    """

    priority: int
    queue: str | None
    scheduled_for: datetime | None
    delay: float | None
    max_attempts: int | None
    timeout: float | None
    expires_at: datetime | None
    expires_in: float | None
    backoff: Backoff | None
    tags: Sequence[str] | None
    metadata: Mapping[str, JsonValue] | None
    tenant: str | None
    limit_keys: Sequence[str] | None
    depends_on: Sequence[UUID | str] | None
    on_parent_failure: Literal["cancel", "fail", "run"] | None
    batch_id: UUID | str | None
    unique: Unique | None
    user_id: UUID | str | None
    idempotency_key: str | None
    job_id: UUID | str | None


class NewJob(JobOptions, total=False):
    """A job for `enqueue_many`, a batch or its callback: type, payload and `JobOptions`."""

    job_type: Required[str]
    payload: Mapping[str, JsonValue] | None


class QueueChanges(TypedDict, total=False):
    """The policy of a queue; None stands for the project's default.

    Attributes:
        events: What is announced over Realtime: ``none``, ``status``, or ``progress`` as well.
        max_attempts: Attempts before a job fails.
        timeout_seconds: Longest run of one attempt.
        lease_seconds: How long a job stays with a worker that is not heard of.
        backoff_policy: ``constant``, ``linear`` or ``exponential``.
        backoff_seconds: Wait after the first failed attempt.
        backoff_cap_seconds: Longest such wait.
        backoff_jitter: Part of the wait, 0 to 1, by which it differs at random.
        fair_share: Whether tenants take turns within a priority.
        aging_seconds: How much waiting one point of priority is worth; None: priority is strict.
        breaker_failures: Failures of one kind in a row that pause the queue; None: never.
        breaker_seconds: For how long.
        draining: Whether the queue takes no new jobs.
    """

    events: Literal["none", "status", "progress"] | None
    max_attempts: int | None
    timeout_seconds: float | None
    lease_seconds: float | None
    backoff_policy: BackoffPolicy | None
    backoff_seconds: float | None
    backoff_cap_seconds: float | None
    backoff_jitter: float | None
    fair_share: bool | None
    aging_seconds: float | None
    breaker_failures: int | None
    breaker_seconds: float | None
    draining: bool | None


class JobFilter(TypedDict, total=False):
    """A filter of jobs; all its conditions must hold.

    Attributes:
        job_ids: One of these, 10,000 at most.
        queue: In this queue.
        status: In this state.
        hold: Held for this reason.
        job_type: Of this type.
        tag: With this tag.
        user_id: Of this user.
        tenant: On this account.
        batch_id: In this batch.
        error: The error contains this text, in upper or lower case.
        reason: Failed for this reason, as `failure_reasons` groups them.
        metadata: The metadata contains this object.
        created_before: Enqueued before.
        created_after: Enqueued after.
        finished_before: Finished before.
        finished_after: Finished after.
    """

    job_ids: Sequence[UUID | str] | None
    queue: str | None
    status: str | None
    hold: Hold | None
    job_type: str | None
    tag: str | None
    user_id: UUID | str | None
    tenant: str | None
    batch_id: UUID | str | None
    error: str | None
    reason: str | None
    metadata: Mapping[str, JsonValue] | None
    created_before: datetime | None
    created_after: datetime | None
    finished_before: datetime | None
    finished_after: datetime | None

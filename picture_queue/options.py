"""Arguments of calls: the options of a job, the policy of a queue, and the filter of jobs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Required, TypedDict, get_args
from uuid import UUID

from pydantic import JsonValue

from picture_queue.errors import InvalidArgument
from picture_queue.records import Hold

BackoffPolicy = Literal["constant", "linear", "exponential"]

_YEAR = 31_536_000.0  # seconds


@dataclass(frozen=True, slots=True)
class Backoff:
    """The delays of a job between its attempts.

    The value of a field that is None comes from the job type. If the job type sets none, it comes
    from the queue, and otherwise from the settings of the project.

    Args:
        policy: ``constant`` keeps the first delay, ``linear`` adds it each time, ``exponential``
            doubles the delay each time.
        base: The first delay, in seconds.
        cap: The maximum delay, in seconds.
        jitter: The part of a delay, 0 to 1, by which it varies at random in both directions.

    Raises:
        InvalidArgument: A field is invalid; the error names the field and the value.
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
        for name, minimum, maximum in (
            ("base", 0.001, _YEAR),
            ("cap", 0.001, _YEAR),
            ("jitter", 0.0, 1.0),
        ):
            value = getattr(self, name)
            if value is not None and not minimum <= value <= maximum:
                raise InvalidArgument(
                    f"The backoff's {name} is {value}",
                    hint=f"Choose {minimum:g} to {maximum:.10g}",
                )


@dataclass(frozen=True, slots=True)
class Unique:
    """The rule that decides whether a new job duplicates an existing one.

    Args:
        by: The fields of the payload to compare; None: the whole payload. Job type and owner are
            always compared.
        period: Seconds after its enqueue in which a job blocks duplicates; None: the job blocks
            them as long as it is in one of the ``states``.
        states: The states in which a job blocks duplicates, always including ``pending``; by
            default ``pending`` and ``processing``.
        on_conflict: The effect of the new job on the existing one. ``ignore``: none. ``replace``:
            the existing job gets all fields of the new job except parents and batch. ``debounce``:
            the existing job gets the payload and the start time of the new job. `JobRunning` is
            raised if a running job would have to be replaced.
    """

    by: Sequence[str] | None = None
    period: float | None = None
    states: Sequence[str] | None = None
    on_conflict: Literal["ignore", "replace", "debounce"] = "ignore"


class JobOptions(TypedDict, total=False):
    """The options of a job, besides its type and payload.

    Attributes:
        priority: A job with a higher priority runs first; 0 by default.
        queue: The queue of the job; by default the queue of the job type, otherwise ``default``.
        scheduled_for: The earliest time to start; without a time zone it is local time.
        delay: Seconds until the earliest time to start, instead of ``scheduled_for``.
        max_attempts: Attempts before the job fails; by default the number that the job type sets,
            otherwise the queue, otherwise the settings of the project (3 unless changed).
        timeout: Maximum duration of one attempt, in seconds.
        expires_at: The latest time to start; a job that has not started by this time fails.
        expires_in: Seconds from now until the latest time to start, instead of ``expires_at``.
        backoff: The delays after failed attempts.
        tags: Up to 20 words for searches, each of up to 64 characters.
        metadata: A JSON object for your own use, stored with the job.
        tenant: The tenant of the job in a queue with fair sharing; ``user_id`` by default.
        limit_keys: Up to 8 keys whose limits apply to the job, such as ``model:flux``, in addition
            to the keys of its queue, type and owner.
        depends_on: Jobs that have to finish first (the parents): existing jobs, or jobs that come
            earlier in the same call.
        on_parent_failure: The effect on this job if a parent fails or is cancelled: ``cancel``
            (the default), ``fail`` or ``run``.
        batch_id: The batch of the job.
        unique: The rule that decides whether the job duplicates an existing one.
        user_id: The owner, who may read, watch and cancel the job.
        idempotency_key: A repeated call with the same key, type and owner returns the first job.
        job_id: An id that you generate. A repeated call with it returns the existing job.
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


class GenerationStep(TypedDict, total=False):
    """A further step of a chain, which gets the first picture of the step before.

    Attributes:
        kind: The kind of the step, such as ``upscale``. It decides the model if ``model_id`` is not
            given: the cheapest of the kind that takes a picture.
        model_id: The id of a model that takes a picture.
        prompt: A description, for models that take one.
        input: Further inputs of the model, without the picture.
    """

    kind: str | None
    model_id: str | None
    prompt: str | None
    input: Mapping[str, JsonValue] | None


class GenerationRequest(TypedDict, total=False):
    """A generation of a batch.

    Attributes:
        prompt: A description of the picture; empty for models without a prompt.
        model_id: The id of a model; None: the default model of the project.
        input: Further inputs of the model.
        kind: The kind of a model that has several.
        then: Up to 5 further steps, which make the generation the first of a chain.
    """

    prompt: Required[str]
    model_id: str | None
    input: Mapping[str, JsonValue] | None
    kind: str | None
    then: Sequence[GenerationStep] | None


class BudgetChanges(TypedDict, total=False):
    """The limits of a budget; None removes a limit.

    Attributes:
        usd_per_day: Maximum cost of the generations started in a day (UTC).
        usd_per_month: Maximum cost of the generations started in a month (UTC).
        per_minute: Maximum number of starts in any 60 seconds; 0: none. Not for ``project``.
        per_hour: Maximum number of starts in any hour; 0: none. Not for ``project``.
        max_pending: Maximum number of generations that have not ended. Not for ``project``.
        needs_credits: Whether generations are paid from the credits of the user, so that a start
            without enough credits is refused.
        exempts_service: Whether generations that a service key starts for the user are exempt from
            ``per_minute``, ``per_hour`` and ``max_pending``: they are neither counted nor refused.
    """

    usd_per_day: float | None
    usd_per_month: float | None
    per_minute: int | None
    per_hour: int | None
    max_pending: int | None
    needs_credits: bool | None
    exempts_service: bool | None


class QueueChanges(TypedDict, total=False):
    """The policy of a queue; a field that is None takes the project's default.

    Attributes:
        events: The events to send over Realtime: ``none``, ``status``, or ``progress``, which
            includes ``status``.
        max_attempts: Attempts before a job fails.
        timeout_seconds: Maximum duration of one attempt.
        lease_seconds: Length of a lease; a worker that sends no heartbeat during this time loses
            its jobs.
        backoff_policy: ``constant``, ``linear`` or ``exponential``.
        backoff_seconds: Delay after the first failed attempt.
        backoff_cap_seconds: Maximum delay after a failed attempt.
        backoff_jitter: The part of a delay, 0 to 1, by which it varies at random.
        fair_share: Whether tenants take turns within a priority.
        aging_seconds: Seconds of waiting that raise the priority by one; None: waiting does not
            raise it.
        breaker_failures: Number of consecutive failures of one kind that pauses the queue; None:
            failures do not pause it.
        breaker_seconds: Length of the pause after ``breaker_failures``.
        draining: Whether the queue refuses new jobs.
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
        job_ids: The job is one of these jobs, up to 10,000.
        queue: The job is in this queue.
        status: The job is in this state.
        hold: The job is held for this reason.
        job_type: The job is of this type.
        tag: The job has this tag.
        user_id: The job belongs to this user.
        tenant: The job belongs to this tenant.
        batch_id: The job is in this batch.
        error: The error contains this text; case does not matter.
        reason: The job failed for this reason, as `failure_reasons` groups them.
        metadata: The metadata contains this object.
        created_before: The job was enqueued before this time.
        created_after: The job was enqueued after this time.
        finished_before: The job finished before this time.
        finished_after: The job finished after this time.
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

"""Each error code of the database becomes its exception in the client, over both transports."""

import time
from typing import Any
from uuid import uuid4

import jwt
import pytest

from picture_queue import AsyncPictureQueue, NewJob, PictureQueueError, Unique, _rpc, errors
from picture_queue._rpc import Claim, Rpc
from picture_queue.errors import Busy, NotAllowed, NotAuthenticated

REPLACE = Unique(on_conflict="replace")


def return_unparsed(value: Any) -> Any:
    return value


class FailingCalls:
    """Calls that fail: each error code has a method of the same name, which raises the error."""

    def __init__(self, pq: AsyncPictureQueue, queue: str) -> None:
        self.pq = pq
        self.queue = queue
        self.job_type = f"refused-{uuid4().hex[:8]}"

    async def call(self, name: str, **parameters: Any) -> Any:
        return await self.pq._backend.call(Rpc(name, parameters, return_unparsed))

    async def enqueue(self, **options: Any) -> Any:
        return await self.pq.jobs.enqueue(self.job_type, queue=self.queue, **options)

    async def claim(self) -> Any:
        claim = Claim("worker", (self.queue,), (self.job_type,), 1, 30.0, uuid4())
        (job,) = await self.pq._backend.call(_rpc.claim_jobs(claim))
        return job

    async def invalid_argument(self) -> None:
        await self.enqueue(delay=-1)

    async def invalid_cron(self) -> None:
        await self.pq.schedules.set(self.job_type, self.job_type, cron="61 * * * *")

    async def unknown_job(self) -> None:
        await self.pq.jobs.cancel(uuid4())

    async def unknown_generation(self) -> None:
        await self.pq.generations.get(uuid4())

    async def unknown_model(self) -> None:
        await self.call(
            "start_generation", prompt="a", model_id="no/such", options={"user_id": str(uuid4())}
        )

    async def unknown_queue(self) -> None:
        await self.pq.queues.pause("no-such-queue")

    async def unknown_dependency(self) -> None:
        await self.enqueue(depends_on=[uuid4()])

    async def unknown_schedule(self) -> None:
        await self.pq.schedules.run("no-such-schedule")

    async def unknown_batch(self) -> None:
        await self.pq.batches.get(uuid4())

    async def unknown_limit(self) -> None:
        await self.pq.limits.delete(self.job_type)

    async def unknown_rule(self) -> None:
        await self.pq.rules.delete(f"{self.job_type}/model", "steps", "cap")

    async def unknown_budget(self) -> None:
        await self.pq.budgets.delete(f"plan:{self.job_type}")

    async def start_with_budget(self, **budget: Any) -> None:
        user_id = str(uuid4())
        await self.pq.budgets.set(f"user:{user_id}", **budget)
        await self.call("start_generation", prompt="a", options={"user_id": user_id})

    async def rate_limited(self) -> None:
        await self.start_with_budget(per_minute=0)

    async def over_budget(self) -> None:
        await self.start_with_budget(usd_per_day=0)

    async def no_credit(self) -> None:
        await self.start_with_budget(needs_credits=True)

    async def conflict(self) -> None:
        existing = await self.enqueue()
        await self.pq.jobs.enqueue("another", queue=self.queue, job_id=existing.id)

    async def stale_lease(self) -> None:
        await self.enqueue()
        job = await self.claim()
        await self.call("report_progress", job_id=str(job.id), lease_id=str(uuid4()), progress=1)

    async def finished_job(self) -> None:
        await self.enqueue()
        job = await self.claim()
        item = {"job_id": str(job.id), "lease_id": str(job.lease_id), "outcome": "completed"}
        await self.pq._backend.call(_rpc.report_jobs([item]))
        await self.pq.jobs.cancel(job.id)

    async def running_job(self) -> None:
        await self.enqueue(unique=REPLACE)
        await self.claim()
        await self.enqueue(unique=REPLACE)

    async def queue_draining(self) -> None:
        await self.enqueue()
        await self.pq.queues.drain(self.queue)
        await self.enqueue()

    async def too_large(self) -> None:
        await self.pq.jobs.enqueue(self.job_type, {"x": "y" * 70_000}, queue=self.queue)

    async def invalid_input(self) -> None:
        await self.call("start_generation", prompt="", options={"user_id": str(uuid4())})

    async def cycle(self) -> None:
        job_id = uuid4()
        await self.pq.jobs.enqueue_many(
            [NewJob(job_type=self.job_type, queue=self.queue, job_id=job_id, depends_on=[job_id])]
        )


# Only users get these errors; `test_a_call_that_is_not_permitted_raises_its_exception` has them.
USER_ERRORS = {NotAuthenticated, NotAllowed}
# Busy needs another transaction that holds a lock, so the matrix has its case.
SERVICE_ERRORS = [error for error in errors.BY_CODE.values() if error not in {*USER_ERRORS, Busy}]


@pytest.mark.parametrize("error", SERVICE_ERRORS, ids=lambda error: error.code)
async def test_each_code_raises_its_exception(service, queue, error):
    call = getattr(FailingCalls(service, queue), error.code.removeprefix("PQ_").lower())
    with pytest.raises(PictureQueueError) as raised:
        await call()
    assert type(raised.value) is error
    assert raised.value.code == error.code
    assert str(raised.value)


@pytest.mark.parametrize(
    ("claims", "options", "error"),
    [({}, {}, NotAuthenticated), ({"sub": str(uuid4())}, {"priority": 1}, NotAllowed)],
)
async def test_a_call_that_is_not_permitted_raises_its_exception(stack, claims, options, error):
    claims |= {"role": "authenticated", "exp": int(time.time()) + 600}
    token = jwt.encode(claims, stack.jwt_secret, "HS256")
    async with AsyncPictureQueue(stack.api_url, stack.anon_key, access_token=token) as pq:
        with pytest.raises(error):
            await pq._backend.call(
                Rpc("start_generation", {"prompt": "a", "options": options}, return_unparsed)
            )

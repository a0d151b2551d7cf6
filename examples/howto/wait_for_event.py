"""Park a job until an external event arrives, or until it is time to poll."""

import asyncio
from typing import Any
from uuid import uuid4

from picture_queue import AsyncPictureQueue, JobContext, Park, Worker

worker = Worker(queues=["howto-events"])


@worker.handler("ship-order", queue="howto-events")
async def ship_order(payload: dict[str, str], job: JobContext) -> Park | dict[str, Any]:
    """Ship the order when it is paid."""
    if job.event is None:
        job.log("not paid yet")
        # The event wakes the job. After an hour without one, the handler runs again.
        return Park(3600, event=f"paid:{payload['order']}")
    return {"shipped": payload["order"], "paid": job.event["amount"], "attempt": job.attempt}


async def main() -> None:
    """Enqueue the job, and send the event as the handler of a webhook would."""
    async with AsyncPictureQueue.from_env() as pq, worker:
        order = uuid4().hex
        job = await pq.jobs.enqueue("ship-order", {"order": order})
        async for event in pq.jobs.watch(job.id, timeout=30):
            if event.hold == "parked":
                assert await pq.events.send(f"paid:{order}", {"amount": 42}) == 1
        result = await pq.jobs.result(job.id, timeout=30)
        assert result == {"shipped": order, "paid": 42, "attempt": 1}
        print(result)


asyncio.run(main())

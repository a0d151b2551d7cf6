"""Costs: what a generation costs, how credits pay for it, and what a limit answers."""

import asyncio
from uuid import uuid4

from picture_queue import AsyncPictureQueue
from picture_queue.errors import LimitExceeded, NotEnoughCredits, TooManyGenerations


async def main() -> None:
    """Sell credits to a user, and start generations until a limit refuses one."""
    user = uuid4()  # the id of a user of your project
    async with AsyncPictureQueue.from_env() as pq:
        await pq.budgets.set("plan:free", needs_credits=True, usd_per_day=0.5, per_minute=3)
        await pq.accounts.set(user, plan="free")
        # A payment may be reported twice; the idempotency key grants its credits once.
        for _ in range(2):
            account = await pq.accounts.grant(user, 0.01, idempotency_key=f"payment {user}")
        print("credits:", account.credits_usd)

        started = await pq.generations.start("A cat", input={"num_outputs": 2}, user_id=user)
        generation = await pq.generations.get(started.id)
        print("expected cost:", generation.cost_usd)  # two pictures of 0.003 USD
        try:
            await pq.generations.start("A dog", input={"num_outputs": 2}, user_id=user)
        except NotEnoughCredits as error:
            print(error.detail)  # credits_usd is 0.004, and this generation costs 0.006

        await pq.generations.cancel(started.id)  # refunds the credits
        print("credits:", (await pq.accounts.get(user)).credits_usd)
        for entry in await pq.accounts.ledger(user_id=user):
            print(entry.phase, entry.amount_usd)

        pending = []
        try:
            for _ in range(4):
                pending.append(await pq.generations.start("A boat", user_id=user))
        except TooManyGenerations as error:
            print("try again in", error.retry_after, "seconds")
        except LimitExceeded as error:  # the base class of all refusals by a limit
            print(error)
        for pending_generation in pending:
            await pq.generations.cancel(pending_generation.id)


asyncio.run(main())

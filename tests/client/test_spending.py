"""Budgets, credits and accounts through the clients."""

import asyncio
import time
from typing import Any
from uuid import uuid4

import httpx
import jwt
import pytest

from picture_queue import AsyncPictureQueue, PictureQueue
from picture_queue.errors import (
    BudgetExceeded,
    BudgetNotFound,
    Conflict,
    LimitExceeded,
    NotAllowed,
    NotEnoughCredits,
    TooManyGenerations,
)


@pytest.fixture(params=["http", "database"])
async def pq(stack: Any, request: pytest.FixtureRequest) -> Any:
    """An async client of each transport."""
    database = stack.db_url if request.param == "database" else None
    async with AsyncPictureQueue(
        stack.api_url, stack.service_role_key, database_url=database
    ) as client:
        yield client


@pytest.mark.parametrize(
    ("budget", "error", "max_wait"),
    [
        ({"per_minute": 1}, TooManyGenerations, 60),
        ({"per_hour": 1}, TooManyGenerations, 3600),
        ({"max_pending": 1}, TooManyGenerations, None),
        ({"usd_per_day": 0.004}, BudgetExceeded, 86_400),
        ({"usd_per_month": 0.004}, BudgetExceeded, 31 * 86_400),
        ({"needs_credits": True}, NotEnoughCredits, None),
    ],
)
async def test_a_refused_generation_has_the_seconds_to_wait(
    pq: AsyncPictureQueue,
    budget: dict[str, Any],
    error: type[LimitExceeded],
    max_wait: float | None,
) -> None:
    user = uuid4()
    await pq.budgets.set(f"user:{user}", **budget)
    await pq.accounts.grant(user, 0.004)
    started = await pq.generations.start("a cat", user_id=user)
    with pytest.raises(error) as refused:
        await pq.generations.start("a cat", user_id=user)
    assert refused.value.http_status == 429
    if max_wait is None:
        assert refused.value.retry_after is None
    else:
        assert refused.value.retry_after is not None
        assert 0 < refused.value.retry_after <= max_wait
    # The client does not retry the call, because it would wait until the period ends.
    started_at = time.monotonic()
    with pytest.raises(LimitExceeded):
        await pq.generations.start("a cat", user_id=user)
    assert time.monotonic() - started_at < 2
    await pq.generations.cancel(started.id)
    account = await pq.accounts.get(user)
    assert (account.credits_usd, account.pending, account.spent_today_usd) == (0.004, 0, 0)


async def test_a_user_sees_only_their_own_account(stack: Any, service: AsyncPictureQueue) -> None:
    user, other_user = uuid4(), uuid4()
    await service.accounts.set(user, plan="gold")
    claims = {"role": "authenticated", "aud": "authenticated", "sub": str(user)}
    token = jwt.encode({**claims, "exp": int(time.time()) + 600}, stack.jwt_secret, "HS256")
    async with AsyncPictureQueue(stack.api_url, stack.anon_key, access_token=token) as pq:
        account = await pq.accounts.get()
        assert (account.user_id, account.plan, account.budget.per_minute) == (user, "gold", 20)
        assert (await pq.accounts.get(user)) == account
        for call in (
            pq.accounts.get(other_user),
            pq.accounts.list(),
            pq.accounts.grant(user, 5),
            pq.budgets.set(f"user:{user}", per_minute=100),
            pq.accounts.ledger(),
        ):
            with pytest.raises(NotAllowed):
                await call


async def test_a_plan_overrides_the_default_budget_and_a_user_overrides_the_plan(
    service: AsyncPictureQueue,
) -> None:
    user, plan = uuid4(), f"plan-{uuid4().hex[:8]}"
    await service.budgets.set(f"plan:{plan}", per_minute=60, usd_per_day=2)
    await service.budgets.set(f"user:{user}", usd_per_day=3)
    account = await service.accounts.set(user, plan=plan)
    budget = account.budget
    assert (budget.usd_per_day, budget.per_minute, budget.per_hour) == (3, 60, 200)
    await service.budgets.delete(f"user:{user}")
    assert (await service.accounts.get(user)).budget.usd_per_day == 2
    with pytest.raises(BudgetNotFound):
        await service.budgets.delete(f"user:{user}")
    listed = await service.accounts.list(plan=plan)
    assert [account.user_id for account in listed] == [user]


async def test_budgets_are_listed_in_pages(service: AsyncPictureQueue) -> None:
    names = [f"plan:{uuid4().hex}" for _ in range(5)]
    for name in names:
        await service.budgets.set(name)
    listed, after = [], None
    while page := await service.budgets.list(limit=2, after=after):
        assert len(page) <= 2
        listed += [budget.key for budget in page]
        after = listed[-1]
    assert set(names) <= set(listed)
    assert listed == sorted(listed)


def test_the_sync_client_grants_once_for_an_idempotency_key(stack: Any) -> None:
    user = uuid4()
    pq = PictureQueue(stack.api_url, stack.service_role_key)
    for _ in range(2):
        account = pq.accounts.grant(user, 2.5, idempotency_key=f"invoice {user}", note="paid")
        assert account.credits_usd == 2.5
    with pytest.raises(Conflict):
        pq.accounts.grant(user, 3, idempotency_key=f"invoice {user}")
    (entry,) = pq.accounts.ledger(user_id=user)
    assert (entry.note, entry.amount_usd) == ("paid", 2.5)
    pq.close()


async def test_the_http_status_of_an_exceeded_limit_is_429(
    stack: Any, service: AsyncPictureQueue
) -> None:
    user = uuid4()
    await service.budgets.set(f"user:{user}", per_minute=0)
    headers = {"apikey": stack.service_role_key}
    async with httpx.AsyncClient(base_url=stack.api_url, headers=headers, timeout=10) as http:
        answers = await asyncio.gather(
            *(
                http.post(
                    "/rest/v1/rpc/start_generation",
                    json={"prompt": "a cat", "options": {"user_id": str(user)}},
                )
                for _ in range(3)
            )
        )
    assert {answer.status_code for answer in answers} == {429}
    assert all(answer.json()["message"].startswith("PQ_RATE_LIMITED: ") for answer in answers)

"""The ASGI app with a running project: webhooks, health and readiness."""

import asyncio
import itertools
import json
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from standardwebhooks.webhooks import Webhook

from picture_queue import AsyncPictureQueue
from picture_queue.settings import ReplicateSettings
from picture_queue.web import create_app
from picture_queue.web.webhooks import MAX_BYTES

SECRET, FORGED = "whsec_cGljdHVyZS1xdWV1ZS10ZXN0LWtleS0x", "whsec_YW5vdGhlci1zZWNyZXQtb2YtdGVzdHM="
#: A webhook changes the status of a prediction only to a status of a higher rank.
RANKS = {"starting": 1, "processing": 2, "succeeded": 3, "failed": 3, "canceled": 3}
# Each generation has a higher priority than all earlier ones. So a test claims only the jobs of its
# own generations, although the tests share the queue.
_PRIORITIES = itertools.count(10**6)
SETTINGS = ReplicateSettings("r8_test", "http://127.0.0.1:1/v1", webhook_secret=SECRET)


@pytest.fixture
async def app(service: AsyncPictureQueue) -> AsyncIterator[httpx.AsyncClient]:
    """A client that calls the app in this process, without a server."""
    transport = httpx.ASGITransport(create_app(service, SETTINGS))
    async with httpx.AsyncClient(transport=transport, base_url="http://app.localhost") as http:
        yield http


def delivery(
    row_id: UUID | str, prediction_id: str, status: str, secret: str = SECRET, **fields: Any
) -> dict[str, Any]:
    """Return the arguments of the request that delivers a webhook.

    Args:
        row_id: The id of the row in `picture_queue.prediction`, which the URL has.
        prediction_id: The id of the prediction at Replicate, which the body has.
        status: The status of the prediction.
        secret: The key of the signature.
        fields: More fields of the body.
    """
    body = json.dumps(
        {"id": prediction_id, "status": status, "created_at": "2026-01-01T10:00:00Z", **fields}
    )
    message_id, now = f"msg_{uuid4().hex}", datetime.now(UTC)
    return {
        "url": "/webhooks/replicate",
        "params": {"prediction": str(row_id)},
        "content": body,
        "headers": {
            "webhook-id": message_id,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": Webhook(secret).sign(message_id, now, body),
        },
    }


@dataclass
class ParkedPrediction:
    """A row of `picture_queue.prediction` whose job is parked.

    Attributes:
        id: The id of the row.
        job_id: The id of the job.
        prediction_id: The id of the prediction at Replicate.
        statuses: The statuses that valid webhooks deliver.
    """

    id: UUID
    job_id: UUID
    prediction_id: str
    statuses: set[str] = field(default_factory=set)

    def expected_status(self) -> str | None:
        return max(self.statuses, key=RANKS.__getitem__, default=None)


async def park_predictions(
    service: AsyncPictureQueue, db: Any, count: int
) -> list[ParkedPrediction]:
    """Start generations, and park the job of each as the handler does."""
    started = [
        await service.generations.start("a boat", priority=next(_PRIORITIES)) for _ in range(count)
    ]
    claimed = json.loads(
        await db.fetchval(
            """select claim_jobs('webhooks', queues => '{default}', job_types => '{generate-image}',
            max_jobs => $1, lease_seconds => 600)""",
            count,
        )
    )
    assert {job["id"] for job in claimed} == {str(generation.job_id) for generation in started}
    parked_predictions = []
    for job in claimed:
        ids = (UUID(job["id"]), UUID(job["lease_id"]))
        begun = json.loads(await db.fetchval("select begin_prediction($1, $2)", *ids))
        parked = ParkedPrediction(UUID(begun["prediction"]["id"]), ids[0], uuid4().hex)
        await db.execute(
            "select record_prediction($1, $2, $3, $4)", *ids, parked.id, parked.prediction_id
        )
        outcome = {
            "job_id": job["id"],
            "lease_id": job["lease_id"],
            "outcome": "parked",
            "delay_seconds": 3600,
            "event": f"prediction:{parked.id}",
        }
        await db.execute("select report_jobs($1)", json.dumps([outcome]))
        parked_predictions.append(parked)
    return parked_predictions


# 1,000 predictions get over 10,000 webhooks, half of them forged.
@pytest.mark.parametrize(
    "count", [60, pytest.param(1000, marks=[pytest.mark.slow, pytest.mark.timeout(900)])]
)
async def test_concurrent_shuffled_and_forged_webhooks_change_only_their_own_predictions(
    service, db, app, count
):
    parked_predictions = await park_predictions(service, db, count)
    rng = random.Random(7)
    genuine: list[dict[str, Any]] = []
    for parked in parked_predictions[10:]:  # the first ten get only forged webhooks
        end = rng.choice(["succeeded", "failed", "canceled", None])
        for status in ("starting", "processing", end):
            if status is not None and rng.random() < 0.9:
                copies = 2 if rng.random() < 1 / 3 else 1
                genuine += [delivery(parked.id, parked.prediction_id, status)] * copies
                parked.statuses.add(status)
    # Webhooks with another prediction id, or for a row that does not exist, have no effect.
    genuine += [delivery(parked.id, uuid4().hex, "succeeded") for parked in parked_predictions]
    genuine += [delivery(uuid4(), "unknown", "succeeded") for _ in parked_predictions]
    forged = [
        delivery(parked.id, parked.prediction_id, rng.choice(list(RANKS)), FORGED)
        for parked in rng.choices(parked_predictions, k=len(genuine))
    ]
    rng.shuffle(genuine)

    async def deliver(requests: list[dict[str, Any]]) -> list[int]:
        return [(await app.post(**request)).status_code for request in requests]

    parts = [genuine[start::8] for start in range(8)]  # eight concurrent senders
    answers = await asyncio.gather(deliver(forged), *map(deliver, parts))
    assert set(answers[0]) == {401}
    assert {code for part in answers[1:] for code in part} == {200}
    for parked in parked_predictions:
        stored = await db.fetchrow(
            "select status, prediction_id from picture_queue.prediction where id = $1", parked.id
        )
        hold = await db.fetchval("select hold from job_queue where id = $1", parked.job_id)
        expected = parked.expected_status()
        assert (stored["status"], stored["prediction_id"]) == (expected, parked.prediction_id)
        # Only the end of a prediction wakes its job.
        assert (hold is None) == (RANKS.get(expected or "", 0) == 3)
    for parked in parked_predictions:
        await service.jobs.cancel(parked.job_id)


async def test_a_webhook_shows_the_progress_of_a_parked_generation(service, db, app):
    (parked,) = await park_predictions(service, db, 1)
    logs = " 50%|█████     | 2/4 [00:01<00:01,  1.9it/s]"
    answer = await app.post(**delivery(parked.id, parked.prediction_id, "processing", logs=logs))
    assert answer.json() == {"outcome": "applied"}
    job = await service.jobs.get(parked.job_id)
    assert (job.progress, job.message) == (50, "generating, step 2 of 4")
    await service.jobs.cancel(parked.job_id)


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"params": {}}, 400),
        ({"params": {"prediction": "1"}}, 400),
        ({"headers": {}}, 401),
        ({"content": "{}"}, 401),
        ({"content": b"x" * (MAX_BYTES + 1)}, 413),
    ],
)
async def test_an_invalid_webhook_is_refused(app, change, status):
    request = delivery(uuid4(), "p1", "succeeded") | change
    answer = await app.post(**request)
    assert answer.status_code == status
    assert answer.json().keys() == {"error"}


async def test_a_webhook_with_an_unknown_status_gets_200_and_is_ignored(app):
    answer = await app.post(**delivery(uuid4(), "p1", "paused"))
    assert (answer.status_code, answer.json()) == (200, {"outcome": "ignored"})


async def test_an_old_webhook_is_refused(app):
    request = delivery(uuid4(), "p1", "succeeded")
    sent_at = datetime.now(UTC) - timedelta(minutes=6)
    request["headers"] |= {
        "webhook-timestamp": str(int(sent_at.timestamp())),
        "webhook-signature": Webhook(SECRET).sign(
            request["headers"]["webhook-id"], sent_at, request["content"]
        ),
    }
    assert (await app.post(**request)).status_code == 401


async def test_a_webhook_gets_503_during_an_outage_and_can_be_retried(
    stack, app, service, db, faults
):
    (parked,) = await park_predictions(service, db, 1)
    # The app retries the call fewer than 10 times, so all of its requests get 503.
    await faults(answer_503=10, path="/rest/v1/rpc/receive_prediction")
    request = delivery(parked.id, parked.prediction_id, "succeeded")
    assert (await app.post(**request)).status_code == 503
    await faults(answer_503=0)
    assert (await app.post(**request)).json() == {"outcome": "applied"}
    await service.jobs.cancel(parked.job_id)


async def test_the_app_is_ready_only_if_the_database_answers(stack, app):
    assert (await app.get("/healthz")).json() == {"status": "ok"}
    assert (await app.get("/readyz")).json() == {"status": "ready"}
    async with AsyncPictureQueue("http://127.0.0.1:9", stack.service_role_key) as unreachable:
        transport = httpx.ASGITransport(create_app(unreachable, SETTINGS))
        async with httpx.AsyncClient(transport=transport, base_url="http://a.localhost") as http:
            answer = await http.get("/readyz")
            assert (answer.status_code, answer.json()) == (503, {"status": "not ready"})


async def test_webhooks_get_404_if_no_token_and_secret_are_configured(service, monkeypatch):
    monkeypatch.delenv("REPLICATE_API_TOKEN", raising=False)
    transport = httpx.ASGITransport(create_app(service))
    async with httpx.AsyncClient(transport=transport, base_url="http://a.localhost") as http:
        answer = await http.post(**delivery(uuid4(), "p1", "succeeded"))
    assert answer.status_code == 404

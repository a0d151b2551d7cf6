"""One unexpected answer of each kind to every call of the provider, with the real handler.

The handler runs again as in a worker. At the end exactly one prediction was paid, both pictures are
stored, and every row of a prediction has a final state.
"""

import asyncio
import logging
import time
from datetime import UTC, datetime
from typing import Any

import pytest
from standardwebhooks.webhooks import Webhook

from picture_queue.generations.settings import HandlerSettings
from picture_queue.local.simulator import SimulatorSettings
from picture_queue.providers import errors
from picture_queue.providers.replicate.webhook import WebhookVerifier
from picture_queue.worker import PermanentFailure, RateLimited, Retry, Snooze

from .world import FAST, FakeJobContext, Generation, World, assert_paid_once

FINAL = {"succeeded", "failed", "canceled", "aborted", "lost"}
REFUSALS: list[dict[str, Any]] = [
    {"kind": "client_error", "status": status} for status in (400, 401, 403, 404, 409, 410)
]
OUTAGES: list[dict[str, Any]] = [
    {"kind": "rate_limit", "seconds": 0},
    *({"kind": "server_error", "status": status} for status in (500, 502, 503, 504)),
    {"kind": "html"},
    {"kind": "cut_body"},
    {"kind": "lose_answer"},
    {"kind": "lose_answer", "status": 502},
]
UNEXPECTED_ANSWERS = [*REFUSALS, *OUTAGES, {"kind": "out_of_credit"}]


def name_of(fault: Any) -> str:
    return "-".join(str(value) for key, value in fault.items() if key != "seconds")


async def run_like_a_worker(
    world: World, generation: Generation, settings: HandlerSettings = FAST
) -> int:
    """Run attempts until one succeeds, and return the number of the last attempt.

    After `RateLimited` or `Snooze` the number stays the same, and after `Retry` it rises.
    `PermanentFailure` is raised.
    """
    attempt = 1
    for _ in range(8):
        try:
            await world.run(generation, FakeJobContext(attempt), settings)
        except Retry:
            attempt += 1
        except (RateLimited, Snooze):
            pass
        else:
            return attempt
    raise AssertionError("the generation did not end")


@pytest.mark.parametrize("on", ["create", "get", "file"])
@pytest.mark.parametrize("fault", UNEXPECTED_ANSWERS, ids=name_of)
async def test_one_unexpected_answer_loses_no_picture(world: World, fault: Any, on: str) -> None:
    generation = world.generation(num_outputs=2)
    await world.set_fault(on=on, **fault)
    assert await run_like_a_worker(world, generation) <= 2
    # A refused create call has created no prediction: its row failed, and the next attempt has
    # another row.
    refused = [
        row for row in world.db.predictions if row.prediction_id is None and row.state == "failed"
    ]
    assert not refused or on == "create"
    world.db.predictions = [row for row in world.db.predictions if row not in refused]
    await assert_paid_once(world, generation)
    assert {row.state for row in world.db.predictions} <= FINAL


@pytest.mark.parametrize(
    ("on", "fault"),
    [
        pytest.param(on, fault, id=f"{on}-{name_of(fault)}")
        for on in ("get", "file")
        for fault in OUTAGES
        # A file that is not a picture, twice in a row, ends the generation.
        if (on, fault["kind"]) != ("file", "html")
    ],
)
async def test_three_unexpected_answers_in_a_row_lose_no_picture(
    world: World, fault: Any, on: str
) -> None:
    generation = world.generation(num_outputs=2)
    await world.set_fault(on=on, count=3, **fault)
    await run_like_a_worker(world, generation)
    await assert_paid_once(world, generation)


@pytest.mark.parametrize("fault", UNEXPECTED_ANSWERS, ids=name_of)
async def test_an_unexpected_answer_to_the_search_for_a_lost_prediction_pays_once(
    world: World, fault: Any
) -> None:
    generation = world.generation(num_outputs=2)
    await world.set_fault(kind="lose_answer")
    await world.set_fault(on="list", **fault)
    assert await run_like_a_worker(world, generation) <= 2
    await assert_paid_once(world, generation)
    assert [row.state for row in world.db.predictions] == ["succeeded"]


@pytest.mark.parametrize("fault", UNEXPECTED_ANSWERS, ids=name_of)
async def test_an_unexpected_answer_to_a_cancel_stops_the_prediction(
    fault: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "picture_queue")
    world = World(SimulatorSettings(seconds=30))
    async with world.http:
        generation, job = world.generation(), FakeJobContext()
        task = asyncio.create_task(world.run(generation, job))
        await job.running.wait()
        await world.set_fault(on="cancel", **fault)
        job.cancel_requested = True
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert [found["status"] for found in await world.predictions()] == ["canceled"]
        assert [row.state for row in world.db.predictions] == ["canceled"]


@pytest.mark.parametrize("fault", [*REFUSALS, *OUTAGES[:5]], ids=name_of)
async def test_a_retry_after_an_unconfirmed_cancel_attaches_to_the_prediction(fault: Any) -> None:
    world = World(SimulatorSettings(seconds=30))
    async with world.http:
        generation, job = world.generation(num_outputs=2), FakeJobContext()
        task = asyncio.create_task(world.run(generation, job))
        await job.running.wait()
        await world.set_fault(on="cancel", count=99, **fault)
        job.cancel_requested = True
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        world.now = time.time() + 60
        await run_like_a_worker(world, generation)
        await assert_paid_once(world, generation)
        assert [row.state for row in world.db.predictions] == ["succeeded"]


@pytest.mark.parametrize("fault", UNEXPECTED_ANSWERS, ids=name_of)
async def test_an_unexpected_answer_to_the_read_of_the_secret_refuses_no_webhook_for_good(
    world: World, fault: Any
) -> None:
    now = [0.0]
    verifier = WebhookVerifier(None, world.client.webhook_secret, lambda: now[0])
    generation = world.generation()
    await world.run(generation)
    path = f"/v1/predictions/{(await world.paid())[0]}"
    body = (await world.http.get(path, headers={"Authorization": "Bearer r8_test"})).text
    sent_at = datetime.now(UTC)
    signature = Webhook(await world.client.webhook_secret()).sign("msg_1", sent_at, body)
    headers = {
        "webhook-id": "msg_1",
        "webhook-timestamp": str(int(sent_at.timestamp())),
        "webhook-signature": signature,
    }
    await world.set_fault(on="secret", **fault)
    try:
        prediction = await verifier.verify(headers, body.encode())
    except errors.ServiceUnavailable:  # Replicate sends the webhook again
        now[0] += 11  # the secret is read again after 10 seconds
        prediction = await verifier.verify(headers, body.encode())
    assert prediction.id == world.db.predictions[0].prediction_id


@pytest.mark.parametrize("kind", ["missing_output", "expired_output"])
async def test_a_missing_output_ends_the_row_and_is_not_paid_again(world: World, kind: str) -> None:
    generation = world.generation(num_outputs=2)
    await world.set_fault(kind=kind)
    with pytest.raises(PermanentFailure):
        await run_like_a_worker(world, generation)
    assert len(await world.paid()) == 1
    assert [row.state for row in world.db.predictions] == ["failed"]


@pytest.mark.parametrize("kind", ["bad_picture", "bomb"])
@pytest.mark.parametrize("number", [0, 1, 2])
async def test_a_bad_picture_among_good_ones_loses_only_itself(
    world: World, kind: str, number: int
) -> None:
    generation = world.generation(num_outputs=3)
    await world.set_fault(kind=kind, number=number)
    assert await run_like_a_worker(world, generation) == 1
    assert list(world.db.images[generation.id]) == [n for n in (1, 2, 3) if n != number + 1]
    assert len(await world.paid()) == 1
    assert [row.state for row in world.db.predictions] == ["succeeded"]


@pytest.mark.parametrize("number", [0, 1])
async def test_the_content_type_of_a_picture_is_read_from_its_bytes(
    world: World, number: int
) -> None:
    generation = world.generation(num_outputs=2)
    await world.set_fault(kind="wrong_type", number=number)
    await run_like_a_worker(world, generation)
    await assert_paid_once(world, generation)
    assert {content_type for _, content_type in world.db.files.values()} == {"image/webp"}


async def test_a_picture_that_the_safety_checker_removed_leaves_the_others(world: World) -> None:
    generation = world.generation(num_outputs=3)
    await world.set_fault(kind="fewer_pictures")
    await run_like_a_worker(world, generation)
    assert list(world.db.images[generation.id]) == [1, 2]
    assert [row.state for row in world.db.predictions] == ["succeeded"]


@pytest.mark.parametrize("logs", ["percent", "text", "empty"])
async def test_progress_never_goes_back_whatever_the_logs_are(world: World, logs: str) -> None:
    generation, job = world.generation(num_outputs=2), FakeJobContext()
    await world.set_fault(kind="slow", seconds=0.3, logs=logs)
    await world.run(generation, job)
    percents = [percent for percent, _ in job.reported]
    assert percents == sorted(percents)
    assert max(percents) < 100
    assert (max(percents) > 0) is (logs == "percent")

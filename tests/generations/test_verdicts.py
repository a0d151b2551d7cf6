"""The outcome of a generation when Replicate, the network or Storage fails."""

import re
from dataclasses import replace
from typing import Any

import httpx
import pytest

from picture_queue.errors import Busy, Conflict, ConnectionFailed
from picture_queue.generations.handler import image_handler
from picture_queue.providers import errors
from picture_queue.providers.replicate.client import ReplicateClient
from picture_queue.providers.replicate.download import DownloadRules
from picture_queue.worker import PermanentFailure, RateLimited, Retry, Snooze
from picture_queue.worker.outcomes import Failed
from picture_queue.worker.verdicts import from_error

from .world import (
    FAST,
    FakeDownloads,
    FakeJobContext,
    Generation,
    Store,
    World,
    assert_paid_once,
    list_crash_points,
    providers_of,
    raises_verdict,
    run_with_crash,
)


async def test_a_throttled_create_uses_up_no_attempt(world: World) -> None:
    await world.set_fault(kind="rate_limit", seconds=30)
    generation = world.generation(num_outputs=2)
    with raises_verdict(RateLimited, errors.TooManyRequests) as raised:
        await world.run(generation)
    assert (raised.verdict.seconds, raised.verdict.key) == (30.0, "provider:replicate")
    assert [row.state for row in world.db.predictions] == ["failed"]
    # No prediction was made, so no search is needed. A failing list does not matter.
    await world.set_fault(kind="server_error", on="list", count=100)
    await world.run(generation)
    assert len(await world.paid()) == 1


async def test_a_throttled_create_without_a_time_waits_for_the_default_pause(world: World) -> None:
    await world.set_fault(kind="rate_limit", count=100)
    with raises_verdict(RateLimited, errors.TooManyRequests) as raised:
        await world.run(world.generation())
    assert raised.verdict.seconds == FAST.default_pause


async def test_without_credit_the_job_waits(world: World) -> None:
    await world.set_fault(kind="out_of_credit")
    with raises_verdict(RateLimited, errors.OutOfCredit) as raised:
        await world.run(world.generation())
    assert raised.verdict.seconds == errors.MAX_RETRY_AFTER
    assert world.db.predictions[0].state == "failed"
    assert "billing" not in (world.db.predictions[0].error or "")


class _Outage(httpx.AsyncBaseTransport):
    """A transport that refuses connections while `is_active` is true."""

    def __init__(self, transport: httpx.AsyncBaseTransport) -> None:
        self.transport = transport
        self.is_active = True

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if self.is_active and not request.url.path.startswith("/_simulator"):
            raise httpx.ConnectError("refused", request=request)
        return await self.transport.handle_async_request(request)


@pytest.mark.parametrize("recorded", [False, True], ids=["before the create", "after the create"])
async def test_an_outage_of_replicate_uses_up_no_attempt(world: World, recorded: bool) -> None:
    generation = world.generation(num_outputs=2)
    if recorded:
        crash_at = (await list_crash_points()).index("after record")
        await run_with_crash(world, generation, crash_at)
    outage = world.http._transport = _Outage(world.http._transport)
    for _ in range(5):  # A job has fewer attempts than this by default.
        with raises_verdict(RateLimited, errors.NotReached) as raised:
            await world.run(generation)
        assert raised.verdict.seconds == FAST.default_pause
        assert raised.verdict.key == "provider:replicate"
        assert "Replicate cannot be reached" in raised.verdict.outcome("default").detail
    outage.is_active = False
    await world.run(generation)
    assert len(await world.paid()) == 1


async def test_a_refused_input_fails_for_good(world: World) -> None:
    with raises_verdict(PermanentFailure, errors.InputRejected) as raised:
        await world.run(world.generation(num_outputs=99))
    assert "num_outputs" in raised.verdict.owner_message
    assert world.db.predictions[0].state == "failed"


async def test_a_model_that_cannot_be_called_fails_for_good(world: World) -> None:
    with raises_verdict(PermanentFailure, errors.Misconfigured):
        await world.run(Generation("nvidia/sana", {"prompt": "a boat"}))
    assert await world.predictions() == []
    assert world.db.predictions[0].state == "failed"


@pytest.mark.parametrize(
    ("fault", "attempt", "kind", "verdict"),
    [
        ({"kind": "fail"}, 1, errors.Interrupted, Retry),
        ({"kind": "fail"}, 5, errors.Interrupted, Retry),
        ({"kind": "fail", "message": "KeyError"}, 1, errors.PredictionFailed, Retry),
        ({"kind": "fail", "message": "KeyError"}, 2, errors.PredictionFailed, PermanentFailure),
        (
            {"kind": "fail", "message": "CUDA out of memory"},
            1,
            errors.InputTooLarge,
            PermanentFailure,
        ),
        ({"kind": "nsfw"}, 1, errors.ContentRefused, PermanentFailure),
    ],
)
async def test_the_kind_of_failure_decides_whether_a_prediction_is_retried(
    world: World,
    fault: dict[str, Any],
    attempt: int,
    kind: type[errors.ProviderError],
    verdict: type[Exception],
) -> None:
    await world.set_fault(**fault)
    with raises_verdict(verdict, kind) as raised:
        await world.run(world.generation(), FakeJobContext(attempt))
    outcome = from_error(raised.verdict, "default")
    assert isinstance(outcome, Failed)
    assert (outcome.error, outcome.retryable) == (kind.owner_message, verdict is Retry)
    (row,) = world.db.predictions
    assert row.state == "failed"
    assert row.error == (await world.predictions())[0]["error"]


async def test_a_retry_is_a_new_row_and_a_new_prediction(world: World) -> None:
    await world.set_fault(kind="fail")
    generation = world.generation()
    with raises_verdict(Retry, errors.Interrupted):
        await world.run(generation)
    await world.run(generation, FakeJobContext(attempt=2))
    assert [row.state for row in world.db.predictions] == ["failed", "succeeded"]
    prediction_ids = [prediction["id"] for prediction in await world.predictions()]
    assert [row.prediction_id for row in world.db.predictions] == prediction_ids


async def test_the_error_for_an_expired_output_names_the_reason(world: World) -> None:
    await world.set_fault(kind="expired_output")
    with raises_verdict(PermanentFailure, errors.OutputExpired) as raised:
        await world.run(world.generation())
    assert "deleted" in raised.verdict.owner_message
    assert world.db.predictions[0].state == "failed"
    assert world.db.images == {}


async def test_an_output_that_violates_the_download_rules_fails_for_good(world: World) -> None:
    world.client.rules = DownloadRules(max_bytes=10).allowing("http://simulator.localhost")
    with raises_verdict(PermanentFailure, errors.OutputRefused):
        await world.run(world.generation(num_outputs=3))
    assert world.db.predictions[0].state == "failed"


@pytest.mark.parametrize("data", [b"<html>", b""])
async def test_an_output_that_is_not_an_image_is_not_stored(world: World, data: bytes) -> None:
    with raises_verdict(PermanentFailure, errors.OutputRefused):
        await world.run(world.generation(), client=FakeDownloads(world.client, data))
    assert world.db.files == {}


@pytest.mark.parametrize("width", [0, 1 << 19, 0xFFFFFFFF])
async def test_an_image_with_too_many_pixels_fails_at_once(world: World, width: int) -> None:
    header = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
    data = header + width.to_bytes(4, "big") + (1024).to_bytes(4, "big")
    with raises_verdict(PermanentFailure, errors.OutputRefused) as raised:
        await world.run(world.generation(), client=FakeDownloads(world.client, data))
    assert world.db.files == {}
    if width:
        assert "too large to be shown" in raised.verdict.owner_message
        assert f"{width} x 1024" in str(raised.cause)


async def test_an_output_without_links_is_refused(world: World) -> None:
    with raises_verdict(PermanentFailure, errors.OutputRefused) as raised:
        await world.run(world.generation(), client=_ClientWithoutOutput(world.client))
    assert "without a picture" in str(raised.cause)


class _ClientWithoutOutput(FakeDownloads):
    """A client that returns predictions without their output."""

    def __init__(self, client: ReplicateClient) -> None:
        super().__init__(client, b"")

    async def get(self, prediction_id: str) -> Any:
        return (await self._client.get(prediction_id)).model_copy(update={"output": None})


@pytest.mark.parametrize("kind", ["server_error", "rate_limit"])
async def test_a_failed_download_is_retried_by_the_next_attempt(world: World, kind: str) -> None:
    await world.set_fault(kind=kind, on="file", count=10)
    generation, job = world.generation(num_outputs=2), FakeJobContext()
    # Snooze: the attempt is not used up, and other jobs are not delayed.
    with raises_verdict(Snooze, errors.ServiceUnavailable):
        await world.run(generation, job)
    assert job.reported[-1][1] == "The picture was made and waits to be stored."
    # After 50 minutes the attempts count, so that the job ends.
    await world.set_fault(kind=kind, on="file", count=10)
    with raises_verdict(Retry, errors.ServiceUnavailable) as raised:
        await world.run(generation, settings=replace(FAST, outage_tolerance=0.0))
    assert raised.verdict.reason == "The picture was made and waits to be stored."
    # Every new prediction would fail, so the last attempt succeeds only if it creates none.
    await world.http.post("/_simulator/faults", json={"kind": "fail"})
    await world.run(generation)
    await assert_paid_once(world, generation)


class _StorageOutage(Store):
    """A store whose uploads fail."""

    async def upload(self, path: str, data: bytes, content_type: str) -> None:
        raise ConnectionFailed("http://x does not answer", detail="refused")


async def test_an_outage_of_storage_uses_up_no_attempt(world: World) -> None:
    generation = world.generation(num_outputs=2)
    for outage, verdict in ((3600.0, Snooze), (0.0, Retry)):
        store = _StorageOutage(world.db, generation)
        settings = replace(FAST, outage_tolerance=outage)
        with raises_verdict(verdict, errors.ServiceUnavailable) as raised:
            await image_handler(providers_of(world.client), lambda _, s=store: s, settings)(
                {}, FakeJobContext()
            )
        assert re.search(r"project.*refused", str(raised.cause))
        if verdict is Snooze:
            assert "project" in raised.verdict.outcome("default").detail
    await world.run(generation)
    await assert_paid_once(world, generation)


class _UnavailableProject(Store):
    """A store of a project that does not answer, so that no row can be written."""

    def __init__(self, *arguments: Any, error: Exception) -> None:
        super().__init__(*arguments)
        self.error = error

    async def begin(self) -> Any:
        raise self.error


@pytest.mark.parametrize("error", [ConnectionFailed("no answer"), Busy("locked")])
async def test_an_outage_of_the_project_before_the_begin_uses_up_no_attempt(
    world: World, error: Exception
) -> None:
    store = _UnavailableProject(world.db, world.generation(), error=error)
    with raises_verdict(Snooze, errors.ServiceUnavailable) as raised:
        await image_handler(providers_of(world.client), lambda _: store, FAST)({}, FakeJobContext())
    assert raised.verdict.seconds == FAST.default_pause
    assert await world.paid() == []


async def test_the_owner_does_not_see_an_error_of_the_database(world: World) -> None:
    generation = world.generation()
    store: Any = Store(world.db, generation)

    async def refuse(*args: Any) -> None:
        raise Conflict("SQLSTATE P0001: the password is s3cret")

    store.save_images = refuse
    with pytest.raises(Exception) as raised:
        await image_handler(providers_of(world.client), lambda _: store, FAST)({}, FakeJobContext())
    outcome = from_error(raised.value, "default")
    message = "The picture could not be made, because of an internal error."
    assert isinstance(outcome, Failed)
    assert (outcome.error, outcome.retryable) == (message, True)
    assert "s3cret" in (outcome.detail or "")

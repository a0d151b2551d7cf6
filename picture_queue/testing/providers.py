"""Checks that every provider of pictures must pass.

A test of your provider runs them all, with any test framework:

    @pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
    async def test_my_provider(check):
        async with my_harness() as harness:
            await check(harness)

If the provider lacks the capability that a check needs, the check passes without a test.
"""

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol
from uuid import uuid4

from picture_queue.providers.base import (
    FINAL_STATUSES,
    Capabilities,
    Prediction,
    PredictionRequest,
    Provider,
)
from picture_queue.providers.errors import (
    OutputError,
    ProviderError,
    ResourceNotFound,
    WebhookRefused,
)

_STATE_TIMEOUT = 20.0  # seconds for a prediction to reach a state
_POLL_INTERVAL = 0.02  # seconds
# The first bytes of PNG, JPEG, WebP, GIF and SVG files.
_SIGNATURES = (b"\x89PNG", b"\xff\xd8\xff", b"RIFF", b"GIF8", b"<svg", b"<?xml")


class ProviderHarness(Protocol):
    """A provider under test, with control over the service that makes its pictures.

    Attributes:
        provider: The provider.
    """

    provider: Provider

    async def request(
        self, *, pictures: int = 1, fails: bool = False, is_slow: bool = False, timeout: float = 600
    ) -> PredictionRequest:
        """Return a request with a new row id. Requests with equal arguments have equal inputs.

        A check passes the request to its next create call, so the harness may prepare its service
        for this request.

        Args:
            pictures: Number of pictures.
            fails: True for a prediction that fails.
            is_slow: True for a prediction that runs until it is cancelled or its timeout passes.
            timeout: The timeout of the request.
        """

    def other_process(self) -> Provider:
        """Return a new provider for the same service, as a worker in another process creates it."""

    async def pass_deadline(self, request: PredictionRequest) -> None:
        """Let the deadline of a request pass, for example by moving a clock."""

    async def lose_answer(self) -> None:
        """Make the next create call take effect and lose its answer.

        Only providers with ``recover = "list"`` need this method.
        """

    async def webhook(self, prediction_id: str) -> tuple[Mapping[str, str], bytes]:
        """Return headers and body of a webhook about a prediction.

        Only providers with the capability ``webhook`` need this method.
        """


class _Sink:
    """A sink that keeps a picture in memory."""

    def __init__(self) -> None:
        self.data = bytearray()

    async def write(self, chunk: bytes) -> None:
        self.data += chunk

    def clear(self) -> None:
        self.data.clear()


Check = Callable[[ProviderHarness], Awaitable[None]]


def _expect(condition: object, message: str) -> None:
    if not condition:
        raise AssertionError(message)


async def _expect_error(call: Awaitable[Any], kind: type[BaseException], situation: str) -> Any:
    try:
        await call
    except kind as error:
        return error
    raise AssertionError(f"{situation}: {kind.__name__} was not raised")


async def _wait_until(
    provider: Provider, prediction_id: str, condition: Callable[[Prediction], bool], goal: str
) -> Prediction:
    try:
        async with asyncio.timeout(_STATE_TIMEOUT):
            while not condition(prediction := await provider.get(prediction_id)):
                await provider.wait(prediction_id, _POLL_INTERVAL)
    except TimeoutError:
        raise AssertionError(f"the prediction did not become {goal}: {prediction}") from None
    return prediction


async def _wait_until_ended(provider: Provider, prediction_id: str) -> Prediction:
    return await _wait_until(
        provider, prediction_id, lambda prediction: prediction.has_ended, "final"
    )


async def check_capabilities(harness: ProviderHarness) -> None:
    """A method whose capability is absent raises NotImplementedError."""
    provider = harness.provider
    capabilities = provider.capabilities
    _expect(isinstance(capabilities, Capabilities), "capabilities is not a Capabilities")
    _expect(capabilities.recover in ("list", "id", "none"), f"recover is {capabilities.recover!r}")
    if not capabilities.cancel:
        await _expect_error(provider.cancel("x"), NotImplementedError, "cancel")
    if capabilities.recover != "list":
        lost = provider.find_lost(await harness.request(), ())
        await _expect_error(lost, NotImplementedError, "find_lost")
    if not capabilities.webhook:
        await _expect_error(provider.verify_webhook({}, b""), NotImplementedError, "verify_webhook")


async def check_create_returns_before_the_end(harness: ProviderHarness) -> None:
    """A create call returns while the prediction runs, with its id."""
    async with asyncio.timeout(_STATE_TIMEOUT):
        created = await harness.provider.create(await harness.request(is_slow=True))
    _expect(not created.has_ended, f"the prediction is {created.status} already")
    _expect(0 < len(created.id) <= 200, f"the id has {len(created.id)} characters")
    current = await harness.provider.get(created.id)
    _expect(current.id == created.id, f"get returned the prediction {current.id}")
    await harness.provider.release(created.id)


async def check_ids_are_unique(harness: ProviderHarness) -> None:
    """Each create call makes a prediction of its own, also for equal inputs."""
    requests = [await harness.request() for _ in range(5)]
    created = await asyncio.gather(*(harness.provider.create(request) for request in requests))
    ids = {prediction.id for prediction in created}
    _expect(len(ids) == 5, "two predictions have the same id")


async def check_a_prediction_succeeds(harness: ProviderHarness) -> None:
    """A prediction succeeds, and each of its pictures can be downloaded more than once."""
    provider = harness.provider
    created = await provider.create(await harness.request(pictures=2))
    ended = await _wait_until_ended(provider, created.id)
    _expect(ended.status == "succeeded", f"the prediction is {ended.status}: {ended.error}")
    _expect(len(ended.outputs) == 2, f"the prediction has {len(ended.outputs)} outputs, not 2")
    _expect(len(set(ended.outputs)) == 2, "both outputs are the same")
    for output in ended.outputs:
        data = await provider.download(output)
        _expect(data.lstrip().startswith(_SIGNATURES), f"{data[:20]!r} is not a picture")
        _expect(data == await provider.download(output), "a second download differs")
        sink = _Sink()
        # The worker passes the same sink again after a broken download, so it may have old data.
        await sink.write(b"written before")
        await provider.download_into(output, sink)
        _expect(bytes(sink.data) == data, "download_into writes something else than download")
    json.dumps(dict(ended.metrics), allow_nan=False)
    _expect(await provider.get(created.id) == ended, "the final prediction changed")


async def check_a_failure_is_classified(harness: ProviderHarness) -> None:
    """A failed prediction has an error for operators, and a message for its owner.

    The message must not contain the prompt.
    """
    provider = harness.provider
    request = await harness.request(fails=True)
    created = await provider.create(request)
    ended = await _wait_until_ended(provider, created.id)
    _expect(ended.status == "failed", f"the prediction is {ended.status}")
    _expect(ended.outputs == (), "a failed prediction has outputs")
    _expect(ended.error, "the failed prediction has no error")
    text = str(ended.error)
    _expect("\0" not in text, "the error contains NUL, which a database cannot store")
    _expect(len(text) <= 8192, f"the error has {len(text)} characters, more than 8192")
    error = provider.classify(ended)
    _expect(isinstance(error, ProviderError), f"classify returned {error!r}")
    prompt = str(request.input.get("prompt", ""))
    _expect(not prompt or prompt not in error.owner_message, "the owner would see the prompt")


async def check_an_unknown_prediction_is_not_found(harness: ProviderHarness) -> None:
    """A read of an unknown id raises ResourceNotFound; a release of an unknown id does nothing."""
    provider, unknown = harness.provider, uuid4().hex
    await _expect_error(provider.get(unknown), ResourceNotFound, "get of an unknown id")
    await provider.release(unknown)


async def check_cancel(harness: ProviderHarness) -> None:
    """A cancel ends a running prediction, can be repeated, and does not change a final one."""
    provider = harness.provider
    if not provider.capabilities.cancel:
        return
    slow = await provider.create(await harness.request(is_slow=True))
    for _ in range(2):
        cancelled = await provider.cancel(slow.id)
        _expect(cancelled.id == slow.id, f"cancel returned the prediction {cancelled.id}")
    ended = await _wait_until_ended(provider, slow.id)
    _expect(ended.status in ("canceled", "aborted"), f"the prediction is {ended.status}")
    _expect(not ended.reached_deadline, "a cancelled prediction has reached_deadline")
    quick = await provider.create(await harness.request())
    before = await _wait_until_ended(provider, quick.id)
    await provider.cancel(quick.id)
    after = await provider.get(quick.id)
    _expect(after.status == before.status, f"a cancel changed {before.status} to {after.status}")


async def check_deadline(harness: ProviderHarness) -> None:
    """The provider stops a prediction at its deadline, and does not hide that it was stopped."""
    provider = harness.provider
    request = await harness.request(is_slow=True, timeout=0.5)
    _expect(
        provider.time_limit(request) >= request.timeout,
        "time_limit is shorter than the timeout of the request",
    )
    created = await provider.create(request)
    await harness.pass_deadline(request)
    ended = await _wait_until_ended(provider, created.id)
    _expect(ended.status != "succeeded", "a slow prediction succeeded")
    # A provider may abort a prediction whose model has not started at the deadline.
    is_reported = ended.reached_deadline or ended.status == "aborted"
    _expect(is_reported, f"the prediction is {ended.status} without reached_deadline")


async def check_progress(harness: ProviderHarness) -> None:
    """A provider with the capability reports progress from 0 to 100 before the end."""
    provider = harness.provider
    if not provider.capabilities.progress:
        return
    created = await provider.create(await harness.request(is_slow=True))
    progress = (
        await _wait_until(
            provider,
            created.id,
            lambda prediction: prediction.progress is not None,
            "a prediction with progress",
        )
    ).progress
    _expect(progress is not None and 0 <= progress.percent <= 100, "not a percentage")
    await provider.release(created.id)


async def check_another_process(harness: ProviderHarness) -> None:
    """Another worker attaches to a prediction, unless predictions end with their process."""
    provider, other_worker = harness.provider, harness.other_process()
    created = await provider.create(await harness.request())
    if provider.capabilities.recover == "none":
        call = other_worker.get(created.id)
        await _expect_error(call, ResourceNotFound, "get of another process")
    else:
        ended = await _wait_until_ended(other_worker, created.id)
        _expect(ended.status == "succeeded", f"the prediction is {ended.status}")
        await other_worker.download(ended.outputs[0])
    await other_worker.aclose()


async def check_a_lost_prediction_is_found(harness: ProviderHarness) -> None:
    """A prediction whose create answer was lost is found.

    The provider does not confuse it with a prediction of another request with equal input.
    """
    provider = harness.provider
    if provider.capabilities.recover != "list":
        return
    lost, equal = await harness.request(), await harness.request()
    _expect(await provider.find_lost(lost, ()) == [], "a prediction was found before the create")
    await harness.lose_answer()
    await _expect_error(provider.create(lost), ProviderError, "a create with a lost answer")
    created = await provider.create(equal)
    matches = await provider.find_lost(lost, {created.id})
    _expect(len(matches) == 1, f"{len(matches)} predictions were found, not 1")
    _expect(matches[0].prediction.id != created.id, "a prediction of another row was found")
    candidates = await provider.find_lost(lost, ())
    _expect(
        candidates[0].prediction.id == matches[0].prediction.id,
        "find_lost puts the prediction of another request first",
    )
    for candidate in candidates:
        is_wrong = candidate.is_certain and candidate.prediction.id == created.id
        _expect(not is_wrong, "find_lost is certain about the prediction of another request")


async def check_release_can_be_repeated(harness: ProviderHarness) -> None:
    """A final prediction can be released twice."""
    provider = harness.provider
    created = await provider.create(await harness.request())
    ended = await _wait_until_ended(provider, created.id)
    for _ in range(2):
        await provider.release(created.id)
    with contextlib.suppress(OutputError):  # the release may have deleted the picture
        await provider.download(ended.outputs[0])


async def check_wait_is_bounded(harness: ProviderHarness) -> None:
    """A wait ends after its timeout, for a prediction that still runs and for an unknown id."""
    provider = harness.provider
    created = await provider.create(await harness.request(is_slow=True))
    for prediction_id in (created.id, uuid4().hex):
        try:
            async with asyncio.timeout(_STATE_TIMEOUT):
                await provider.wait(prediction_id, 0.05)
        except TimeoutError:
            raise AssertionError("wait(…, 0.05) did not end") from None
    current = await provider.get(created.id)
    _expect(current.status not in FINAL_STATUSES, "the slow prediction has ended")
    await provider.release(created.id)


async def check_webhook(harness: ProviderHarness) -> None:
    """A webhook names its prediction; a webhook whose body was changed is refused."""
    provider = harness.provider
    if not provider.capabilities.webhook:
        return
    created = await provider.create(await harness.request())
    await _wait_until_ended(provider, created.id)
    headers, body = await harness.webhook(created.id)
    reported = await provider.verify_webhook(headers, body)
    _expect(reported.id == created.id, f"the webhook is about {reported.id}")
    for changed in (body + b" ", b"", b"{}"):
        call = provider.verify_webhook(headers, changed)
        await _expect_error(call, WebhookRefused, "a changed webhook")
    await _expect_error(provider.verify_webhook({}, body), WebhookRefused, "no signature")


async def check_close(harness: ProviderHarness) -> None:
    """A provider can be closed twice, even while a prediction runs, and used again."""
    provider = harness.provider
    await provider.create(await harness.request(is_slow=True))
    for _ in range(2):
        await provider.aclose()
    created = await provider.create(await harness.request())
    ended = await _wait_until_ended(provider, created.id)
    _expect(ended.status == "succeeded", f"after aclose() a prediction is {ended.status}")


#: All checks, each a function of a harness.
CHECKS: tuple[Check, ...] = (
    check_capabilities,
    check_create_returns_before_the_end,
    check_ids_are_unique,
    check_a_prediction_succeeds,
    check_a_failure_is_classified,
    check_an_unknown_prediction_is_not_found,
    check_cancel,
    check_deadline,
    check_progress,
    check_another_process,
    check_a_lost_prediction_is_found,
    check_release_can_be_repeated,
    check_wait_is_bounded,
    check_webhook,
    check_close,
)

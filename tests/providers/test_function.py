"""`FunctionProvider`, which runs a function of the project as a provider of pictures."""

import asyncio
import functools
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from PIL import Image

from picture_queue import PermanentFailure
from picture_queue.errors import InvalidArgument
from picture_queue.providers import errors, registry
from picture_queue.providers.base import Prediction, PredictionRequest
from picture_queue.providers.function import FunctionProvider
from picture_queue.providers.function_call import ProgressReporter, encode_pictures
from picture_queue.providers.function_progress import FileReporter

from . import drawing
from .test_contract import new_process_pool


def request(timeout: float = 60.0, **model_input: Any) -> PredictionRequest:
    return PredictionRequest(uuid4(), datetime.now(UTC), "own/model", model_input, timeout)


async def run(provider: FunctionProvider, **model_input: Any) -> Prediction:
    """Run a prediction to its end."""
    created = await provider.create(request(**model_input))
    async with asyncio.timeout(20):
        while not (prediction := await provider.get(created.id)).has_ended:
            await provider.wait(created.id, 20)
    return prediction


async def pictures(provider: FunctionProvider, **model_input: Any) -> list[bytes]:
    """Run a prediction, and return its pictures."""
    ended = await run(provider, **model_input)
    assert ended.status == "succeeded", ended.error
    return [await provider.download(output) for output in ended.outputs]


@pytest.mark.parametrize(
    "result",
    [
        drawing.png("x"),
        bytearray(drawing.png("x")),
        drawing.picture("x"),
        [drawing.picture("x")],
        (drawing.png("x"),),
    ],
)
async def test_a_function_returns_bytes_an_image_or_a_list(result: Any) -> None:
    (data,) = await pictures(FunctionProvider(lambda prompt: result), prompt="x")
    assert data == drawing.png("x")


async def test_a_function_returns_a_path(tmp_path: Path) -> None:
    provider = FunctionProvider(drawing.write_file)
    assert await pictures(provider, prompt="x", path=str(tmp_path / "a.png")) == [drawing.png("x")]


@pytest.mark.parametrize("result", [None, 5, {"image": b"x"}, [None], object()])
async def test_the_error_for_a_result_of_another_type_names_the_accepted_types(result: Any) -> None:
    ended = await run(FunctionProvider(lambda prompt: result), prompt="x")
    assert ended.status == "failed"
    assert "return bytes, a path, a Pillow image, or a list of these" in (ended.error or "")


def test_a_picture_above_the_limit_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "big.png"
    file.write_bytes(b"x" * 11)
    for item in (b"x" * 11, file):
        with pytest.raises(errors.OutputRefused, match="11 bytes, the limit is 10"):
            encode_pictures(item, 10)
    assert encode_pictures(b"x" * 10, 10) == [b"x" * 10]
    with pytest.raises(errors.OutputRefused, match="101 pictures"):
        encode_pictures([b"x"] * 101, 10)


@pytest.mark.parametrize(
    ("model_input", "message"),
    [
        ({"prompt": "x", "steps": 4}, "unexpected keyword argument 'steps'"),
        ({}, "missing a required argument: 'prompt'"),
    ],
)
async def test_an_input_without_a_parameter_is_refused(
    model_input: dict[str, Any], message: str
) -> None:
    provider = FunctionProvider(lambda prompt: b"")
    with pytest.raises(errors.InputRejected) as caught:
        await provider.create(request(**model_input))
    assert message in caught.value.owner_message


async def test_a_function_can_accept_all_inputs_and_the_model() -> None:
    received: dict[str, Any] = {}

    def draw(prompt: str, model_id: str, **inputs: Any) -> Image.Image:
        received.update(inputs, model_id=model_id)
        return drawing.picture(prompt)

    await pictures(FunctionProvider(draw), prompt="x", steps=4)
    assert received == {"steps": 4, "model_id": "own/model"}


async def test_a_callable_object_or_a_partial_can_be_the_function() -> None:
    class Pipeline:
        async def __call__(self, prompt: str) -> bytes:
            return drawing.png(prompt)

    assert await pictures(FunctionProvider(Pipeline()), prompt="x") == [drawing.png("x")]
    partial = functools.partial(drawing.draw_async, pictures=2)
    provider = FunctionProvider(partial)
    assert provider.capabilities.progress
    assert len(await pictures(provider, prompt="x")) == 2


@pytest.mark.parametrize(
    ("error", "kind", "retryable", "owner_message"),
    [
        (ValueError("secret"), errors.PredictionFailed, True, "failed to make this picture"),
        (MemoryError(), errors.InputTooLarge, False, "smaller size"),
        (errors.ContentRefused("no"), errors.ContentRefused, False, "unsuitable content"),
        (PermanentFailure("No cats."), errors.PredictionFailed, False, "No cats."),
        (SystemExit(1), errors.PredictionFailed, True, "failed to make this picture"),
        (TimeoutError(), errors.PredictionFailed, True, "failed to make this picture"),
    ],
)
@pytest.mark.parametrize("is_async", [True, False])
async def test_the_exception_of_a_function_determines_the_error_of_the_prediction(
    error: BaseException,
    kind: type[errors.ProviderError],
    retryable: bool,
    owner_message: str,
    is_async: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(prompt: str) -> bytes:
        raise error

    async def fail_async(prompt: str) -> bytes:
        raise error

    provider = FunctionProvider(fail_async if is_async else fail)
    caplog.set_level(logging.WARNING)
    ended = await run(provider, prompt="x")
    classified = provider.classify(ended)
    assert (ended.status, type(classified)) == ("failed", kind)
    assert classified.retryable is retryable
    assert owner_message in classified.owner_message
    assert "secret" not in classified.owner_message
    assert type(error).__name__ in caplog.text


async def test_a_provider_error_of_another_process_keeps_its_class_and_fields(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[2])
    provider = FunctionProvider(drawing.refuse, executor=new_process_pool)
    ended = await run(provider, prompt="x")
    error = provider.classify(ended)
    assert type(error) is errors.TooManyRequests
    assert (error.retry_after, error.uses_attempt) == (7.0, False)
    await provider.aclose()


async def test_a_process_that_dies_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[2])
    provider = FunctionProvider(drawing.exit_once, executor=new_process_pool)
    died = await run(provider, prompt="exit")
    assert type(provider.classify(died)) is errors.Interrupted
    assert (await run(provider, prompt="x")).status == "succeeded"
    await provider.aclose()


async def test_create_fails_if_the_factory_of_the_executor_raises() -> None:
    def no_executor() -> ThreadPoolExecutor:
        raise OSError("no GPU")

    provider = FunctionProvider(lambda prompt: b"", executor=no_executor)
    with pytest.raises(errors.PredictionFailed, match="no GPU"):
        await provider.create(request(prompt="x"))


class _BlockingFunction:
    """A plain function that waits for the event `proceed`, and then reports progress.

    A cancelled run ends at this report.
    """

    def __init__(self) -> None:
        self.started, self.proceed = threading.Event(), threading.Event()
        self.ended: list[str] = []

    def __call__(self, prompt: str, progress: ProgressReporter) -> bytes:
        self.started.set()
        assert self.proceed.wait(20)
        try:
            progress(50)
        except asyncio.CancelledError:
            self.ended.append("cancelled")
            raise
        self.ended.append("drawn")
        return drawing.png(prompt)


async def test_a_cancel_stops_a_plain_function_at_its_next_report_of_progress() -> None:
    function = _BlockingFunction()
    provider = FunctionProvider(function)
    first = await provider.create(request(prompt="x"))
    assert await asyncio.to_thread(function.started.wait, 20)
    assert (await provider.cancel(first.id)).status == "canceled"
    # The only thread is busy with the first run. So the second run is cancelled before its start.
    second = await provider.create(request(prompt="x"))
    assert (await provider.get(second.id)).status == "starting"
    await provider.cancel(second.id)
    third = await provider.create(request(prompt="x"))
    function.proceed.set()
    async with asyncio.timeout(20):
        while not (await provider.get(third.id)).has_ended:
            await provider.wait(third.id, 20)
    assert function.ended == ["cancelled", "drawn"]


async def test_a_run_that_never_started_is_aborted_at_its_deadline() -> None:
    function = _BlockingFunction()
    provider = FunctionProvider(function)
    await provider.create(request(prompt="x"))
    assert await asyncio.to_thread(function.started.wait, 20)
    # The only thread is busy with the first run.
    second = await provider.create(request(timeout=0.05, prompt="x"))
    await provider.wait(second.id, 20)
    ended = await provider.get(second.id)
    assert (ended.status, ended.reached_deadline) == ("aborted", True)
    function.proceed.set()
    await provider.aclose()


async def test_one_plain_function_runs_at_a_time_by_default() -> None:
    running, max_running = 0, 0
    lock = threading.Lock()

    def draw(prompt: str) -> bytes:
        nonlocal running, max_running
        with lock:
            running += 1
            max_running = max(max_running, running)
        result = drawing.png(prompt)
        with lock:
            running -= 1
        return result

    provider = FunctionProvider(draw)
    await asyncio.gather(*(run(provider, prompt="x") for _ in range(20)))
    assert max_running == 1


async def test_an_async_function_that_ignores_its_cancellation_does_not_delay_the_others() -> None:
    may_end = asyncio.Event()

    async def draw(prompt: str) -> bytes:
        while not may_end.is_set():
            try:
                await may_end.wait()
            except asyncio.CancelledError:
                continue
        return drawing.png(prompt)

    provider = FunctionProvider(draw)
    created = await provider.create(request(prompt="x"))
    await asyncio.sleep(0)
    assert (await provider.cancel(created.id)).status == "canceled"
    may_end.set()
    await asyncio.sleep(0)
    assert (await provider.get(created.id)).status == "canceled"
    await provider.release(created.id)


async def test_pictures_are_dropped_after_the_retention() -> None:
    provider = FunctionProvider(drawing.draw_async, retention=0.05)
    ended = await run(provider, prompt="x")
    await provider.download(ended.outputs[0])
    async with asyncio.timeout(20):
        while provider._runs:  # noqa: ASYNC110 - a timer deletes the run
            await asyncio.sleep(0.01)
    with pytest.raises(errors.OutputExpired):
        await provider.download(ended.outputs[0])


async def test_a_run_does_not_end_with_the_task_that_started_it() -> None:
    provider = FunctionProvider(drawing.draw_async)
    created = await asyncio.create_task(provider.create(request(prompt="x", is_slow=True)))
    await provider.wait(created.id, 0.01)
    assert (await provider.get(created.id)).status == "processing"
    await provider.aclose()


@pytest.mark.parametrize("percent", [-1, 101, float("nan")])
async def test_a_wrong_percentage_fails_with_its_value(percent: float) -> None:
    def draw(prompt: str, progress: ProgressReporter) -> bytes:
        progress(percent)
        return b""

    ended = await run(FunctionProvider(draw), prompt="x")
    assert f"progress({percent!r})" in (ended.error or "")


def test_a_reporter_on_another_machine_reports_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    reporter = FileReporter()
    reporter.open()
    reporter.start()
    assert reporter.read().has_started
    reporter.cancel()
    with pytest.raises(asyncio.CancelledError):
        reporter.start()
    reporter.close()
    reporter = FileReporter()
    reporter.open()
    monkeypatch.setattr("socket.gethostname", lambda: "elsewhere")
    reporter.start()
    reporter(50)
    assert not reporter.read().has_started
    reporter.cancel()
    reporter.start()
    reporter.close()


@pytest.mark.parametrize(
    ("create", "message"),
    [
        (lambda: FunctionProvider("draw"), "not a function"),  # type: ignore[arg-type]
        (
            lambda: FunctionProvider(drawing.draw_async, executor=ThreadPoolExecutor),
            "async and has an executor",
        ),
        (lambda: registry.resolve("My GPU", drawing.draw), "'My GPU'"),
        (lambda: registry.resolve("gpu", 5), "is 5"),  # type: ignore[arg-type]
        (lambda: registry.resolve("gpu", FunctionProvider), "is <class"),
    ],
)
def test_an_invalid_provider_is_refused(create: Callable[[], Any], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        create()

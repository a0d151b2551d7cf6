"""Each check in `picture_queue.testing.providers` detects the fault that it is for."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from picture_queue.providers import errors
from picture_queue.providers.base import Capabilities, Prediction, PredictionRequest
from picture_queue.providers.function import FunctionProvider
from picture_queue.testing import providers as checks

from . import drawing
from .test_contract import _FunctionHarness


class _FaultyProvider(FunctionProvider):
    """A provider whose answers a test changes.

    Args:
        faults: Functions that change the answer of a method, by the name of the method. The fault
            `not_found` replaces the error for an unknown prediction. With `cancel`, a cancel does
            nothing. With `release`, a release of an unknown prediction is an error.
    """

    def __init__(self, **faults: Callable[..., Any]) -> None:
        super().__init__(drawing.draw_async)
        self.faults = faults

    def _change(self, name: str, answer: Any) -> Any:
        return self.faults[name](answer) if name in self.faults else answer

    async def create(self, request: PredictionRequest) -> Prediction:
        return self._change("create", await super().create(request))

    async def get(self, prediction_id: str) -> Prediction:
        if "not_found" in self.faults:
            try:
                return await super().get(prediction_id)
            except errors.ResourceNotFound:
                return self.faults["not_found"](prediction_id)
        return self._change("get", await super().get(prediction_id))

    async def cancel(self, prediction_id: str) -> Prediction:
        if "cancel" in self.faults:
            return await self.get(prediction_id)
        return await super().cancel(prediction_id)

    async def download(self, output: str) -> bytes:
        return self._change("download", await super().download(output))

    def classify(self, prediction: Prediction) -> errors.ProviderError:
        return self._change("classify", super().classify(prediction))

    async def release(self, prediction_id: str) -> None:
        if "release" in self.faults:
            self._find_run(prediction_id)
        await super().release(prediction_id)

    async def wait(self, prediction_id: str, seconds: float) -> None:
        await super().wait(prediction_id, self._change("wait", seconds))


def _replacing(**fields: Any) -> Callable[[Prediction], Prediction]:
    return lambda prediction: replace(prediction, **fields)


def _reveal_prompt(error: errors.ProviderError) -> errors.ProviderError:
    return errors.PredictionFailed("It failed", owner_message="could not draw a boat")


@pytest.mark.parametrize(
    ("check", "faults"),
    [
        (checks.check_create_returns_before_the_end, {"create": _replacing(status="succeeded")}),
        (checks.check_create_returns_before_the_end, {"create": _replacing(id="x" * 201)}),
        (checks.check_ids_are_unique, {"create": _replacing(id="same")}),
        (checks.check_a_prediction_succeeds, {"get": _replacing(outputs=())}),
        (checks.check_a_prediction_succeeds, {"download": lambda data: b"<html>"}),
        (checks.check_a_prediction_succeeds, {"get": _replacing(metrics={"x": float("nan")})}),
        (checks.check_a_failure_is_classified, {"get": _replacing(error="\0")}),
        (checks.check_a_failure_is_classified, {"get": _replacing(error=None)}),
        (checks.check_a_failure_is_classified, {"classify": _reveal_prompt}),
        (
            checks.check_an_unknown_prediction_is_not_found,
            {"not_found": lambda id_: Prediction(id_, "failed")},
        ),
        (checks.check_cancel, {"cancel": bool}),
        (checks.check_deadline, {"get": _replacing(reached_deadline=False)}),
        (checks.check_progress, {"get": _replacing(progress=None)}),
        (checks.check_another_process, {"not_found": lambda id_: Prediction(id_, "failed")}),
        (checks.check_release_can_be_repeated, {"release": bool}),
        (checks.check_wait_is_bounded, {"wait": lambda seconds: 60.0}),
    ],
)
async def test_a_check_fails_for_a_provider_with_the_fault(
    check: Callable[..., Awaitable[None]],
    faults: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(checks, "_STATE_TIMEOUT", 0.5)
    harness = _FunctionHarness(drawing.draw_async)
    harness.provider = _FaultyProvider(**faults)
    harness.other_process = lambda: _FaultyProvider(**faults)  # type: ignore[method-assign]
    try:
        with pytest.raises((AssertionError, ValueError, errors.ResourceNotFound)):
            await check(harness)
    finally:
        await harness.provider.aclose()


async def test_a_capability_that_contradicts_the_methods_is_detected() -> None:
    harness = _FunctionHarness(drawing.draw_async)
    harness.provider.capabilities = Capabilities(cancel=True, recover="none")
    await checks.check_capabilities(harness)
    harness.provider.capabilities = Capabilities(cancel=False, recover="none")
    with pytest.raises(errors.ResourceNotFound):  # the method `cancel` exists
        await checks.check_capabilities(harness)

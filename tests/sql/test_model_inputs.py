"""The contract of each model of the catalogue: which inputs start_generation accepts and refuses.

Hypothesis builds inputs from the list of inputs of the model.
"""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from picture_queue.providers.replicate.catalog import CatalogModel, ModelInput, models

from .conftest import transaction

START = "select start_generation($1, $2, $3, $4)"
OFFERED = [model for model in models().values() if model.unavailable_reason is None]
UNAVAILABLE = [model for model in models().values() if model.unavailable_reason is not None]
#: Inputs that the default input rules refuse or lock.
REFUSED_OR_LOCKED = (
    "disable_safety_checker",
    "safety_filter_level",
    "replicate_weights",
    "lora_weights",
    "lora_scale",
    "lora_links",
    "custom_sd_model",
)
#: The highest values that the default input rules permit.
CAPS = {
    "safety_tolerance": 2,
    "number_of_images": 4,
    "max_images": 4,
    "width": 2048,
    "height": 2048,
    "downscaling_resolution": 2048,
    "num_inference_steps": 100,
    "num_inference_steps_prior": 100,
    "refine_steps": 100,
    "scale": 4,
    "scale_factor": 4,
    "upscale": 4,
}
JOB_TYPES = {
    "text-to-image": "generate-image",
    "image-variation": "vary-image",
    "image-edit": "edit-image",
    "upscale": "upscale-image",
    "background-removal": "remove-background",
    "vector": "vectorize-image",
}
EIGHT_EXAMPLES = settings(
    max_examples=8, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)
by_model = pytest.mark.parametrize("model", OFFERED, ids=lambda model: model.id)


class Caller:
    """A connection in a transaction, for tests that hypothesis calls without an event loop."""

    def __init__(self, url: str) -> None:
        self.loop = asyncio.new_event_loop()
        self._context = transaction(url)
        self.db = self.loop.run_until_complete(self._context.__aenter__())

    def start(self, model: CatalogModel, model_input: dict[str, Any], **options: Any) -> Any:
        prompt = "a cat" if model.input("prompt") else None
        return self.loop.run_until_complete(
            self.db.value(START, prompt, model.id, model_input, options)
        )

    def refusal(self, model: CatalogModel, model_input: dict[str, Any], **options: Any) -> Any:
        prompt = "a cat" if model.input("prompt") else None
        return self.loop.run_until_complete(
            self.db.refusal(START, prompt, model.id, model_input, options)
        )

    def run(self, awaitable: Any) -> Any:
        return self.loop.run_until_complete(awaitable)

    def close(self) -> None:
        self.loop.run_until_complete(self._context.__aexit__(None, None, None))
        self.loop.close()


@pytest.fixture
def caller(stack: Any) -> Iterator[Caller]:
    new_caller = Caller(stack.db_url)
    yield new_caller
    new_caller.close()


def valid_values(spec: ModelInput) -> st.SearchStrategy[Any]:
    """Return a strategy for the values that the model and the default rules permit."""
    urls = st.sampled_from(["https://example.com/a.png", "https://example.com/b.webp?x=1"])
    if spec.enum:
        return st.sampled_from(spec.enum)
    low = spec.minimum if spec.minimum is not None else 1
    high = spec.maximum if spec.maximum is not None else low + 100
    high = min(high, CAPS.get(spec.name, high))
    match spec.type:
        case "integer":
            return st.integers(int(low), int(high))
        case "number":
            return st.floats(low, high, allow_nan=False).map(lambda number: round(number, 3))
        case "boolean":
            return st.booleans()
        case "array":
            return st.lists(urls, max_size=10)
    return urls if spec.format else st.text("abc äß漢字", min_size=1, max_size=50)


def valid_inputs(model: CatalogModel) -> st.SearchStrategy[dict[str, Any]]:
    """Return a strategy for valid inputs of a model."""
    named = {
        spec.name: valid_values(spec)
        for spec in model.inputs
        if spec.name != "prompt" and spec.name not in REFUSED_OR_LOCKED
    }
    required = {spec.name for spec in model.inputs if spec.required}
    return st.fixed_dictionaries(
        {name: value for name, value in named.items() if name in required},
        optional={name: value for name, value in named.items() if name not in required},
    )


def invalid_values(spec: ModelInput) -> list[Any]:
    """Return values that do not fit an input."""
    wrong: list[Any] = [None, {"a": 1}]
    wrong.append("text" if spec.type in ("integer", "number", "boolean", "array") else 7)
    if spec.type == "integer":
        wrong += [1.5, 10**30]
    if spec.minimum is not None:
        wrong.append(spec.minimum - 1)
    if spec.maximum is not None:
        wrong.append(spec.maximum + 1)
    if spec.enum:
        wrong.append("no such value" if spec.type == "string" else 77_777)
    if spec.format:
        link = "http://example.com/a.png"
        wrong.append([link] if spec.type == "array" else link)
    if spec.type == "string" and not spec.format and not spec.enum:
        wrong.append("x" * 4001)
    if spec.type == "array":
        wrong.append(["https://example.com/a.png"] * 101)
    return wrong


@by_model
def test_each_model_accepts_inputs_of_its_schema(caller: Caller, model: CatalogModel) -> None:
    @EIGHT_EXAMPLES
    @given(valid_inputs(model))
    def accepts(model_input: dict[str, Any]) -> None:
        started = caller.start(model, model_input)
        assert started["status"] == "pending"
        assert "warnings" not in started

    accepts()


@by_model
def test_each_model_refuses_an_input_that_does_not_fit(caller: Caller, model: CatalogModel) -> None:
    required = {
        spec.name: "https://example.com/a.png"
        for spec in model.inputs
        if spec.required and spec.name != "prompt"
    }
    for spec in model.inputs:
        for value in [] if spec.name == "prompt" else invalid_values(spec):
            refused = caller.refusal(model, {**required, spec.name: value})
            assert refused.message.startswith("PQ_INVALID_INPUT: ")
            assert refused.detail.startswith(f"input.{spec.name} is "), (spec.name, value)


@by_model
def test_each_model_requires_its_required_inputs(caller: Caller, model: CatalogModel) -> None:
    for spec in model.inputs:
        if spec.required and spec.name != "prompt":
            assert caller.refusal(model, {}).detail == f"input.{spec.name} is missing"


@by_model
def test_the_kind_of_a_model_decides_the_job_type(caller: Caller, model: CatalogModel) -> None:
    required = {
        spec.name: "https://example.com/a.png"
        for spec in model.inputs
        if spec.required and spec.name != "prompt"
    }
    for options in ({}, *({"kind": kind} for kind in (model.kind, *model.also_kinds))):
        started = caller.start(model, required, **options)
        job = caller.run(caller.db.job(started["job_id"]))
        assert job["job_type"] == JOB_TYPES[options.get("kind", model.kind)]
        assert "provider:replicate" in job["limit_keys"]
        assert f"model:{model.id}" in job["limit_keys"]
    other_kind = min(set(JOB_TYPES) - {model.kind, *model.also_kinds})
    refused = caller.refusal(model, required, kind=other_kind)
    assert refused.message.startswith("PQ_INVALID_ARGUMENT: ")
    assert refused.detail.startswith(f"options.kind is {other_kind}, and {model.id} does ")


@by_model
def test_an_unknown_input_is_refused_or_reported(caller: Caller, model: CatalogModel) -> None:
    required = {
        spec.name: "https://example.com/a.png"
        for spec in model.inputs
        if spec.required and spec.name != "prompt"
    }
    model_input = {**required, "zzz_unknown": 1}
    if model.inputs_complete:
        refused = caller.refusal(model, model_input)
        assert refused.detail == f"input.zzz_unknown is 1 and is not an input of {model.id}"
    else:
        started = caller.start(model, model_input)
        assert started["warnings"] == [
            f"input.zzz_unknown is not among the known inputs of {model.id}, "
            "and is passed on unchecked"
        ]


@pytest.mark.parametrize("model", UNAVAILABLE, ids=lambda model: model.id)
def test_a_model_that_cannot_be_offered_is_refused_with_the_reason(
    caller: Caller, model: CatalogModel
) -> None:
    refused = caller.refusal(model, {})
    assert refused.message.startswith("PQ_UNKNOWN_MODEL: ")
    assert refused.detail == f"model_id is '{model.id}', which is not offered: " + str(
        model.unavailable_reason
    )


def test_a_model_that_needs_a_key_of_another_provider_is_not_offered() -> None:
    assert [model.id for model in UNAVAILABLE] == ["openai/gpt-image-1"]
    for model in OFFERED:
        assert [spec.name for spec in model.inputs if "api_key" in spec.name] == []


def test_an_error_about_a_mistyped_input_suggests_the_nearest_name(
    caller: Caller,
) -> None:
    model = models()["black-forest-labs/flux-schnell"]
    for typed, meant in (
        ("num_output", "num_outputs"),
        ("aspectratio", "aspect_ratio"),
        ("Seed", "seed"),
        ("out_format", "output_format"),
        ("megapixel", "megapixels"),
    ):
        refused = caller.refusal(model, {typed: 1})
        assert refused.hint.startswith(f"did you mean {meant}? inputs of {model.id}: "), typed
    assert caller.refusal(model, {"zzzzzz": 1}).hint.startswith("inputs of ")

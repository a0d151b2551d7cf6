"""The inputs and the output of a model, read from its schema at Replicate."""

import copy
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import respx

from picture_queue.local.simulator import SimulatorSettings, create_app
from picture_queue.providers import errors
from picture_queue.providers.replicate.catalog import models
from picture_queue.providers.replicate.client import BASE_URL, ReplicateClient
from picture_queue.providers.replicate.http import RetryPolicy
from picture_queue.providers.replicate.schema import (
    FetchedModel,
    describe_changes,
    fetch_model,
)

FIXTURE = Path(__file__).parents[1] / "fixtures" / "replicate" / "model_200.json"
MODEL_RESPONSE = json.loads(FIXTURE.read_text("utf-8"))["cases"][0]["response"]["body"]
MODEL_ID = "acme/painter"
NO_RETRIES = RetryPolicy(max_attempts=1)
#: The inputs in the catalogue's form, as they must be read from `MODEL_RESPONSE`.
INPUTS = [
    {"name": "prompt", "type": "string", "required": True},
    {"name": "image", "type": "string", "required": True, "format": "uri"},
    {
        "name": "scale",
        "type": "number",
        "required": False,
        "minimum": 1,
        "maximum": 4,
        "default": 2,
    },
    {
        "name": "num_outputs",
        "type": "integer",
        "required": False,
        "minimum": 1,
        "maximum": 4,
        "default": 1,
    },
    {"name": "seed", "type": "integer", "required": False},
    {
        "name": "mode",
        "type": "string",
        "required": False,
        "enum": ["fast", "good"],
        "default": "fast",
    },
    {"name": "references", "type": "array", "required": False, "format": "uri", "default": []},
    {"name": "tags", "type": "array", "required": False, "default": ["a"]},
    {"name": "raw", "type": "boolean", "required": False, "default": False},
]


@pytest.fixture
async def client() -> AsyncIterator[ReplicateClient]:
    async with ReplicateClient("r8_test_token", retry=NO_RETRIES) as client:
        yield client


def model_response(**changes: Any) -> dict[str, Any]:
    return {**copy.deepcopy(MODEL_RESPONSE), **changes}


def schemas(body: dict[str, Any]) -> Any:
    return body["latest_version"]["openapi_schema"]["components"]["schemas"]


async def fetch(client: ReplicateClient, body: Any, version: str | None = None) -> FetchedModel:
    with respx.mock as router:
        router.get(f"{BASE_URL}/models/{MODEL_ID}").mock(httpx.Response(200, json=body))
        return await fetch_model(client, MODEL_ID, version)


async def test_the_inputs_and_the_output_are_read(client: ReplicateClient) -> None:
    fetched = await fetch(client, MODEL_RESPONSE)
    assert list(fetched.inputs) == INPUTS
    assert (fetched.official, fetched.version) == (False, "1" * 64)
    assert (fetched.output, fetched.max_outputs_param) == ("uri[]", "num_outputs")
    assert not fetched.inputs_complete  # The input `settings` is an object, which is not checked.
    assert fetched.secrets == ()  # The only secret input is optional.
    assert fetched.guess_kind() is None  # The model needs a picture, so its kind is ambiguous.


async def test_an_official_model_has_no_version(client: ReplicateClient) -> None:
    fetched = await fetch(client, model_response(is_official=True))
    assert (fetched.official, fetched.version) == (True, None)


async def test_a_version_is_read_from_its_own_address(client: ReplicateClient) -> None:
    version = copy.deepcopy(MODEL_RESPONSE["latest_version"])
    version["id"] = "2" * 64
    del version["openapi_schema"]["components"]["schemas"]["Input"]["properties"]["settings"]
    with respx.mock as router:
        address = f"{BASE_URL}/models/{MODEL_ID}"
        router.get(address).mock(httpx.Response(200, json=model_response(is_official=True)))
        router.get(f"{address}/versions/{'2' * 64}").mock(httpx.Response(200, json=version))
        fetched = await fetch_model(client, MODEL_ID, "2" * 64)
    assert (fetched.official, fetched.version, fetched.inputs_complete) == (False, "2" * 64, True)


async def test_a_required_secret_is_reported(client: ReplicateClient) -> None:
    body = model_response()
    schemas(body)["Input"]["required"].append("hf_token")
    assert (await fetch(client, body)).secrets == ("hf_token",)


async def test_a_model_that_needs_only_a_prompt_is_text_to_image(client: ReplicateClient) -> None:
    body = model_response()
    schemas(body)["Input"]["required"] = ["prompt"]
    assert (await fetch(client, body)).guess_kind() == "text-to-image"


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ({"type": "string", "format": "uri"}, "uri"),
        ({"type": "array", "items": {"type": "string", "format": "uri"}}, "uri[]"),
        ({"type": "string"}, None),
        ({"type": "object", "properties": {"image": {"format": "uri"}}}, None),
        (None, None),
    ],
)
async def test_the_output_is_one_file_or_a_list(client, output, expected) -> None:
    body = model_response()
    schemas(body)["Output"] = output
    assert (await fetch(client, body)).output == expected


@pytest.mark.parametrize(
    "latest",
    [None, {}, {"openapi_schema": None}, {"openapi_schema": {"components": {"schemas": []}}}],
)
async def test_a_model_without_a_schema_is_refused(client: ReplicateClient, latest: Any) -> None:
    with pytest.raises(errors.RequestRefused):
        await fetch(client, model_response(latest_version=latest))


@pytest.mark.parametrize("body", [[], "model", 7])
async def test_an_unreadable_answer_is_reported(client: ReplicateClient, body: Any) -> None:
    with pytest.raises(errors.ServiceUnavailable):
        await fetch(client, body)


@pytest.mark.parametrize(
    "property_schema",
    [
        {"type": 7},
        {"enum": [None]},
        {"allOf": "x"},
        {"anyOf": [7]},
        {"$ref": 7},
        {"type": "integer", "minimum": "low", "default": "a"},
        {"type": "array", "items": 7},
    ],
)
async def test_an_invalid_property_does_not_hide_the_other_inputs(
    client: ReplicateClient, property_schema
) -> None:
    body = model_response()
    schemas(body)["Input"]["properties"]["invalid"] = property_schema
    names = [entry["name"] for entry in (await fetch(client, body)).inputs]
    assert set(names) - {"invalid"} == {entry["name"] for entry in INPUTS}


async def test_the_changes_to_the_known_model_are_described(client: ReplicateClient) -> None:
    fetched = await fetch(client, MODEL_RESPONSE)
    known: dict[str, Any] = {
        "official": False,
        "version": "0" * 64,
        "inputs": [
            *(entry for entry in INPUTS if entry["name"] not in ("seed", "scale")),
            {**INPUTS[2], "maximum": 10},
            {"name": "old", "type": "string"},
        ],
        "inputs_complete": False,
        "output": "uri[]",
        "max_outputs_param": "num_outputs",
    }
    changes = fetched.changes_to(known)
    assert changes.keys() == {"version", "inputs"}
    assert describe_changes(known, changes) == [
        f'version: "{"0" * 64}" → "{"1" * 64}"',
        "input old: removed",
        "input scale: maximum 10 → 4",
        'input seed: added (type "integer")',
    ]
    assert fetched.changes_to({**known, "version": "1" * 64, "inputs": INPUTS}) == {}


async def test_the_models_of_the_simulator_do_not_differ_from_the_catalogue() -> None:
    app = create_app(SimulatorSettings(token="r8_test"))
    http = httpx.AsyncClient(transport=httpx.ASGITransport(app))
    url = "http://127.0.0.1/v1"
    async with http, ReplicateClient("r8_test", base_url=url, http=http) as client:
        offered = [model for model in models().values() if model.unavailable_reason is None]
        for model in offered:
            # If the catalogue has no version of a community model, the fetched version differs.
            if model.official or (model.official is False and model.version):
                fetched = await fetch_model(client, model.id)
                changes = fetched.changes_to(model.model_dump(mode="json"))
                assert changes.keys() <= {"inputs_complete"}, (model.id, changes)

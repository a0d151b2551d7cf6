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
BODY = json.loads(FIXTURE.read_text("utf-8"))["cases"][0]["response"]["body"]
NAME = "acme/painter"
FAST = RetryPolicy(max_attempts=1)
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
    async with ReplicateClient("r8_test_token", retry=FAST) as client:
        yield client


def changed(**model: Any) -> dict[str, Any]:
    return {**copy.deepcopy(BODY), **model}


def schemas(body: dict[str, Any]) -> Any:
    return body["latest_version"]["openapi_schema"]["components"]["schemas"]


async def fetch(client: ReplicateClient, body: Any, version: str | None = None) -> FetchedModel:
    with respx.mock as router:
        router.get(f"{BASE_URL}/models/{NAME}").mock(httpx.Response(200, json=body))
        return await fetch_model(client, NAME, version)


async def test_the_inputs_and_the_output_are_read(client: ReplicateClient) -> None:
    found = await fetch(client, BODY)
    assert list(found.inputs) == INPUTS
    assert (found.official, found.version) == (False, "1" * 64)
    assert (found.output, found.max_outputs_param) == ("uri[]", "num_outputs")
    assert not found.inputs_complete  # the type object cannot be checked
    assert found.secrets == ()  # the only secret is optional
    assert found.guess_kind() is None  # it needs a picture


async def test_an_official_model_has_no_version(client: ReplicateClient) -> None:
    found = await fetch(client, changed(is_official=True))
    assert (found.official, found.version) == (True, None)


async def test_a_version_is_read_from_its_own_address(client: ReplicateClient) -> None:
    version = copy.deepcopy(BODY["latest_version"])
    version["id"] = "2" * 64
    del version["openapi_schema"]["components"]["schemas"]["Input"]["properties"]["settings"]
    with respx.mock as router:
        address = f"{BASE_URL}/models/{NAME}"
        router.get(address).mock(httpx.Response(200, json=changed(is_official=True)))
        router.get(f"{address}/versions/{'2' * 64}").mock(httpx.Response(200, json=version))
        found = await fetch_model(client, NAME, "2" * 64)
    assert (found.official, found.version, found.inputs_complete) == (False, "2" * 64, True)


async def test_a_required_secret_is_reported(client: ReplicateClient) -> None:
    body = changed()
    schemas(body)["Input"]["required"].append("hf_token")
    assert (await fetch(client, body)).secrets == ("hf_token",)


async def test_a_model_that_needs_only_a_prompt_is_text_to_image(client: ReplicateClient) -> None:
    body = changed()
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
    body = changed()
    schemas(body)["Output"] = output
    assert (await fetch(client, body)).output == expected


@pytest.mark.parametrize(
    "latest",
    [None, {}, {"openapi_schema": None}, {"openapi_schema": {"components": {"schemas": []}}}],
)
async def test_a_model_without_a_schema_is_refused(client: ReplicateClient, latest: Any) -> None:
    with pytest.raises(errors.RequestRefused):
        await fetch(client, changed(latest_version=latest))


@pytest.mark.parametrize("body", [[], "model", 7])
async def test_an_unreadable_answer_is_reported(client: ReplicateClient, body: Any) -> None:
    with pytest.raises(errors.ServiceUnavailable):
        await fetch(client, body)


@pytest.mark.parametrize(
    "given",
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
async def test_an_odd_property_does_not_hide_the_others(client: ReplicateClient, given) -> None:
    body = changed()
    schemas(body)["Input"]["properties"]["odd"] = given
    names = [entry["name"] for entry in (await fetch(client, body)).inputs]
    assert set(names) - {"odd"} == {entry["name"] for entry in INPUTS}


async def test_the_differences_are_described(client: ReplicateClient) -> None:
    found = await fetch(client, BODY)
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
    changes = found.changes_to(known)
    assert changes.keys() == {"version", "inputs"}
    assert describe_changes(known, changes) == [
        f'version: "{"0" * 64}" → "{"1" * 64}"',
        "input old: removed",
        "input scale: maximum 10 → 4",
        'input seed: added (type "integer")',
    ]
    assert found.changes_to({**known, "version": "1" * 64, "inputs": INPUTS}) == {}


async def test_the_models_of_the_simulator_do_not_differ_from_the_catalogue() -> None:
    """Each model that the simulator describes is read as the catalogue has it."""
    app = create_app(SimulatorSettings(token="r8_test"))
    http = httpx.AsyncClient(transport=httpx.ASGITransport(app))
    url = "http://127.0.0.1/v1"
    async with http, ReplicateClient("r8_test", base_url=url, http=http) as client:
        offered = [model for model in models().values() if model.unavailable_reason is None]
        for model in offered:
            if model.official or (model.official is False and model.version):
                found = await fetch_model(client, model.id)
                changes = found.changes_to(model.model_dump(mode="json"))
                assert changes.keys() <= {"inputs_complete"}, (model.id, changes)

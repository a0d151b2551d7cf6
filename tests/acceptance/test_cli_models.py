"""``picture-queue models`` and ``rules``: the models of the project, and rules for their inputs."""

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import psycopg
import pytest
import respx
from typer.testing import Result

from picture_queue.settings import REPLICATE_URL

Cli = Callable[..., Result]
Rpc = Callable[..., Any]

FIXTURE = Path(__file__).parents[1] / "fixtures" / "replicate" / "model_200.json"
MODEL_RESPONSE = json.loads(FIXTURE.read_text("utf-8"))["cases"][0]["response"]["body"]
SCHNELL = "black-forest-labs/flux-schnell"
TOKEN_VARIABLE = {"REPLICATE_API_TOKEN": "r8_test_token_of_this_file"}


@pytest.fixture
def replicate() -> Iterator[respx.Router]:
    """A router for fake responses of Replicate; calls to the project are sent."""
    with respx.mock(assert_all_called=False) as router:
        router.route(host="127.0.0.1").pass_through()
        yield router


@pytest.fixture
def model_id(stack: Any) -> Iterator[str]:
    """The id of a model that the project does not have; the test may add the model."""
    model_id = f"acme/painter-{uuid4().hex[:8]}"
    yield model_id
    with psycopg.connect(stack.db_url, autocommit=True) as connection:
        connection.execute("delete from picture_queue.model where model_id = %s", [model_id])


def mock_model(replicate: respx.Router, model_id: str, **changes: Any) -> None:
    """Let Replicate describe a model as in the fixture, with other values of some fields."""
    body = {**MODEL_RESPONSE, **changes}
    replicate.get(f"{REPLICATE_URL}/models/{model_id}").mock(httpx.Response(200, json=body))


def test_a_model_is_added_after_its_inputs_were_shown(
    cli: Cli, rpc: Rpc, replicate: respx.Router, model_id: str
) -> None:
    mock_model(replicate, model_id)
    result = cli(
        "models",
        "add",
        model_id,
        "--kind",
        "image-edit",
        "--price",
        "0.02",
        "--yes",
        **TOKEN_VARIABLE,
    )
    assert (result.exit_code, result.stdout) == (0, f"{model_id}: added\n"), result.output
    assert "input scale: added (" in result.stderr
    shown = json.loads(cli("models", "show", model_id, "--json").stdout)
    assert (shown["kind"], shown["official"], shown["version"]) == ("image-edit", False, "1" * 64)
    assert shown["price_usd_per_image"] == 0.02
    started = rpc(
        "start_generation",
        prompt="a cat",
        model_id=model_id,
        input={"image": "https://example.com/a"},
    )
    rpc("cancel_job", job_id=started["job_id"])


def test_nothing_is_written_without_a_confirmation(
    cli: Cli, replicate: respx.Router, model_id: str
) -> None:
    mock_model(replicate, model_id)
    result = cli("models", "add", model_id, "--kind", "upscale", **TOKEN_VARIABLE)
    assert result.exit_code == 2 and "--yes" in result.stderr
    assert cli("models", "show", model_id).exit_code == 4


def test_a_model_whose_kind_is_unclear_needs_the_option(
    cli: Cli, replicate: respx.Router, model_id: str
) -> None:
    mock_model(replicate, model_id)
    result = cli("models", "add", model_id, "--yes", **TOKEN_VARIABLE)
    assert result.exit_code == 2
    assert "--kind" in result.stderr and "image-edit" in result.stderr


def test_a_model_that_requires_a_secret_is_refused(
    cli: Cli, replicate: respx.Router, model_id: str
) -> None:
    latest = copy.deepcopy(MODEL_RESPONSE["latest_version"])
    schemas = latest["openapi_schema"]["components"]["schemas"]
    schemas["Input"]["required"].append("hf_token")
    mock_model(replicate, model_id, latest_version=latest)
    result = cli("models", "add", model_id, "--kind", "upscale", "--yes", **TOKEN_VARIABLE)
    assert result.exit_code == 3 and "secret input hf_token" in result.stderr


def test_a_model_is_refreshed_and_the_differences_are_shown(
    cli: Cli, replicate: respx.Router, model_id: str
) -> None:
    mock_model(replicate, model_id)
    assert (
        cli("models", "add", model_id, "--kind", "upscale", "--yes", **TOKEN_VARIABLE).exit_code
        == 0
    )
    result = cli("models", "refresh", model_id, **TOKEN_VARIABLE)
    assert (result.exit_code, result.stdout) == (0, "")
    assert f"{model_id} has not changed." in result.stderr

    latest = copy.deepcopy(MODEL_RESPONSE["latest_version"])
    latest["id"] = "2" * 64
    schemas = latest["openapi_schema"]["components"]["schemas"]
    schemas["Input"]["properties"]["scale"]["maximum"] = 8
    mock_model(replicate, model_id, latest_version=latest)
    result = cli("models", "refresh", model_id, "--yes", **TOKEN_VARIABLE)
    assert (result.exit_code, result.stdout) == (0, f"{model_id}: changed\n"), result.output
    assert "input scale: maximum 4 → 8" in result.stderr
    shown = json.loads(cli("models", model_id, "--json").stdout)
    assert (shown["version"], shown["kind"]) == ("2" * 64, "upscale")


def test_a_model_that_the_project_has_is_not_added_again(cli: Cli, replicate: respx.Router) -> None:
    result = cli("models", "add", SCHNELL, "--yes", **TOKEN_VARIABLE)
    assert result.exit_code == 9
    assert f"picture-queue models refresh {SCHNELL}" in result.stderr


def test_a_model_that_replicate_does_not_have_is_not_found(
    cli: Cli, replicate: respx.Router, model_id: str
) -> None:
    replicate.get(f"{REPLICATE_URL}/models/{model_id}").mock(
        httpx.Response(404, json={"detail": "Not found."})
    )
    result = cli("models", "add", model_id, "--kind", "upscale", "--yes", **TOKEN_VARIABLE)
    assert result.exit_code == 4 and model_id in result.stderr


def test_adding_a_model_without_a_replicate_token_is_refused(cli: Cli, model_id: str) -> None:
    result = cli("models", "add", model_id, "--kind", "upscale", "--yes")
    assert result.exit_code == 2 and "REPLICATE_API_TOKEN is not set" in result.stderr


def test_a_disabled_model_is_listed_as_disabled(
    cli: Cli, rpc: Rpc, replicate: respx.Router, model_id: str
) -> None:
    mock_model(replicate, model_id)
    cli("models", "add", model_id, "--kind", "upscale", "--yes", **TOKEN_VARIABLE)
    assert cli("models", "disable", model_id).exit_code == 0
    (line,) = [line for line in cli("models").stdout.splitlines() if model_id in line]
    assert "disabled" in line
    result = cli("generate", "a cat", "--model", model_id, "--no-watch")
    assert result.exit_code == 4 and "which this project has disabled" in result.stderr
    assert cli("models", "enable", model_id).exit_code == 0
    assert model_id in [model["model_id"] for model in rpc("list_models")]


def test_a_model_that_the_project_does_not_offer_is_listed_with_the_reason(cli: Cli) -> None:
    result = cli("models", "list")
    assert "openai/gpt-image-1  not offered" in result.stdout
    assert "openai/gpt-image-1 is not offered: it requires an OpenAI key" in result.stderr
    result = cli("generate", "a cat", "--model", "openai/gpt-image-1", "--no-watch")
    assert result.exit_code == 4 and "it requires an OpenAI key" in result.stderr
    assert cli("models", "enable", "openai/gpt-image-1").exit_code == 3


def test_rules_are_set_shown_and_deleted(cli: Cli) -> None:
    model = "luma/photon"
    try:
        result = cli("rules", "set", model, "aspect_ratio", "lock", "1:1")
        assert (result.exit_code, result.stdout) == (0, f'{model} aspect_ratio: lock "1:1"\n')
        assert [
            rule
            for rule in json.loads(cli("rules", "list", "--json").stdout)
            if rule["model"] == model
        ] == [
            {
                "model": model,
                "input": "aspect_ratio",
                "action": "lock",
                "value": "1:1",
                "plan": None,
            }
        ]
        assert "always 1:1" in cli("models", model).stdout
        result = cli(
            "generate", "a cat", "--model", model, "--input", "aspect_ratio=9:16", "--no-watch"
        )
        assert result.exit_code == 3
        assert "--input aspect_ratio is" in result.stderr and "permits only" in result.stderr
    finally:
        result = cli("rules", "delete", model, "aspect_ratio", "lock")
    assert result.exit_code == 0
    assert cli("rules", "delete", model, "aspect_ratio", "lock").exit_code == 4


def test_a_rule_with_a_wrong_value_is_refused(cli: Cli) -> None:
    result = cli("rules", "set", SCHNELL, "output_format", "lock", "bmp")
    assert result.exit_code == 3 and "is not one of webp, jpg, png" in result.stderr
    result = cli("rules", "set", SCHNELL, "num_outputs", "forbid")
    assert result.exit_code == 2 and "lock, default, cap, refuse, allow" in result.stderr


def test_a_warning_names_an_unknown_input_of_a_model_that_accepts_any_input(
    cli: Cli, rpc: Rpc
) -> None:
    model = "nvidia/sana"
    result = cli("generate", "a cat", "--model", model, "--input", "styl=x", "--no-watch")
    assert result.exit_code == 0
    assert "! --input styl is not among the known inputs of nvidia/sana" in result.stderr
    generation = rpc("get_generation", generation_id=result.stdout.strip())
    rpc("cancel_job", job_id=generation["job_id"])


def test_the_kind_of_a_generation_can_be_chosen(cli: Cli, rpc: Rpc) -> None:
    args = ("generate", "a cat", "--model", "black-forest-labs/flux-dev", "--no-watch")
    result = cli(*args, "--kind", "image-variation", "--json")
    job = rpc("get_job", job_id=json.loads(result.stdout)["job_id"])
    assert job["job_type"] == "vary-image"
    rpc("cancel_job", job_id=job["id"])
    result = cli(*args, "--kind", "upscale")
    assert result.exit_code == 3 and "upscale" in result.stderr

"""``picture-queue models`` and ``rules``: models of the project, and rules over inputs."""

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
BODY = json.loads(FIXTURE.read_text("utf-8"))["cases"][0]["response"]["body"]
SCHNELL = "black-forest-labs/flux-schnell"
TOKEN = {"REPLICATE_API_TOKEN": "r8_test_token_of_this_file"}


@pytest.fixture
def replicate() -> Iterator[respx.Router]:
    """Answer calls to Replicate; calls to the project go through."""
    with respx.mock(assert_all_called=False) as router:
        router.route(host="127.0.0.1").pass_through()
        yield router


@pytest.fixture
def name(stack: Any) -> Iterator[str]:
    """A model that the project does not have; it is deleted afterwards."""
    name = f"acme/painter-{uuid4().hex[:8]}"
    yield name
    with psycopg.connect(stack.db_url, autocommit=True) as connection:
        connection.execute("delete from picture_queue.model where model_id = %s", [name])


def answer(replicate: respx.Router, name: str, **changes: Any) -> None:
    """Answer calls for a model with that of the fixture, with some changes."""
    body = {**BODY, **changes}
    replicate.get(f"{REPLICATE_URL}/models/{name}").mock(httpx.Response(200, json=body))


def test_a_model_is_added_after_its_inputs_were_shown(
    cli: Cli, rpc: Rpc, replicate: respx.Router, name: str
) -> None:
    answer(replicate, name)
    done = cli("models", "add", name, "--kind", "image-edit", "--price", "0.02", "--yes", **TOKEN)
    assert (done.exit_code, done.stdout) == (0, f"{name}: added\n"), done.output
    assert "input scale: added (" in done.stderr
    shown = json.loads(cli("models", "show", name, "--json").stdout)
    assert (shown["kind"], shown["official"], shown["version"]) == ("image-edit", False, "1" * 64)
    assert shown["price_usd_per_image"] == 0.02
    started = rpc(
        "start_generation", prompt="a cat", model_id=name, input={"image": "https://example.com/a"}
    )
    rpc("cancel_job", job_id=started["job_id"])


def test_nothing_is_written_without_a_confirmation(
    cli: Cli, replicate: respx.Router, name: str
) -> None:
    answer(replicate, name)
    done = cli("models", "add", name, "--kind", "upscale", **TOKEN)
    assert done.exit_code == 2 and "--yes" in done.stderr
    assert cli("models", "show", name).exit_code == 4


def test_a_model_whose_kind_is_unclear_needs_the_option(
    cli: Cli, replicate: respx.Router, name: str
) -> None:
    answer(replicate, name)
    done = cli("models", "add", name, "--yes", **TOKEN)
    assert done.exit_code == 2
    assert "--kind" in done.stderr and "image-edit" in done.stderr


def test_a_model_that_requires_a_secret_is_refused(
    cli: Cli, replicate: respx.Router, name: str
) -> None:
    latest = copy.deepcopy(BODY["latest_version"])
    schemas = latest["openapi_schema"]["components"]["schemas"]
    schemas["Input"]["required"].append("hf_token")
    answer(replicate, name, latest_version=latest)
    done = cli("models", "add", name, "--kind", "upscale", "--yes", **TOKEN)
    assert done.exit_code == 3 and "secret input hf_token" in done.stderr


def test_a_model_is_refreshed_and_the_differences_are_shown(
    cli: Cli, replicate: respx.Router, name: str
) -> None:
    answer(replicate, name)
    assert cli("models", "add", name, "--kind", "upscale", "--yes", **TOKEN).exit_code == 0
    done = cli("models", "refresh", name, **TOKEN)
    assert (done.exit_code, done.stdout) == (0, "")
    assert f"{name} has not changed." in done.stderr

    latest = copy.deepcopy(BODY["latest_version"])
    latest["id"] = "2" * 64
    schemas = latest["openapi_schema"]["components"]["schemas"]
    schemas["Input"]["properties"]["scale"]["maximum"] = 8
    answer(replicate, name, latest_version=latest)
    done = cli("models", "refresh", name, "--yes", **TOKEN)
    assert (done.exit_code, done.stdout) == (0, f"{name}: changed\n"), done.output
    assert "input scale: maximum 4 → 8" in done.stderr
    shown = json.loads(cli("models", name, "--json").stdout)
    assert (shown["version"], shown["kind"]) == ("2" * 64, "upscale")


def test_a_model_that_the_project_has_is_not_added_again(cli: Cli, replicate: respx.Router) -> None:
    done = cli("models", "add", SCHNELL, "--yes", **TOKEN)
    assert done.exit_code == 9
    assert f"picture-queue models refresh {SCHNELL}" in done.stderr


def test_a_model_that_replicate_does_not_have_is_not_found(
    cli: Cli, replicate: respx.Router, name: str
) -> None:
    replicate.get(f"{REPLICATE_URL}/models/{name}").mock(
        httpx.Response(404, json={"detail": "Not found."})
    )
    done = cli("models", "add", name, "--kind", "upscale", "--yes", **TOKEN)
    assert done.exit_code == 4 and name in done.stderr


def test_without_a_token_the_inputs_cannot_be_read(cli: Cli, name: str) -> None:
    done = cli("models", "add", name, "--kind", "upscale", "--yes")
    assert done.exit_code == 2 and "REPLICATE_API_TOKEN is not set" in done.stderr


def test_a_disabled_model_is_listed_as_disabled(
    cli: Cli, rpc: Rpc, replicate: respx.Router, name: str
) -> None:
    answer(replicate, name)
    cli("models", "add", name, "--kind", "upscale", "--yes", **TOKEN)
    assert cli("models", "disable", name).exit_code == 0
    (line,) = [line for line in cli("models").stdout.splitlines() if name in line]
    assert "disabled" in line
    done = cli("generate", "a cat", "--model", name, "--no-watch")
    assert done.exit_code == 4 and "which this project has disabled" in done.stderr
    assert cli("models", "enable", name).exit_code == 0
    assert name in [model["model_id"] for model in rpc("list_models")]


def test_a_model_that_cannot_be_offered_is_listed_with_the_reason(cli: Cli) -> None:
    done = cli("models", "list")
    assert "openai/gpt-image-1  not offered" in done.stdout
    assert "openai/gpt-image-1 is not offered: it requires an OpenAI key" in done.stderr
    done = cli("generate", "a cat", "--model", "openai/gpt-image-1", "--no-watch")
    assert done.exit_code == 4 and "it requires an OpenAI key" in done.stderr
    assert cli("models", "enable", "openai/gpt-image-1").exit_code == 3


def test_rules_are_set_shown_and_deleted(cli: Cli) -> None:
    model = "luma/photon"
    try:
        done = cli("rules", "set", model, "aspect_ratio", "lock", "1:1")
        assert (done.exit_code, done.stdout) == (0, f'{model} aspect_ratio: lock "1:1"\n')
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
        done = cli(
            "generate", "a cat", "--model", model, "--input", "aspect_ratio=9:16", "--no-watch"
        )
        assert done.exit_code == 3
        assert "--input aspect_ratio is" in done.stderr and "permits only" in done.stderr
    finally:
        done = cli("rules", "delete", model, "aspect_ratio", "lock")
    assert done.exit_code == 0
    assert cli("rules", "delete", model, "aspect_ratio", "lock").exit_code == 4


def test_a_rule_with_a_wrong_value_is_refused(cli: Cli) -> None:
    done = cli("rules", "set", SCHNELL, "output_format", "lock", "bmp")
    assert done.exit_code == 3 and "is not one of webp, jpg, png" in done.stderr
    done = cli("rules", "set", SCHNELL, "num_outputs", "forbid")
    assert done.exit_code == 2 and "lock, default, cap, refuse, allow" in done.stderr


def test_a_warning_names_an_input_that_is_passed_on(cli: Cli, rpc: Rpc) -> None:
    model = "nvidia/sana"
    done = cli("generate", "a cat", "--model", model, "--input", "styl=x", "--no-watch")
    assert done.exit_code == 0
    assert "! --input styl is not among the known inputs of nvidia/sana" in done.stderr
    generation = rpc("get_generation", generation_id=done.stdout.strip())
    rpc("cancel_job", job_id=generation["job_id"])


def test_the_kind_of_a_generation_can_be_chosen(cli: Cli, rpc: Rpc) -> None:
    args = ("generate", "a cat", "--model", "black-forest-labs/flux-dev", "--no-watch")
    done = cli(*args, "--kind", "image-variation", "--json")
    job = rpc("get_job", job_id=json.loads(done.stdout)["job_id"])
    assert job["job_type"] == "vary-image"
    rpc("cancel_job", job_id=job["id"])
    done = cli(*args, "--kind", "upscale")
    assert done.exit_code == 3 and "upscale" in done.stderr

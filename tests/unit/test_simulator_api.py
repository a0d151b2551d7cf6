"""The API of the simulator behaves as Replicate documents its API."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from picture_queue.generations.image_info import read_image
from picture_queue.local.simulator import SimulatorSettings, create_app
from picture_queue.providers.replicate.catalog import models
from picture_queue.providers.replicate.prediction import progress_from_logs

from ..simulator import Clock, open_simulator

RECORDINGS = Path(__file__).parents[1] / "fixtures" / "replicate"
SCHNELL, DEV = "black-forest-labs/flux-schnell", "black-forest-labs/flux-dev"
SDXL = "stability-ai/sdxl"
ADMIN_KEY = "sb_secret_test"
HEADERS = {"authorization": "Bearer r8_test", "apikey": ADMIN_KEY}


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def http(clock: Clock) -> AsyncIterator[httpx.AsyncClient]:
    settings = SimulatorSettings(
        base_url="http://simulator/", token="r8_test", admin_keys=(ADMIN_KEY,)
    )
    async with open_simulator(settings, clock, HEADERS, "http://simulator") as client:
        yield client


async def create(
    http: httpx.AsyncClient, model: str = SCHNELL, headers: Any = None, **inputs: Any
) -> dict[str, Any]:
    """Create a prediction with the prompt "a boat"."""
    body = {"input": {"prompt": "a boat", **inputs}}
    answer = await http.post(f"/v1/models/{model}/predictions", json=body, headers=headers)
    assert answer.status_code == 201, answer.text
    prediction: dict[str, Any] = answer.json()
    return prediction


async def read(http: httpx.AsyncClient, prediction: dict[str, Any]) -> dict[str, Any]:
    """Return the current state of a prediction."""
    current: dict[str, Any] = (await http.get(prediction["urls"]["get"])).json()
    return current


# --- Authentication ---


@pytest.mark.parametrize(
    "value",
    [
        *("", "Bearer", "Bearer x", "r8_test", "Basic r8_test", "Bearer r8_", "Bearer r8_tes"),
        *("Bearer r8_test2", "Bearer R8_TEST", "Bearer r8_t\xe9st".encode("latin-1")),
    ],
)
async def test_a_request_without_the_token_gets_the_recorded_401(
    http: httpx.AsyncClient, value: str | bytes
) -> None:
    answer = await http.get("/v1/account", headers=httpx.Headers([("authorization", value)]))
    assert answer.status_code == 401
    assert answer.headers["content-type"] == "application/problem+json"
    recorded = json.loads((RECORDINGS / "error_401.json").read_text("utf-8"))["cases"][0]
    assert answer.json() == recorded["response"]["body"]


@pytest.mark.parametrize(
    ("path", "status"), [("/v1/account", 401), ("/_simulator/faults", 403), ("/files/a/b", None)]
)
async def test_a_websocket_is_refused(path: str, status: int | None) -> None:
    """The check of the token or key refuses it with a status; other paths only close it."""
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "websocket", "path": path, "query_string": b"", "headers": [(b"host", b"localhost")]
    }  # fmt: skip
    await create_app(SimulatorSettings(token="r8_test"))(scope, receive, send)
    if status:
        assert sent[0]["type"] == "websocket.http.response.start" and sent[0]["status"] == status
    else:
        assert sent[0]["type"] == "websocket.close"


async def test_the_account_is_named_simulator(http: httpx.AsyncClient) -> None:
    assert (await http.get("/v1/account")).json()["username"] == "simulator"


# --- Models ---


async def test_only_official_models_can_be_run_by_name(http: httpx.AsyncClient) -> None:
    body = {"input": {"prompt": "a boat"}}
    for model in (SDXL, "no-such/model"):
        answer = await http.post(f"/v1/models/{model}/predictions", json=body)
        assert answer.status_code == 404
    assert (await create(http, SCHNELL))["version"] == "hidden"


async def test_a_prediction_runs_a_version_or_an_official_model(http: httpx.AsyncClient) -> None:
    version_id = models()[SDXL].version
    for version, expected in [
        (version_id, SDXL),
        (f"{SDXL}:{version_id}", SDXL),
        (SCHNELL, SCHNELL),
        (f"{SDXL}:latest", None),
        (SDXL, None),
        (f"other/model:{version_id}", None),
        (models()[SCHNELL].version, None),
        ("0" * 64, None),
    ]:
        body = {"version": version, "input": {"prompt": "a boat"}}
        answer = await http.post("/v1/predictions", json=body)
        assert answer.status_code == (201 if expected else 422), version
        if expected:
            assert answer.json()["model"] == expected


async def test_a_model_has_a_schema_of_its_inputs(http: httpx.AsyncClient) -> None:
    model = (await http.get(f"/v1/models/{SCHNELL}")).json()
    assert model["is_official"] is True
    schema = model["latest_version"]["openapi_schema"]["components"]["schemas"]["Input"]
    assert schema["required"] == ["prompt"]
    assert schema["properties"]["num_outputs"]["maximum"] == 4
    assert (await http.get("/v1/models/no-such/model")).status_code == 404


# --- Validation ---


async def test_an_invalid_input_is_refused_with_the_recorded_message(
    http: httpx.AsyncClient,
) -> None:
    recorded = json.loads((RECORDINGS / "error_422.json").read_text("utf-8"))["cases"]
    invalid = {"num_inference_steps": 8}
    answer = await http.post(f"/v1/models/{SCHNELL}/predictions", json={"input": invalid})
    assert answer.status_code == 422
    assert answer.json() == recorded[0]["response"]["body"]
    unknown_version = {"version": "0" * 64, "input": {}}
    answer = await http.post("/v1/predictions", json=unknown_version)
    assert answer.json() == recorded[2]["response"]["body"]


@pytest.mark.parametrize(
    ("invalid", "message"),
    [
        ({"output_format": "bmp"}, 'output_format must be one of the following: "webp", "jpg"'),
        ({"num_outputs": 0}, "Must be greater than or equal to 1"),
        ({"num_outputs": "2"}, "Invalid type. Expected: integer, given: string"),
        ({"num_outputs": True}, "Invalid type. Expected: integer, given: boolean"),
        ({"num_outputs": None}, "Invalid type. Expected: integer, given: null"),
        ({"go_fast": 1}, "Invalid type. Expected: boolean, given: integer"),
        ({"prompt": ["a"]}, "Invalid type. Expected: string, given: array"),
    ],
)
async def test_each_rule_of_the_catalogue_is_enforced(
    http: httpx.AsyncClient, invalid: dict[str, Any], message: str
) -> None:
    body = {"input": {"prompt": "a boat", **invalid}}
    answer = await http.post(f"/v1/models/{SCHNELL}/predictions", json=body)
    assert answer.status_code == 422
    assert message in answer.json()["detail"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"input": {"prompt": "x"}, "model": SCHNELL}, 422),
        ({"input": {"prompt": "x"}, "version": SCHNELL}, 422),
        ({"input": "x"}, 422),
        ({}, 422),
        ([], 400),
        ({"input": {"prompt": "x"}, "webhook": "example.com"}, 422),
        ({"input": {"prompt": "x"}, "webhook": 7}, 422),
        ({"input": {"prompt": "x"}, "webhook_events_filter": ["end"]}, 422),
        ({"input": {"prompt": "x"}, "webhook_events_filter": "start"}, 422),
    ],
)
async def test_an_invalid_body_is_refused(http: httpx.AsyncClient, body: Any, status: int) -> None:
    answer = await http.post(f"/v1/models/{SCHNELL}/predictions", json=body)
    assert answer.status_code == status
    assert answer.json()["status"] == status


async def test_a_body_without_a_version_and_a_body_that_is_not_json_are_refused(
    http: httpx.AsyncClient,
) -> None:
    answer = await http.post("/v1/predictions", json={"input": {}})
    assert (answer.status_code, "version" in answer.json()["detail"]) == (422, True)
    assert (await http.post("/v1/predictions", content=b"{")).status_code == 400


async def test_unsupported_and_unknown_paths_are_refused(http: httpx.AsyncClient) -> None:
    answer = await http.get("/v1/trainings")
    assert answer.status_code == 501
    assert "GET /v1/trainings" in answer.json()["detail"]
    assert (await http.get("/elsewhere")).status_code == 404


# --- The life cycle of a prediction ---


async def test_a_prediction_starts_runs_and_succeeds(http: httpx.AsyncClient, clock: Clock) -> None:
    prediction = await create(http, DEV, num_outputs=2, seed=5)
    assert (prediction["status"], prediction["output"], prediction["logs"]) == (
        "starting",
        None,
        "",
    )
    assert "started_at" not in prediction
    clock.now += 1.76
    running = await read(http, prediction)
    assert running["status"] == "processing"
    progress = progress_from_logs(running["logs"])
    assert progress == (50, 14, 28)
    assert "completed_at" not in running
    clock.now += 2
    ended = await read(http, prediction)
    assert ended["status"] == "succeeded"
    assert progress_from_logs(ended["logs"]) == (100, 28, 28)
    assert ended["logs"].endswith("Total safe images: 2 out of 2\n")
    assert ended["metrics"] == {"predict_time": 3.2, "total_time": 3.35, "image_count": 2}
    assert [link.rsplit("/", 1)[1] for link in ended["output"]] == ["out-0.webp", "out-1.webp"]


async def test_logs_are_append_only(http: httpx.AsyncClient, clock: Clock) -> None:
    prediction = await create(http, DEV)
    earlier_logs = ""
    for _ in range(20):
        clock.now += 0.2
        logs = (await read(http, prediction))["logs"]
        assert logs.startswith(earlier_logs)
        earlier_logs = logs


@pytest.mark.parametrize(
    ("model", "logs"),
    [
        ("black-forest-labs/flux-1.1-pro", "Generated image in 8.7sec\n"),
        ("black-forest-labs/flux-pro", ""),
    ],
)
async def test_models_without_progress_bars_log_text_or_nothing(
    http: httpx.AsyncClient, clock: Clock, model: str, logs: str
) -> None:
    prediction = await create(http, model)
    clock.now += 60
    ended = await read(http, prediction)
    assert ended["logs"].endswith(logs)
    assert progress_from_logs(ended["logs"]) is None
    assert isinstance(ended["output"], str)


async def test_speed_divides_and_seconds_replaces_the_duration_of_a_run() -> None:
    for settings, seconds in [
        (SimulatorSettings(speed=10, token="r8_test"), 0.32),
        (SimulatorSettings(speed=10, seconds=7, token="r8_test"), 7.0),
    ]:
        clock = Clock()
        async with open_simulator(settings, clock, HEADERS, "http://here.localhost:5") as http:
            prediction = await create(http, DEV)
            assert prediction["urls"]["get"].startswith("http://here.localhost:5/v1/predictions/")
            clock.now += 60
            assert (await read(http, prediction))["metrics"]["predict_time"] == seconds
    with pytest.raises(ValueError, match="speed"):
        SimulatorSettings(speed=0)


@pytest.mark.parametrize(
    ("seconds", "status"), [(0.1, "aborted"), (1.0, "canceled"), (10.0, "succeeded")]
)
async def test_a_cancel_aborts_before_the_start_and_has_no_effect_after_the_end(
    http: httpx.AsyncClient, clock: Clock, seconds: float, status: str
) -> None:
    prediction = await create(http, DEV)
    clock.now += seconds
    answer = await http.post(prediction["urls"]["cancel"])
    assert (answer.status_code, answer.json()["status"]) == (200, status)
    assert ("started_at" in answer.json()) is (status != "aborted")
    clock.now += 60
    assert (await read(http, prediction))["status"] == status


@pytest.mark.parametrize(
    ("duration", "seconds"),
    [("30", 30), ("30s", 30), ("5m", 300), ("1h30m45s", 5445), (" 5s ", 5)],
)
async def test_cancel_after_sets_the_deadline(
    http: httpx.AsyncClient, clock: Clock, duration: str, seconds: int
) -> None:
    await add_fault(http, kind="slow", seconds=86_400)
    prediction = await create(http, headers={"cancel-after": duration})
    clock.now += seconds - 0.5
    assert (await read(http, prediction))["status"] == "processing"
    clock.now += 0.6
    ended = await read(http, prediction)
    assert (ended["status"], ended["completed_at"]) == ("canceled", prediction["deadline"])


@pytest.mark.parametrize("duration", ["4", "0s", "soon", "", "1d"])
async def test_an_invalid_cancel_after_is_refused(http: httpx.AsyncClient, duration: str) -> None:
    answer = await http.post(
        f"/v1/models/{SCHNELL}/predictions",
        json={"input": {"prompt": "x"}},
        headers={"cancel-after": duration},
    )
    assert answer.status_code == 400


async def test_a_deadline_aborts_a_queued_prediction(http: httpx.AsyncClient, clock: Clock) -> None:
    await add_fault(http, kind="slow", seconds=60, queued=True)
    prediction = await create(http, headers={"cancel-after": "30s"})
    clock.now += 31
    ended = await read(http, prediction)
    assert ended["status"] == "aborted"
    assert "metrics" not in ended


async def test_an_unknown_prediction_is_not_found(http: httpx.AsyncClient) -> None:
    assert (await http.get("/v1/predictions/nope")).status_code == 404
    assert (await http.post("/v1/predictions/nope/cancel")).status_code == 404


async def test_the_list_is_paginated_newest_first(http: httpx.AsyncClient, clock: Clock) -> None:
    created = []
    for _ in range(205):
        clock.now += 1
        created.append((await create(http))["id"])
    listed: list[str] = []
    url: str | None = "/v1/predictions"
    sizes = []
    while url:
        page = (await http.get(url)).json()
        sizes.append(len(page["results"]))
        listed += [prediction["id"] for prediction in page["results"]]
        url = page["next"]
    assert sizes == [100, 100, 5]
    assert listed == created[::-1]


async def test_the_list_can_be_filtered_by_time(http: httpx.AsyncClient, clock: Clock) -> None:
    created = []
    for _ in range(3):
        created.append(await create(http))
        clock.now += 10
    after, before = created[1]["created_at"], created[2]["created_at"]
    page = await http.get("/v1/predictions", params={"created_after": after})
    assert [prediction["id"] for prediction in page.json()["results"]] == [
        created[2]["id"],
        created[1]["id"],
    ]
    both_bounds = {"created_after": after, "created_before": before}
    page = await http.get("/v1/predictions", params=both_bounds)
    assert [prediction["id"] for prediction in page.json()["results"]] == [created[1]["id"]]
    refused = await http.get("/v1/predictions", params={"created_after": "yesterday"})
    assert refused.status_code == 400


# --- Images ---


async def create_images(
    http: httpx.AsyncClient, clock: Clock, model: str, **inputs: Any
) -> list[bytes]:
    """Return the images of a new prediction, downloaded without the token."""
    prediction = await create(http, model, **inputs)
    clock.now += 120
    output = (await read(http, prediction))["output"]
    urls = [output] if isinstance(output, str) else output
    answers = [await http.get(url, headers={"authorization": ""}) for url in urls]
    assert all(answer.status_code == 200 for answer in answers)
    return [answer.content for answer in answers]


@pytest.mark.parametrize(
    ("model", "inputs", "mime_type", "size"),
    [
        (SCHNELL, {"megapixels": "0.25", "output_format": "png"}, "image/png", (512, 512)),
        (DEV, {"aspect_ratio": "16:9", "megapixels": "0.25"}, "image/webp", (672, 384)),
        ("recraft-ai/recraft-v3", {"size": "1024x1280"}, "image/png", (1024, 1280)),
        ("recraft-ai/recraft-v3-svg", {"size": "1024x1024"}, "image/svg+xml", (1024, 1024)),
        (
            "black-forest-labs/flux-1.1-pro",
            {"width": 320, "height": 256, "aspect_ratio": "custom"},
            "image/webp",
            (320, 256),
        ),
    ],
)
async def test_an_image_has_the_requested_format_and_size(
    http: httpx.AsyncClient,
    clock: Clock,
    model: str,
    inputs: dict[str, Any],
    mime_type: str,
    size: tuple[int, int],
) -> None:
    (data,) = await create_images(http, clock, model, **inputs)
    info = read_image(data)
    assert info is not None
    assert (info.mime_type, (info.width, info.height)) == (mime_type, size)


async def test_the_same_seed_gives_the_same_images(http: httpx.AsyncClient, clock: Clock) -> None:
    inputs = {"seed": 7, "num_outputs": 2, "megapixels": "0.25"}
    images = await create_images(http, clock, SCHNELL, **inputs)
    assert await create_images(http, clock, SCHNELL, **inputs) == images
    assert images[0] != images[1]
    assert await create_images(http, clock, SCHNELL, **inputs | {"seed": 8}) != images


async def test_a_model_without_a_prompt_returns_images(
    http: httpx.AsyncClient, clock: Clock
) -> None:
    version = models()["lucataco/remove-bg"].version
    body = {"version": version, "input": {"image": "https://example.com/in.png"}}
    prediction = (await http.post("/v1/predictions", json=body)).json()
    clock.now += 60
    url = (await read(http, prediction))["output"]
    assert read_image((await http.get(url)).content) is not None


async def test_max_images_counts_only_if_the_model_chooses_the_number(
    http: httpx.AsyncClient, clock: Clock
) -> None:
    for mode, count in [("disabled", 1), ("auto", 3)]:
        inputs = {"sequential_image_generation": mode, "max_images": 3}
        prediction = await create(http, "bytedance/seedream-4", **inputs)
        clock.now += 60
        assert len((await read(http, prediction))["output"]) == count


async def test_inputs_and_images_are_removed_after_an_hour(
    http: httpx.AsyncClient, clock: Clock
) -> None:
    prediction = await create(http)
    clock.now += 60
    url = (await read(http, prediction))["output"][0]
    clock.now += 3600
    ended = await read(http, prediction)
    assert ended["status"] == "succeeded"
    assert (ended["data_removed"], ended["output"], ended["input"]) == (True, None, {})
    assert (await http.get(url)).status_code == 404


async def test_only_images_of_finished_predictions_are_served(
    http: httpx.AsyncClient, clock: Clock
) -> None:
    prediction = await create(http)
    folder = f"/files/{prediction['id']}"
    assert (await http.get(f"{folder}/out-0.webp")).status_code == 404
    clock.now += 60
    for name in ("out-1.webp", "out-0.png", "out-x.webp", "other"):
        assert (await http.get(f"{folder}/{name}")).status_code == 404
    assert (await http.get("/files/nope/out-0.webp")).status_code == 404


# --- Faults ---


async def add_fault(http: httpx.AsyncClient, **fault: Any) -> None:
    answer = await http.post("/_simulator/faults", json=fault)
    assert answer.status_code == 200, answer.text


async def post_create(http: httpx.AsyncClient) -> httpx.Response:
    body = {"input": {"prompt": "a boat"}}
    return await http.post(f"/v1/models/{SCHNELL}/predictions", json=body)


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        ({"kind": "rate_limit", "seconds": 2}, 429),
        ({"kind": "server_error"}, 500),
        ({"kind": "server_error", "status": 503}, 503),
        ({"kind": "out_of_credit"}, 402),
    ],
)
async def test_an_error_fault_creates_no_prediction_and_ends_after_its_count(
    http: httpx.AsyncClient, fault: dict[str, Any], status: int
) -> None:
    await add_fault(http, count=2, **fault)
    for _ in range(2):
        answer = await post_create(http)
        assert answer.status_code == status
        assert answer.headers.get("retry-after") == ("2" if status == 429 else None)
    assert (await http.get("/_simulator/predictions")).json() == []
    assert (await post_create(http)).status_code == 201


@pytest.mark.parametrize("on", ["get", "list", "cancel", "file"])
async def test_a_fault_affects_only_its_kind_of_call(
    http: httpx.AsyncClient, clock: Clock, on: str
) -> None:
    prediction = await create(http)
    clock.now += 60
    calls = {
        "get": ("GET", prediction["urls"]["get"]),
        "list": ("GET", "/v1/predictions"),
        "cancel": ("POST", prediction["urls"]["cancel"]),
        "file": ("GET", f"/files/{prediction['id']}/out-0.webp"),
    }
    await add_fault(http, kind="server_error", on=on, status=502)
    for call, (method, path) in calls.items():
        if call != on:
            assert (await http.request(method, path)).status_code == 200
    assert (await http.request(*calls[on])).status_code == 502
    assert (await http.request(*calls[on])).status_code == 200


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"kind": "fail"}, "E9828"),
        ({"kind": "fail", "message": "CUDA out of memory"}, "CUDA out of memory"),
        ({"kind": "nsfw"}, "NSFW content detected"),
    ],
)
async def test_a_fault_makes_a_prediction_fail(
    http: httpx.AsyncClient, clock: Clock, fault: dict[str, Any], message: str
) -> None:
    await add_fault(http, **fault)
    prediction = await create(http)
    clock.now += 60
    ended = await read(http, prediction)
    assert (ended["status"], ended["output"]) == ("failed", None)
    assert message in ended["error"]


async def test_a_fault_makes_an_output_expire_at_once(
    http: httpx.AsyncClient, clock: Clock
) -> None:
    await add_fault(http, kind="expired_output")
    prediction = await create(http)
    clock.now += 60
    ended = await read(http, prediction)
    assert (ended["status"], ended["data_removed"], ended["output"]) == ("succeeded", True, None)


async def test_lose_answer_with_a_status_creates_the_prediction(http: httpx.AsyncClient) -> None:
    await add_fault(http, kind="lose_answer", status=502)
    assert (await post_create(http)).status_code == 502
    (prediction,) = (await http.get("/_simulator/predictions")).json()
    assert prediction["status"] == "starting"
    assert prediction["created_by"]["token"] == "test"


@pytest.mark.parametrize("fault", [{"kind": "flood"}, {"kind": "fail", "count": 0}, {"x": 1}, None])
async def test_an_invalid_fault_is_refused(http: httpx.AsyncClient, fault: Any) -> None:
    assert (await http.post("/_simulator/faults", json=fault)).status_code == 422
    assert (await http.get("/_simulator/faults")).json() == []


@pytest.mark.parametrize("path", ["/_simulator/faults", f"/v1/models/{SCHNELL}/predictions"])
async def test_the_size_of_a_body_is_limited(http: httpx.AsyncClient, path: str) -> None:
    body = {"kind": "fail", "input": {"prompt": "a" * 1_048_576}}
    answer = await http.post(path, json=body)
    assert (answer.status_code, "1048576 bytes" in answer.json()["detail"]) == (413, True)


async def test_the_number_of_faults_is_limited(http: httpx.AsyncClient) -> None:
    for _ in range(1000):
        await add_fault(http, kind="fail")
    answer = await http.post("/_simulator/faults", json={"kind": "fail"})
    assert (answer.status_code, answer.json()["detail"][:16]) == (422, "1000 faults are ")


async def test_a_reset_deletes_all_predictions_and_faults(http: httpx.AsyncClient) -> None:
    await create(http)
    await add_fault(http, kind="fail")
    assert (await http.post("/_simulator/reset")).status_code == 204
    assert (await http.get("/_simulator/predictions")).json() == []
    assert (await http.get("/_simulator/faults")).json() == []

"""The official Python client of Replicate, unmodified, calls the simulator over a TCP socket."""

import asyncio
import io
import socket
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn
from PIL import Image
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from picture_queue.local.simulator import SimulatorSettings, create_app
from picture_queue.providers.replicate.catalog import models

if sys.version_info >= (3, 14):
    pytest.skip("replicate 1.x needs pydantic.v1, which stops at 3.13", allow_module_level=True)

import replicate
from replicate.exceptions import ModelError, ReplicateError
from replicate.pagination import paginate
from replicate.webhook import InvalidSignatureError, Webhooks

SCHNELL, SDXL = "black-forest-labs/flux-schnell", "stability-ai/sdxl"
SMALL = {"prompt": "a boat", "megapixels": "0.25"}
ADMIN_KEY = "sb_secret_test"


class Server:
    """A server of an ASGI app in a thread, since the client is synchronous."""

    def __init__(self, app: Any) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        config = uvicorn.Config(app, log_level="critical", lifespan="off")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._server.serve([self._socket])), daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(10)
        self._socket.close()


@pytest.fixture
def base_url() -> Iterator[str]:
    """The URL of a simulator whose predictions take 50 ms."""
    settings = SimulatorSettings(seconds=0.05, token="r8_test", admin_keys=(ADMIN_KEY,))
    server = Server(create_app(settings))
    yield server.url
    server.stop()


@pytest.fixture
def client(base_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[replicate.Client]:
    monkeypatch.setenv("REPLICATE_POLL_INTERVAL", "0.02")
    client = replicate.Client(api_token="r8_test", base_url=base_url)
    yield client
    client._client.close()


def add_fault(client: replicate.Client, **fault: Any) -> None:
    headers = {"apikey": ADMIN_KEY}
    client._client.post("/_simulator/faults", json=fault, headers=headers).raise_for_status()


def test_a_run_returns_the_pictures(client: replicate.Client) -> None:
    outputs = client.run(SCHNELL, input={**SMALL, "num_outputs": 2})
    assert len(outputs) == 2
    for output in outputs:
        with Image.open(io.BytesIO(output.read())) as picture:
            assert (picture.format, picture.size) == ("WEBP", (512, 512))


def test_a_run_of_a_version_returns_the_pictures(client: replicate.Client) -> None:
    version = f"{SDXL}:{models()[SDXL].version}"
    (output,) = client.run(version, input={"prompt": "a cat", "width": 256, "height": 256})
    with Image.open(io.BytesIO(output.read())) as picture:
        assert picture.size == (256, 256)


async def test_an_asynchronous_run_returns_the_picture(client: replicate.Client) -> None:
    async with client._async_client:
        (output,) = await client.async_run(SCHNELL, input=SMALL)
        assert (await output.aread())[:4] == b"RIFF"


def test_a_prediction_is_created_waited_for_and_listed(client: replicate.Client) -> None:
    prediction = client.models.predictions.create(SCHNELL, input=SMALL)
    assert prediction.status == "starting"
    prediction.wait()
    assert prediction.status == "succeeded"
    assert prediction.metrics["image_count"] == 1
    assert prediction.progress.percentage == 1.0
    assert [listed.id for listed in client.predictions.list()] == [prediction.id]
    assert client.predictions.get(prediction.id).output == prediction.output


def test_a_create_call_waits_at_most_for_the_given_seconds(client: replicate.Client) -> None:
    assert client.models.predictions.create(SCHNELL, SMALL, wait=5).status == "succeeded"
    add_fault(client, kind="slow", seconds=60)
    # When the wait is over, Replicate shows a prediction as `starting` even if it runs.
    assert client.models.predictions.create(SCHNELL, SMALL, wait=1).status == "starting"


def test_a_prediction_is_cancelled(client: replicate.Client) -> None:
    add_fault(client, kind="slow", seconds=60)
    version = client.models.get(SDXL).latest_version
    prediction = client.predictions.create(version=version, input={"prompt": "a boat"})
    while prediction.status == "starting":
        prediction.reload()
    prediction.cancel()
    prediction.wait()
    assert prediction.status == "canceled"


def test_a_failed_prediction_and_an_invalid_input_raise_the_errors_of_the_client(
    client: replicate.Client,
) -> None:
    add_fault(client, kind="nsfw")
    with pytest.raises(ModelError, match="NSFW"):
        client.run(SCHNELL, input=SMALL)
    with pytest.raises(ReplicateError, match="less than or equal to 4") as caught:
        client.run(SCHNELL, input={**SMALL, "num_outputs": 99})
    assert caught.value.status == 422


def test_the_client_repeats_a_read_after_429_and_503(client: replicate.Client) -> None:
    prediction = client.models.predictions.create(SCHNELL, input=SMALL)
    add_fault(client, kind="server_error", status=503, on="get")
    add_fault(client, kind="rate_limit", on="get")
    prediction.reload()
    assert prediction.status in ("starting", "processing", "succeeded")


def test_models_and_versions_are_listed(client: replicate.Client) -> None:
    listed = [model.id for page in paginate(client.models.list) for model in page]
    assert listed == list(models())
    assert list(client.models.search("sdxl-lightning"))
    (version,) = client.models.get(SDXL).versions.list()
    assert client.models.get(SDXL).versions.get(version.id).id == models()[SDXL].version
    assert "prompt" in version.openapi_schema["components"]["schemas"]["Input"]["properties"]
    assert len(client.models.get(SCHNELL).versions.list()) == 0


def test_the_account_and_the_hardware_are_shown(client: replicate.Client) -> None:
    assert client.accounts.current().username == "simulator"
    assert "cpu" in {hardware.sku for hardware in client.hardware.list()}


def test_an_uploaded_file_is_the_input_of_a_prediction(client: replicate.Client) -> None:
    data = io.BytesIO()
    Image.new("RGB", (40, 30), (200, 30, 30)).save(data, "PNG")
    data.name = "red.png"
    version = models()["nightmareai/real-esrgan"].version
    output = client.run(f"nightmareai/real-esrgan:{version}", input={"image": data, "scale": 3})
    with Image.open(io.BytesIO(output.read())) as picture:
        assert picture.size == (120, 90)
        assert picture.convert("RGB").getpixel((60, 45)) == (200, 30, 30)
    (file,) = client._request("GET", "/v1/files").json()["results"]
    assert (file["name"], file["size"]) == ("red.png", len(data.getvalue()))
    assert client.files.get(file["id"]).content_type == "image/png"
    assert client.files.delete(file["id"]) is True
    with pytest.raises(ReplicateError) as caught:
        client.files.get(file["id"])
    assert caught.value.status == 404


def test_the_client_accepts_a_webhook_and_refuses_forged_ones(client: replicate.Client) -> None:
    received: list[tuple[dict[str, str], bytes]] = []  # headers and body of each webhook
    all_received = threading.Event()

    async def receive(request: Request) -> Response:
        received.append((dict(request.headers), await request.body()))
        if len(received) == 3:
            all_received.set()
        return Response(status_code=200)

    receiver = Server(Starlette(routes=[Route("/", receive, methods=["POST"])]))
    try:
        add_fault(client, kind="forge_webhooks")
        client.models.predictions.create(
            SCHNELL, SMALL, webhook=f"{receiver.url}/", webhook_events_filter=["completed"]
        )
        assert all_received.wait(20)
    finally:
        receiver.stop()
    secret = client.webhooks.default.secret()
    results = []
    for headers, body in received:
        try:
            Webhooks.validate(headers=headers, body=body.decode(), secret=secret, tolerance=300)
            results.append("accepted")
        except InvalidSignatureError:
            results.append("wrong signature")
        except ValueError:
            results.append("too old")
    assert results == ["wrong signature", "too old", "accepted"]


def test_a_feature_that_the_simulator_lacks_is_answered_with_501(client: replicate.Client) -> None:
    for call in (client.trainings.list, client.deployments.list, client.collections.list):
        with pytest.raises(ReplicateError) as caught:
            call()
        assert caught.value.status == 501

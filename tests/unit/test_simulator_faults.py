"""The faults of the simulator: odd answers to calls, broken outputs, and disturbed webhooks."""

import asyncio
import io
import json
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, get_args

import httpx
import pytest
from PIL import Image
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from picture_queue.local.simulator import SimulatorSettings, create_app
from picture_queue.local.simulator.faults import Call, CallFault, Fault, PredictionFault
from picture_queue.local.simulator.state import Prediction, Simulator
from picture_queue.local.simulator.subjects import SUBJECTS
from picture_queue.local.simulator.webhooks import Subscription, WebhookSender, subscribe
from picture_queue.providers.replicate.catalog import models

from ..simulator import Clock, open_simulator

SCHNELL = "black-forest-labs/flux-schnell"
_DOCS = Path(__file__).parents[2] / "docs" / "simulator.md"
HEADERS = {"authorization": "Bearer r8_test", "apikey": "sb_secret_test"}
SMALL = {"prompt": "a boat", "megapixels": "0.25"}


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def http(clock: Clock) -> AsyncIterator[httpx.AsyncClient]:
    settings = SimulatorSettings(token="r8_test", admin_keys=("sb_secret_test",))
    async with open_simulator(settings, clock, HEADERS) as client:
        yield client


async def add_fault(http: httpx.AsyncClient, **fault: Any) -> None:
    answer = await http.post("/_simulator/faults", json=fault)
    assert answer.status_code == 200, answer.text


async def create(http: httpx.AsyncClient, clock: Clock, **inputs: Any) -> dict[str, Any]:
    """Create a prediction, advance the clock by a minute, and return the prediction."""
    body = {"input": {**SMALL, **inputs}}
    answer = await http.post(f"/v1/models/{SCHNELL}/predictions", json=body)
    assert answer.status_code == 201, answer.text
    clock.now += 60
    prediction: dict[str, Any] = (await http.get(answer.json()["urls"]["get"])).json()
    return prediction


CALLS = ["create", "get", "list", "cancel", "file", "secret", "model", "account", "upload"]


async def call(http: httpx.AsyncClient, name: str, prediction: dict[str, Any]) -> httpx.Response:
    """Send the request of a call, named as in `Fault.on`."""
    requests: dict[str, tuple[str, str, dict[str, Any]]] = {
        "create": ("POST", f"/v1/models/{SCHNELL}/predictions", {"json": {"input": SMALL}}),
        "get": ("GET", prediction["urls"]["get"], {}),
        "list": ("GET", "/v1/predictions", {}),
        "cancel": ("POST", prediction["urls"]["cancel"], {}),
        "file": ("GET", prediction["output"][0], {}),
        "secret": ("GET", "/v1/webhooks/default/secret", {}),
        "model": ("GET", f"/v1/models/{SCHNELL}", {}),
        "account": ("GET", "/v1/account", {}),
        "upload": ("POST", "/v1/files", {"files": {"content": ("a.png", b"x", "image/png")}}),
    }
    method, url, options = requests[name]
    return await http.request(method, url, **options)


@pytest.mark.parametrize("name", CALLS)
async def test_each_call_can_get_each_odd_answer(
    http: httpx.AsyncClient, clock: Clock, name: str
) -> None:
    prediction = await create(http, clock)
    for status in (403, 404, 500, 503):
        kind = "client_error" if status < 500 else "server_error"
        await add_fault(http, kind=kind, status=status, on=name)
        assert (await call(http, name, prediction)).status_code == status
    await add_fault(http, kind="html", on=name)
    page = await call(http, name, prediction)
    assert (page.status_code, page.headers["content-type"][:9]) == (200, "text/html")
    for kind in ("cut_body", "lose_answer"):
        await add_fault(http, kind=kind, on=name)
        with pytest.raises(httpx.RemoteProtocolError):
            await call(http, name, prediction)
    assert (await call(http, name, prediction)).is_success
    assert (await http.get("/_simulator/faults")).json() == []


@pytest.mark.parametrize(("kind", "status"), [("client_error", 500), ("server_error", 404)])
async def test_a_status_that_does_not_fit_its_fault_is_refused(
    http: httpx.AsyncClient, kind: str, status: int
) -> None:
    answer = await http.post("/_simulator/faults", json={"kind": kind, "status": status})
    assert answer.status_code == 422
    assert f"status is {status}, which is not a status of {kind}" in answer.json()["detail"]


async def test_an_output_can_be_missing_or_lack_a_picture(
    http: httpx.AsyncClient, clock: Clock
) -> None:
    await add_fault(http, kind="missing_output")
    ended = await create(http, clock)
    assert (ended["status"], ended["output"], ended["data_removed"]) == ("succeeded", None, False)
    await add_fault(http, kind="fewer_pictures")
    ended = await create(http, clock, num_outputs=4)
    assert (len(ended["output"]), ended["metrics"]["image_count"]) == (3, 3)
    assert "Total safe images: 3 out of 4" in ended["logs"]


async def test_one_file_is_broken_among_good_ones(http: httpx.AsyncClient, clock: Clock) -> None:
    await add_fault(http, kind="bad_picture", number=1)
    ended = await create(http, clock, num_outputs=3)
    files = [await http.get(url) for url in ended["output"]]
    assert [file.content[:4] == b"RIFF" for file in files] == [True, False, True]
    assert {file.headers["content-type"] for file in files} == {"image/webp"}
    await add_fault(http, kind="wrong_type")
    file = await http.get((await create(http, clock))["output"][0])
    assert (file.content[:4], file.headers["content-type"]) == (b"RIFF", "image/png")


async def test_a_bomb_is_a_small_file_of_many_pixels(http: httpx.AsyncClient, clock: Clock) -> None:
    await add_fault(http, kind="bomb")
    data = (await http.get((await create(http, clock))["output"][0])).content
    assert len(data) < 500_000
    with pytest.raises(Image.DecompressionBombError):
        Image.open(io.BytesIO(data))


@pytest.mark.parametrize(
    ("logs", "expected"), [("percent", "50%|"), ("text", "Running"), ("empty", "")]
)
async def test_the_fault_slow_chooses_the_logs(
    http: httpx.AsyncClient, clock: Clock, logs: str, expected: str
) -> None:
    await add_fault(http, kind="slow", seconds=400, logs=logs)
    running = await create(http, clock)
    clock.now += 142  # half of the run, after the minute in `create`
    running = (await http.get(running["urls"]["get"])).json()
    assert running["status"] == "processing"
    assert expected in running["logs"]
    assert bool(running["logs"]) is (logs != "empty")


class Receiver(httpx.AsyncBaseTransport):
    """A receiver of webhooks that answers 200.

    `received` has the prediction's status, or "forged" for an invalid signature, and the id of each
    webhook.
    """

    def __init__(self, secret: str) -> None:
        self._webhook = Webhook(secret)
        self.received: list[tuple[str, str]] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        body = await request.aread()
        status = json.loads(body)["status"]
        try:
            self._webhook.verify(body, dict(request.headers))
        except WebhookVerificationError:
            status = "forged"
        self.received.append((status, request.headers["webhook-id"]))
        return httpx.Response(200)


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        ((), ["processing", "succeeded"]),
        (("repeat_webhooks",), ["processing", "processing", "succeeded", "succeeded"]),
        (("shuffle_webhooks",), ["succeeded", "processing"]),
        (("forge_webhooks",), ["forged", "forged", "processing", "forged", "forged", "succeeded"]),
        (("lose_webhooks",), []),
    ],
    ids=str,
)
async def test_a_fault_repeats_shuffles_forges_or_loses_webhooks(
    kinds: tuple[Any, ...], expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    received, _ = await deliver(kinds, monkeypatch)
    assert [status for status, _ in received] == expected


async def test_deliveries_share_an_http_client_until_the_last_one_has_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    simulator = Simulator(SimulatorSettings(seconds=0.2))
    sender = WebhookSender("whsec_" + "B" * 32, time.time)
    receiver, async_client = Receiver(sender.secret), httpx.AsyncClient
    clients: list[httpx.AsyncClient] = []

    def create_client(**_: Any) -> httpx.AsyncClient:
        clients.append(async_client(transport=receiver))
        return clients[-1]

    monkeypatch.setattr(httpx, "AsyncClient", create_client)
    for _ in range(2):  # two rounds, each with its own client
        for _ in range(3):
            prediction: Prediction = simulator.create(models()[SCHNELL], SMALL, None, {})
            sender.send(prediction, Subscription("http://receiver/"), "http://simulator")
        await asyncio.gather(*sender._tasks)
    assert len(receiver.received) == 6
    assert [client.is_closed for client in clients] == [True, True]


@pytest.mark.parametrize("url", ["http://receiver:port/", "http://[::1]:99999/", "http://xn--a/"])
async def test_a_delivery_to_an_invalid_url_fails_without_an_exception(url: str) -> None:
    simulator = Simulator(SimulatorSettings(seconds=0))
    sender = WebhookSender("whsec_" + "B" * 32, time.time)
    prediction: Prediction = simulator.create(models()[SCHNELL], SMALL, None, {})
    body = prediction.as_json(time.time(), "http://simulator")
    async with sender._client() as http:
        assert not await sender._deliver(http, Subscription(url), body)


async def test_a_late_webhook_arrives_after_its_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    _, seconds = await deliver(("late_webhooks",), monkeypatch)
    assert seconds >= 2 * 0.3, "each of the two webhooks is late"


async def deliver(
    kinds: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch
) -> tuple[list[tuple[str, str]], float]:
    """Return the webhooks of a prediction with faults, and the seconds of all deliveries."""
    simulator = Simulator(SimulatorSettings(seconds=0.2))
    sender = WebhookSender("whsec_" + "B" * 32, time.time)
    receiver = Receiver(sender.secret)
    async_client = httpx.AsyncClient
    monkeypatch.setattr(httpx, "AsyncClient", lambda **_: async_client(transport=receiver))
    for kind in kinds:
        seconds = 0.3 if kind == "late_webhooks" else None
        simulator.faults.add(Fault(kind=kind, seconds=seconds))
    subscription = subscribe("http://receiver/", ("start", "completed"), simulator.faults)
    prediction: Prediction = simulator.create(models()[SCHNELL], SMALL, None, {})
    started = time.monotonic()
    if subscription is not None:
        sender.send(prediction, subscription, "http://simulator")
    await asyncio.gather(*sender._tasks)
    return receiver.received, time.monotonic() - started


def test_the_documentation_lists_each_fault_and_call() -> None:
    text = _DOCS.read_text("utf-8")
    for name in (*get_args(CallFault), *get_args(PredictionFault)):
        assert f"| `{name}` |" in text
    for name in get_args(Call):
        assert f"`{name}`" in text


def test_the_documentation_lists_each_path() -> None:
    app = create_app(SimulatorSettings())
    (api,) = [mount for mount in app.app.routes if mount.path == "/v1"]
    documented = set(re.findall(r"\| `([A-Z ]+)` \| `(/[^`]*)` \|", _DOCS.read_text("utf-8")))
    listed = {(method, path) for methods, path in documented for method in methods.split()}
    served = {
        (method, route.path)
        for route in api.app._app.routes
        for method in route.methods
        if method != "HEAD" and not route.path.startswith("/{rest")
    }
    assert listed == served


def test_each_drawn_subject_is_documented() -> None:
    text = _DOCS.read_text("utf-8").replace("\n", " ")
    listed = re.search(r"the picture: (.*?), up to three", text)
    assert listed is not None
    assert re.split(r", | and ", listed[1]) == list(SUBJECTS)

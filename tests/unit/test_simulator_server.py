"""The simulator over a TCP socket, since an in-process transport cannot lose a response."""

import asyncio
import socket
from collections.abc import AsyncIterator

import httpx
import pytest
import uvicorn

from picture_queue.generations.image_info import read_image
from picture_queue.local.simulator import SimulatorSettings, create_app
from picture_queue.providers import errors
from picture_queue.providers.replicate.client import ReplicateClient

MODEL = "black-forest-labs/flux-schnell"
ADMIN_KEY = "sb_secret_test"


@pytest.fixture
async def base_url() -> AsyncIterator[str]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        app = create_app(SimulatorSettings(speed=100, token="r8_t", admin_keys=(ADMIN_KEY,)))
        config = uvicorn.Config(app, log_level="critical", lifespan="off")
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        await serving


async def add_fault(base_url: str, **fault: object) -> None:
    async with httpx.AsyncClient(headers={"apikey": ADMIN_KEY}, trust_env=False) as http:
        (await http.post(f"{base_url}/_simulator/faults", json=fault)).raise_for_status()


@pytest.mark.parametrize(
    ("seconds", "timeout"), [(0, 30.0), (5, 0.2)], ids=["dropped", "timed out"]
)
async def test_a_prediction_exists_although_its_response_was_lost(
    base_url: str, seconds: float, timeout: float
) -> None:
    await add_fault(base_url, kind="lose_answer", seconds=seconds)
    async with ReplicateClient(
        "r8_t", base_url=f"{base_url}/v1", timeout=httpx.Timeout(timeout)
    ) as client:
        with pytest.raises(errors.OutcomeUnknown):
            await client.create(MODEL, {"prompt": "a boat"}, cancel_after=60)
        async with httpx.AsyncClient(headers={"apikey": ADMIN_KEY}, trust_env=False) as http:
            (prediction,) = (await http.get(f"{base_url}/_simulator/predictions")).json()
        assert (await client.get(prediction["id"])).input == {"prompt": "a boat"}


async def test_the_client_downloads_an_image_over_a_socket(base_url: str) -> None:
    async with ReplicateClient("r8_t", base_url=f"{base_url}/v1") as client:
        prediction = await client.create(MODEL, {"prompt": "a boat"}, cancel_after=60)
        while not prediction.has_ended:
            await asyncio.sleep(0.01)
            prediction = await client.get(prediction.id)
        info = read_image(await client.download(prediction.output[0]))
    assert info is not None
    assert (info.width, info.height) == (1024, 1024)

"""Receive the webhooks of Replicate in your own ASGI app."""

import asyncio

import httpx
from starlette.applications import Starlette
from starlette.routing import Mount

from picture_queue import AsyncPictureQueue
from picture_queue.settings import ReplicateSettings
from picture_queue.web import create_app

# In production: ReplicateSettings.from_env(), without a secret.
REPLICATE = ReplicateSettings("r8_example", webhook_secret="whsec_ZXhhbXBsZSBzZWNyZXQ=")


async def main() -> None:
    """Mount the app, and call it as a server would."""
    async with AsyncPictureQueue.from_env() as pq:
        app = Starlette(routes=[Mount("/pq", create_app(pq, REPLICATE))])
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="https://app.test") as http:
            assert (await http.get("/pq/readyz")).json() == {"status": "ready"}
            forged = await http.post("/pq/webhooks/replicate", content=b"{}")
            assert forged.status_code == 401
            print(forged.json())


asyncio.run(main())

"""Receive the webhooks of Replicate in your own ASGI app."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

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
        pictures = create_app(pq, REPLICATE)

        @contextlib.asynccontextmanager
        async def lifespan(_: Starlette) -> AsyncIterator[None]:
            """Run the lifespan of the mounted app, which Starlette does not do."""
            async with pictures.router.lifespan_context(pictures):
                yield  # at the end it closes its connections

        app = Starlette(routes=[Mount("/pq", pictures)], lifespan=lifespan)
        transport = httpx.ASGITransport(app)
        async with (
            app.router.lifespan_context(app),  # a server does this
            httpx.AsyncClient(transport=transport, base_url="https://app.test") as http,
        ):
            assert (await http.get("/pq/readyz")).json() == {"status": "ready"}
            forged = await http.post("/pq/webhooks/replicate", content=b"{}")
            assert forged.status_code == 401
            print(forged.json())


asyncio.run(main())

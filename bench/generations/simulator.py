"""The Replicate simulator as a separate process, like the real Replicate.

``python bench/generations/simulator.py PORT SECONDS MEGABYTES``, with the token in
``REPLICATE_API_TOKEN``. Every prediction takes SECONDS. If MEGABYTES is not 0, each output is a
picture of noise with this size.
"""

import io
import math
import os
import sys
from functools import lru_cache

import uvicorn
from PIL import Image
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from picture_queue.local.simulator import SimulatorSettings, create_app

_QUEUE_SECONDS = 0.15  # seconds that the simulator adds before the start of a prediction


class LargeOutputs:
    """ASGI middleware that answers each request for an output with a large PNG."""

    def __init__(self, app: ASGIApp, megabytes: int) -> None:
        self._app = app
        self._megabytes = megabytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] == "http" and scope["path"].startswith("/files/"):
            picture = noise(self._megabytes)
            await Response(picture, media_type="image/png")(scope, receive, send)
        else:
            await self._app(scope, receive, send)


@lru_cache
def noise(megabytes: int) -> bytes:
    """Return a PNG of random pixels, which cannot be compressed."""
    side = math.ceil(math.sqrt(megabytes * 1_000_000 / 3))
    file = io.BytesIO()
    image = Image.frombytes("RGB", (side, side), os.urandom(side * side * 3))
    image.save(file, "PNG", compress_level=0)
    return file.getvalue()


def main() -> None:
    """Serve the simulator until a signal."""
    port, seconds, megabytes = int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
    settings = SimulatorSettings(
        base_url=f"http://127.0.0.1:{port}",
        seconds=max(0.0, seconds - _QUEUE_SECONDS),
        token=os.environ["REPLICATE_API_TOKEN"],
    )
    app: ASGIApp = create_app(settings)
    if megabytes:
        noise(megabytes)
        app = LargeOutputs(app, megabytes)
    uvicorn.run(app, port=port, log_level="warning", access_log=False, lifespan="off")


if __name__ == "__main__":
    main()

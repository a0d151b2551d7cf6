"""A server of the app, with limits for slow clients."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp

from picture_queue._http_protocol import BoundedHttpProtocol
from picture_queue._runtime.stop_signals import on_stop_signal
from picture_queue.web.background_worker import BackgroundWorker

_REQUEST_STOP_TIMEOUT = 5  # seconds that open requests get at a stop


async def run_server(
    app: ASGIApp,
    listener: socket.socket,
    background: BackgroundWorker | None = None,
    *,
    logs_requests: bool = False,
) -> None:
    """Serve an app until SIGTERM, SIGINT or the failure of its worker.

    The caller runs the lifespan of the app.

    Args:
        app: The app.
        listener: A socket that listens.
        background: The worker of the app, if there is one.
        logs_requests: Whether to log a line for each request.

    Raises:
        Exception: The error that has ended the worker.
    """
    server = _Server(
        uvicorn.Config(
            app,
            http=BoundedHttpProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=logs_requests,
            server_header=False,
            proxy_headers=False,  # no route uses the address of the client
            timeout_graceful_shutdown=_REQUEST_STOP_TIMEOUT,
        )
    )

    def stop() -> None:
        server.force_exit = server.should_exit  # the second signal ends open requests
        server.should_exit = True

    async def stop_after_failure(worker: BackgroundWorker) -> None:
        await worker.wait_for_failure()
        server.should_exit = True

    watching = None
    if background is not None:
        watching = asyncio.create_task(stop_after_failure(background))
    try:
        with on_stop_signal(stop):
            await server.serve([listener])
    finally:
        if watching is not None:
            watching.cancel()
    if background is not None and background.failure is not None:
        raise background.failure


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Install no signal handlers, since `on_stop_signal` has installed ours."""
        yield

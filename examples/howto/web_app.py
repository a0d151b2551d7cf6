"""A web application whose users start pictures and follow them, with a worker in its process."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from uuid import uuid4

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route
from supabase import acreate_client

from picture_queue import AsyncPictureQueue, Worker
from picture_queue.errors import PictureQueueError
from picture_queue.web import BackgroundWorker

pq = AsyncPictureQueue.from_env()
worker = Worker(pq)


@worker.handler("web-app-mail")
async def send_mail(payload: dict[str, str]) -> str:
    """Run a job of the application in the process of the web server."""
    return f"sent to {payload['to']}"


def client_of(request: Request) -> AsyncPictureQueue:
    """Return a client with the privileges of the user who makes the request."""
    token = request.headers.get("authorization", "").removeprefix("Bearer ")
    return pq.as_user(token)  # it shares the connections of `pq`


async def start(request: Request) -> JSONResponse:
    """Start a generation of the user."""
    body = await request.json()
    started = await client_of(request).generations.start(body["prompt"])
    return JSONResponse({"id": str(started.id)}, 202)


async def cancel(request: Request) -> JSONResponse:
    """Cancel a generation of the user."""
    await client_of(request).generations.cancel(request.path_params["id"])
    return JSONResponse({})


async def events(request: Request) -> StreamingResponse:
    """Send the states of a generation as server-sent events."""
    user = client_of(request)
    await user.generations.get(request.path_params["id"])  # 404 before the stream begins

    async def stream() -> AsyncIterator[str]:
        # At the end of the block, the Realtime connection of this user is closed.
        async with user:
            async for event in user.generations.watch(request.path_params["id"]):
                yield f"data: {event.model_dump_json(include={'status', 'progress'})}\n\n"

    return StreamingResponse(stream(), media_type="text/event-stream")


async def refuse(_: Request, error: Exception) -> JSONResponse:
    """Answer with the status of the error, such as 401 or 404."""
    status = getattr(error, "http_status", None) or 503
    return JSONResponse({"error": getattr(error, "message", "")}, status)


@contextlib.asynccontextmanager
async def lifespan(_: Starlette) -> AsyncIterator[None]:
    """Run the worker as long as the application runs."""
    async with pq, BackgroundWorker(worker):
        yield


app = Starlette(
    routes=[
        Route("/pictures", start, methods=["POST"]),
        Route("/pictures/{id:uuid}/cancel", cancel, methods=["POST"]),
        Route("/pictures/{id:uuid}/events", events),
    ],
    exception_handlers={PictureQueueError: refuse},
    lifespan=lifespan,
)


async def main() -> None:
    """Call the application as a browser would. In production, an ASGI server serves `app`."""
    url, key = os.environ["SUPABASE_URL"], os.environ["SUPABASE_SERVICE_ROLE_KEY"]
    supabase = await acreate_client(url, key)
    address = f"{uuid4().hex}@example.com"
    session = (await supabase.auth.sign_up({"email": address, "password": "a long word"})).session
    assert session is not None
    transport = httpx.ASGITransport(app)
    headers = {"Authorization": f"Bearer {session.access_token}"}
    async with (
        app.router.lifespan_context(app),  # a server does this
        httpx.AsyncClient(transport=transport, base_url="https://app.test", timeout=30) as http,
    ):
        assert (await http.post("/pictures", json={"prompt": "a cat"})).status_code == 401
        started = await http.post("/pictures", json={"prompt": "a cat"}, headers=headers)
        path = f"/pictures/{started.json()['id']}"
        await http.post(f"{path}/cancel", headers=headers)
        print((await http.get(f"{path}/events", headers=headers)).text.strip())

        job = await pq.jobs.enqueue("web-app-mail", {"to": address})
        print(await pq.jobs.result(job.id, timeout=30))


if __name__ == "__main__":
    asyncio.run(main())

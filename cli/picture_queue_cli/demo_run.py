"""One run of the demo: the user, the generation, and what is shown of it."""

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

from picture_queue._loopback import direct_mounts
from picture_queue.errors import JobCancelled, JobFailed, LocalStackError, PictureQueueError
from picture_queue_cli.demo_stack import (
    ANSWER_TIMEOUT,
    Stack,
    done,
    realtime_switch,
    running,
    who_drew,
    worker_is_ready,
)
from picture_queue_cli.local import show_status
from picture_queue_cli.pictures import save_pictures
from picture_queue_cli.preview import preview
from picture_queue_cli.progress_bar import Bar
from picture_queue_cli.render import info, out, print_json, styled
from picture_queue_cli.timeline import Timeline

if TYPE_CHECKING:
    from picture_queue import AsyncPictureQueue, Generation, Job

_CANCEL_TIMEOUT = 5.0  # seconds
_WATCH_TIMEOUT = 600.0  # seconds; the real Replicate may have to start the model first


@dataclass(frozen=True)
class DemoOptions:
    """The options of a demo.

    Args:
        prompt: What to draw.
        model: Which model draws.
        directory: Where the picture is saved; it exists.
        keep: Leave the stack running.
        cut_socket: Cut Realtime off once the job is claimed.
        real_replicate: Use the real Replicate.
        as_json: Print JSON.
    """

    prompt: str
    model: str
    directory: Path
    keep: bool
    cut_socket: bool
    real_replicate: bool
    as_json: bool


@dataclass(frozen=True)
class _Result:
    """The result of a demo."""

    generation: "Generation"
    job: "Job"
    paths: list[Path]
    timeline: Timeline
    replicate: str


def run_demo(options: DemoOptions) -> None:
    """Run the demo and print its result.

    Raises:
        JobFailed: The generation failed.
        JobCancelled: Somebody cancelled it.
        LocalStackError: The stack does not start.
    """
    with running(options.keep, options.real_replicate) as stack:
        result = asyncio.run(_run(stack, options))
        if options.as_json:
            print_json(_as_json(result) | ({"stack": stack.status} if options.keep else {}))
        else:
            _show(result)
            if options.keep:
                _show_kept(stack)
    if result.job.status != "completed":
        raise (JobFailed if result.job.status == "failed" else JobCancelled)(result.job)


async def _run(stack: Stack, options: DemoOptions) -> _Result:
    began = time.time()
    await worker_is_ready(stack)
    async with _signed_up(stack) as pq:
        # Opens the connection: the timeline is about answers, not about greetings.
        await pq.version()
        timeline = Timeline()
        started = await pq.generations.start(options.prompt, options.model)
        timeline.mark("answered", "answer")
        done("Generation", f"“{options.prompt}”, {options.model}")
        async with realtime_switch(stack) as cut_realtime, _cancelled_with_us(pq, started.id):
            with Bar() as bar:
                async for event in pq.generations.watch(started.id, timeout=_WATCH_TIMEOUT):
                    timeline.record_event(event)
                    bar.show(event)
                    if options.cut_socket and event.status == "processing":
                        await cut_realtime()
        generation = await pq.generations.get(started.id)
        paths = await save_pictures(pq, generation, options.directory)
        if paths:
            timeline.mark_row("stored", generation.images[0].created_at)
            timeline.mark("saved", "download")
        job = await pq.jobs.get(started.job_id)
    replicate = await who_drew(stack, options.prompt, began)
    return _Result(generation, job, paths, timeline, replicate)


@asynccontextmanager
async def _signed_up(stack: Stack) -> "AsyncIterator[AsyncPictureQueue]":
    """Signs a user up with supabase's own client, and gives the queue as that user has it."""
    import httpx
    from supabase import AsyncClientOptions, acreate_client

    from picture_queue import AsyncPictureQueue

    key = stack.status["ANON_KEY"]
    email = f"demo-{secrets.token_hex(4)}@example.com"
    mounts = direct_mounts(stack.api_url)
    async with httpx.AsyncClient(timeout=ANSWER_TIMEOUT, mounts=mounts) as http:
        options = AsyncClientOptions(
            auto_refresh_token=False, persist_session=False, httpx_client=http
        )
        client = await acreate_client(stack.api_url, key, options=options)
        answer = await client.auth.sign_up({"email": email, "password": secrets.token_urlsafe()})
    if answer.session is None:
        raise LocalStackError("The new user was not signed in", detail=email)
    done("User", f"{email}, signed up just now")
    token = answer.session.access_token
    async with AsyncPictureQueue(
        stack.api_url, key, access_token=token, timeout=ANSWER_TIMEOUT
    ) as pq:
        yield pq


@asynccontextmanager
async def _cancelled_with_us(pq: "AsyncPictureQueue", generation_id: UUID) -> AsyncIterator[None]:
    """Cancels the generation when the demo is interrupted: its worker would finish it first."""
    try:
        yield
    except asyncio.CancelledError:
        with contextlib.suppress(PictureQueueError, TimeoutError):
            async with asyncio.timeout(_CANCEL_TIMEOUT):
                await pq.generations.cancel(generation_id)
        raise


def _as_json(result: _Result) -> dict[str, Any]:
    generation = result.generation
    return {
        "generation_id": generation.id,
        "job_id": generation.job_id,
        "user_id": generation.user_id,
        "model_id": generation.model_id,
        "prompt": generation.prompt,
        "status": result.job.status,
        "error": generation.error,
        "picture": str(result.paths[0]) if result.paths else None,
        "replicate": result.replicate,
        **result.timeline.as_json(),
    }


def _show(result: _Result) -> None:
    console = out()
    console.print()
    for path in result.paths:
        picture = preview(path, console)
        if picture is not None:
            console.print(picture)
            console.print()
        console.print(styled(str(path), "bold"), soft_wrap=True)
    console.print()
    console.print(result.timeline.as_table())
    console.print(styled(result.timeline.sources(), "dim"))
    console.print()


def _show_kept(stack: Stack) -> None:
    show_status(stack.status)
    info("\nIt goes on running. Stop it with: picture-queue local stop")

"""Run the demo: sign up a user, generate a picture, show the result."""

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
    REQUEST_TIMEOUT,
    Stack,
    find_image_source,
    print_step,
    realtime_cutter,
    run_stack,
    wait_for_worker,
)
from picture_queue_cli.local import show_status
from picture_queue_cli.pictures import save_pictures
from picture_queue_cli.preview import preview
from picture_queue_cli.progress_bar import ProgressBar
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
        prompt: The prompt of the picture.
        model: The id of the model.
        directory: The existing directory in which the picture is saved.
        keep: Leave the stack running.
        cut_socket: Disconnect Realtime once the job is claimed.
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
        JobCancelled: The generation was cancelled.
        LocalStackError: The stack does not start.
    """
    with run_stack(options.keep, options.real_replicate) as stack:
        result = asyncio.run(_run(stack, options))
        if options.as_json:
            print_json(_as_json(result) | ({"stack": stack.status} if options.keep else {}))
        else:
            _show(result)
            if options.keep:
                _show_stack(stack)
    if result.job.status != "completed":
        raise (JobFailed if result.job.status == "failed" else JobCancelled)(result.job)


async def _run(stack: Stack, options: DemoOptions) -> _Result:
    began = time.time()
    await wait_for_worker(stack)
    async with _sign_up(stack) as pq:
        # Open the connection before the timeline begins.
        await pq.version()
        timeline = Timeline()
        started = await pq.generations.start(options.prompt, options.model)
        timeline.mark("answered", "answer")
        print_step("Generation", f"“{options.prompt}”, {options.model}")
        async with realtime_cutter(stack) as cut_realtime, _cancel_on_interrupt(pq, started.id):
            with ProgressBar() as bar:
                async for event in pq.generations.watch(started.id, timeout=_WATCH_TIMEOUT):
                    timeline.record_event(event)
                    bar.show(event)
                    if options.cut_socket and event.status == "processing":
                        await cut_realtime()
        generation = await pq.generations.get(started.id)
        paths = await save_pictures(pq, generation, options.directory)
        if paths:
            timeline.mark_at("stored", generation.images[0].created_at)
            timeline.mark("saved", "download")
        job = await pq.jobs.get(started.job_id)
    replicate = await find_image_source(stack, options.prompt, began)
    return _Result(generation, job, paths, timeline, replicate)


@asynccontextmanager
async def _sign_up(stack: Stack) -> "AsyncIterator[AsyncPictureQueue]":
    """Sign up a user with supabase-py, and yield a client that acts as this user."""
    import httpx
    from supabase import AsyncClientOptions, acreate_client

    from picture_queue import AsyncPictureQueue

    key = stack.status["ANON_KEY"]
    email = f"demo-{secrets.token_hex(4)}@example.com"
    mounts = direct_mounts(stack.api_url)
    async with httpx.AsyncClient(timeout=REQUEST_TIMEOUT, mounts=mounts) as http:
        options = AsyncClientOptions(
            auto_refresh_token=False, persist_session=False, httpx_client=http
        )
        client = await acreate_client(stack.api_url, key, options=options)
        answer = await client.auth.sign_up({"email": email, "password": secrets.token_urlsafe()})
    if answer.session is None:
        raise LocalStackError("The new user was not signed in", detail=email)
    print_step("User", f"{email}, signed up just now")
    token = answer.session.access_token
    async with AsyncPictureQueue(
        stack.api_url, key, access_token=token, timeout=REQUEST_TIMEOUT
    ) as pq:
        yield pq


@asynccontextmanager
async def _cancel_on_interrupt(pq: "AsyncPictureQueue", generation_id: UUID) -> AsyncIterator[None]:
    """Cancel the generation if the demo is interrupted; the worker would finish it otherwise."""
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


def _show_stack(stack: Stack) -> None:
    show_status(stack.status)
    info("\nThe stack is still running. Stop it with: picture-queue local stop")

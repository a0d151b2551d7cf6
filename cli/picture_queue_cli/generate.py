"""``picture-queue generate``: generate pictures and save them as files."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from picture_queue_cli.generate_batch import (
    build_requests,
    expect_download,
    generate_batch,
    parse_steps,
    translate_warning,
)
from picture_queue_cli.models import KINDS
from picture_queue_cli.options import JsonFlag
from picture_queue_cli.parsing import choice, expect_filled, parse_pairs, parse_uuid, whole_number
from picture_queue_cli.pictures import (
    DEFAULT_DIRECTORY,
    OutDirectory,
    describe_pictures,
    make_directory,
    save_pictures,
)
from picture_queue_cli.project import connect_async, run
from picture_queue_cli.render import info, print_json, print_line, warn
from picture_queue_cli.watch import Timeout, expect_completed, follow

if TYPE_CHECKING:
    from picture_queue import AsyncPictureQueue
    from picture_queue.records import StartedGeneration


def _complete_model(incomplete: str) -> list[str]:
    """Return the models of the built-in catalogue whose names begin with this text."""
    from picture_queue.providers.replicate.catalog import models

    return [name for name in models() if name.startswith(incomplete)]


def generate(
    ctx: typer.Context,
    prompt: Annotated[
        str | None,
        typer.Argument(help="Describe the picture; empty for models without a prompt."),
    ] = None,
    *,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            autocompletion=_complete_model,
            callback=expect_filled,
            help="Use this model instead of the default.",
        ),
    ] = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            metavar="NAME=VALUE",
            help="Set an input of the model: num_outputs=2; repeatable.",
        ),
    ] = None,
    kind: Annotated[
        str | None,
        typer.Option(
            metavar="KIND",
            parser=choice(*KINDS),
            help="Use this kind of the model, if it has several.",
        ),
    ] = None,
    reuse: Annotated[
        bool, typer.Option("--reuse", help="Return an equal finished picture if there is one.")
    ] = False,
    then: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KIND",
            help="Continue with upscale or remove-background; repeatable.",
        ),
    ] = None,
    prompts: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Read prompts, one a line; - is standard input."),
    ] = None,
    count: Annotated[
        int,
        typer.Option(
            metavar="N",
            parser=whole_number(1, 100),
            help="Generate N pictures that differ in seed.",
        ),
    ] = 1,
    out: OutDirectory = DEFAULT_DIRECTORY,
    user_id: Annotated[
        UUID | None,
        typer.Option(
            metavar="ID", parser=parse_uuid, help="Make this user the owner; needs a service key."
        ),
    ] = None,
    watch: Annotated[
        bool,
        typer.Option("--watch/--no-watch", help="Wait for the pictures, or only print the id."),
    ] = True,
    timeout: Timeout = None,
    as_json: JsonFlag = False,
) -> None:
    """Generate pictures, follow their progress and save them."""
    model_input = parse_pairs(inputs or [], "--input")
    steps = parse_steps(then or [])
    request: dict[str, Any] = {"model_id": model, "input": model_input, "kind": kind}
    requests = build_requests(prompt, prompts, count, request)
    is_batch = len(requests) > 1 or bool(steps)
    if is_batch and reuse:
        raise typer.BadParameter("start one picture without --then", param_hint="--reuse")
    if watch:
        make_directory(out)
    if is_batch:
        requests = [{**each, "then": steps} for each in requests]
        run(generate_batch(ctx, requests, user_id, out if watch else None, timeout, as_json))
        return
    request = {**requests[0], "user_id": user_id, "reuse": reuse}
    run(_generate(ctx, request, out if watch else None, timeout, as_json))


async def _generate(
    ctx: typer.Context,
    request: dict[str, Any],
    out: Path | None,
    timeout: float | None,
    as_json: bool,
) -> None:
    async with connect_async(ctx) as pq:
        if out is not None:
            await expect_download(pq)
        started = await pq.generations.start(**request)
        for warning in started.warnings:
            warn(translate_warning(warning))
        if out is not None:
            await _follow_and_save(pq, started, out, timeout, as_json)
        elif as_json:
            print_json(
                {
                    "generation_id": started.id,
                    "job_id": started.job_id,
                    "status": started.status,
                }
            )
        else:
            print_line(str(started.id))


async def _follow_and_save(
    pq: "AsyncPictureQueue",
    started: "StartedGeneration",
    out: Path,
    timeout: float | None,
    as_json: bool,
) -> None:
    """Follow a generation, save its pictures and print their paths."""
    info(f"Generation {started.id}" + (", which had finished before" if started.reused else ""))
    # The job of a reused generation may have been pruned.
    last = None if started.reused else await follow(pq, started.job_id, started.id, timeout)
    generation = await pq.generations.get(started.id)
    paths = await save_pictures(pq, generation, out)
    if as_json:
        print_json(
            {
                "generation_id": generation.id,
                "job_id": generation.job_id,
                "status": generation.status,
                "model_id": generation.model_id,
                "prompt": generation.prompt,
                "input": generation.input,
                "error": generation.error,
                **describe_pictures(generation, paths),
            }
        )
    else:
        for path in paths:
            print_line(str(path))
        for missing in generation.missing_images:
            info(f"Picture {missing.n} is missing: {missing.reason}")
    await expect_completed(pq, last)

"""``picture-queue generate``: from a prompt to files."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from picture_queue_cli.pictures import (
    DEFAULT_DIRECTORY,
    OutDirectory,
    make_directory,
    save_pictures,
)
from picture_queue_cli.project import connect_async, run
from picture_queue_cli.render import print_json, print_line, talk
from picture_queue_cli.sharing import JsonFlag
from picture_queue_cli.watch import Timeout, expect_completed, going_on_without_us

if TYPE_CHECKING:
    from picture_queue import AsyncPictureQueue, StartedGeneration


def _known_models(incomplete: str) -> list[str]:
    """Completes a model's name from the catalogue this package ships."""
    from picture_queue.replicate.catalog import models

    return [name for name in models() if name.startswith(incomplete)]


def generate(
    ctx: typer.Context,
    prompt: Annotated[str, typer.Argument(help="What to draw.")],
    *,
    model: Annotated[
        str | None,
        typer.Option(autocompletion=_known_models, help="Which model; the project's default."),
    ] = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            metavar="NAME=VALUE",
            help="A further input of the model, such as num_outputs=2; repeatable.",
        ),
    ] = None,
    out: OutDirectory = DEFAULT_DIRECTORY,
    user_id: Annotated[
        UUID | None, typer.Option(help="Whose it is; with a service key only.")
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch/--no-watch", help="Wait for the pictures, or print the id.")
    ] = True,
    timeout: Timeout = None,
    as_json: JsonFlag = False,
) -> None:
    """Ask for a picture, watch it come, and save it."""
    given = parse_inputs(inputs or ())
    if watch:
        make_directory(out)
    asked = {"prompt": prompt, "model_id": model, "input": given, "user_id": user_id}
    run(_generate(ctx, asked, out if watch else None, timeout, as_json))


def parse_inputs(pairs: Sequence[str]) -> dict[str, Any]:
    """Reads ``name=value`` pairs; a value is JSON where it can be read so, else a string.

    Raises:
        typer.BadParameter: A pair has no name or no equals sign.
    """
    found: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not (name and equals):
            raise typer.BadParameter(f"{pair!r} is not NAME=VALUE", param_hint="--input")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found


async def _generate(
    ctx: typer.Context,
    asked: dict[str, Any],
    out: Path | None,
    timeout: float | None,
    as_json: bool,
) -> None:
    async with connect_async(ctx) as pq:
        started = await pq.generations.start(**asked)
        if out is not None:
            await _deliver(pq, started, out, timeout, as_json)
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


async def _deliver(
    pq: "AsyncPictureQueue",
    started: "StartedGeneration",
    out: Path,
    timeout: float | None,
    as_json: bool,
) -> None:
    """Watches a generation, saves its pictures and says where they are."""
    from picture_queue_cli.bar import Bar

    talk(f"Generation {started.id}")
    last = None
    with going_on_without_us(started.id), Bar() as bar:
        async for last in pq.generations.watch(started.id, timeout=timeout):
            bar.show(last)
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
                "pictures": [
                    {
                        "path": str(path),
                        "mime_type": image.mime_type,
                        "width": image.width,
                        "height": image.height,
                        "bytes": image.bytes,
                    }
                    for path, image in zip(paths, generation.images, strict=True)
                ],
            }
        )
    else:
        for path in paths:
            print_line(str(path))
    if last is not None:
        await expect_completed(pq, last)

"""``picture-queue generations``: list, show, mark and delete generations."""

import json
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from picture_queue_cli import generation_batches
from picture_queue_cli.commands import Commands
from picture_queue_cli.models import KINDS
from picture_queue_cli.options import (
    STATUSES,
    JsonFlag,
    YesFlag,
    choice_option,
    confirm,
    id_option,
    number_option,
    text_option,
)
from picture_queue_cli.parsing import EXAMPLE_ID, choice, parse_uuid
from picture_queue_cli.project import connect
from picture_queue_cli.render import (
    format_age,
    info,
    local_time,
    one_line,
    out,
    pairs,
    plain,
    print_json,
    print_line,
    status_text,
    styled,
    table,
)

if TYPE_CHECKING:
    from picture_queue.records import Generation

app = Commands(
    help="List, mark and delete generations.", example="generations list --search lighthouse"
)

app.add_typer(generation_batches.app, name="batches")

GenerationId = Annotated[
    UUID, typer.Argument(metavar="GENERATION_ID", parser=parse_uuid, help="Name the generation.")
]
_MAX_PROMPT_LENGTH = 50  # characters of a prompt in the table


@app.command("list", example="generations list --search 'red lighthouse'")
def list_generations(
    ctx: typer.Context,
    *,
    search: text_option("Select prompts that contain these words.") = None,  # type: ignore[valid-type]
    status: choice_option("Select this status.", values=STATUSES) = None,  # type: ignore[valid-type]
    model: text_option("Select this model.", metavar="MODEL") = None,  # type: ignore[valid-type]
    kind: Annotated[
        str | None,
        typer.Option(metavar="KIND", parser=choice(*KINDS), help="Select this kind."),
    ] = None,
    favourites: Annotated[
        bool | None,
        typer.Option("--favourites/--no-favourites", help="Select favourites, or the others."),
    ] = None,
    user_id: id_option("Select this owner; needs a service key.") = None,  # type: ignore[valid-type]
    before: id_option("Select generations older than this one.") = None,  # type: ignore[valid-type]
    limit: number_option("List at most this many.", minimum=1, maximum=1000) = 20,  # type: ignore[valid-type]
    as_json: JsonFlag = False,
) -> None:
    """List generations, newest first."""
    with connect(ctx) as pq:
        generations = pq.generations.list(
            status=status,
            model_id=model,
            kind=kind,
            favourite=favourites,
            search=search,
            user_id=user_id,
            limit=limit,
            before=None if before is None else pq.generations.get(before),
        )
    if as_json:
        print_json([plain(generation) for generation in generations])
        return
    if not generations:
        info("No generation matches.")
        return
    listing = table("id", "prompt", "status", "pictures", "", "created", right=("pictures",))
    for generation in generations:
        prompt = one_line(generation.prompt)
        if len(prompt) > _MAX_PROMPT_LENGTH:
            prompt = prompt[: _MAX_PROMPT_LENGTH - 1] + "…"
        listing.add_row(
            str(generation.id),
            styled(prompt),
            status_text(generation.status),
            str(len(generation.images)),
            "favourite" if generation.favourite else "",
            format_age(generation.created_at),
        )
    out().print(listing)


@app.command(example=f"generations show {EXAMPLE_ID}")
def show(ctx: typer.Context, generation_id: GenerationId, *, as_json: JsonFlag = False) -> None:
    """Show a generation and its pictures."""
    with connect(ctx) as pq:
        generation = pq.generations.get(generation_id)
    if as_json:
        print_json(plain(generation))
    else:
        out().print(pairs(_details(generation)))


def _details(generation: "Generation") -> dict[str, Any]:
    return {
        "id": generation.id,
        "prompt": generation.prompt,
        "model": generation.model_id,
        "version": generation.model_version,
        "input": json.dumps(generation.input, ensure_ascii=False),
        "status": status_text(generation.status),
        "error": generation.error,
        "favourite": "yes" if generation.favourite else None,
        "user": generation.user_id,
        "job": generation.job_id,
        "batch": generation.batch_id,
        "pictures": "\n".join(image.path for image in generation.images) or None,
        "created": local_time(generation.created_at),
        "finished": local_time(generation.finished_at),
    }


@app.command(example=f"generations favourite {EXAMPLE_ID}")
def favourite(
    ctx: typer.Context,
    generation_id: GenerationId,
    *,
    remove: Annotated[bool, typer.Option("--remove", help="Unmark it.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Mark a generation as a favourite, or unmark it."""
    with connect(ctx) as pq:
        generation = pq.generations.set_favourite(generation_id, not remove)
    if as_json:
        print_json(plain(generation))
    else:
        print_line(
            f"{generation.id}: {'a favourite' if generation.favourite else 'not a favourite'}"
        )


@app.command(example=f"generations delete {EXAMPLE_ID}")
def delete(
    ctx: typer.Context,
    generation_id: GenerationId,
    *,
    yes: YesFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Delete a generation with its pictures."""
    with connect(ctx) as pq:
        if not yes:
            generation = pq.generations.get(generation_id)
            confirm(f"Delete {generation.id} with {len(generation.images)} pictures?")
        pq.generations.delete(generation_id)
    if as_json:
        print_json({"generation_id": generation_id, "deleted": True})
    else:
        info(f"{generation_id} was deleted.")

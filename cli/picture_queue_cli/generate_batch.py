"""The batches of ``picture-queue generate``: several prompts or seeds, and further steps."""

import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import typer

from picture_queue_cli.commands import UsageError
from picture_queue_cli.models import KINDS
from picture_queue_cli.parsing import read_text
from picture_queue_cli.pictures import describe_pictures, save_pictures
from picture_queue_cli.project import connect_async
from picture_queue_cli.render import info, print_json, print_line, reason_lines, warn
from picture_queue_cli.watch import hint_on_interrupt

if TYPE_CHECKING:
    from picture_queue import AsyncPictureQueue
    from picture_queue.options import GenerationRequest, GenerationStep
    from picture_queue.records import GenerationBatch

#: Other names of kinds that --then accepts.
_VERBS = {"remove-background": "background-removal", "vectorize": "vector", "edit": "image-edit"}
_MAX_REQUESTS = 100
_MAX_SEED = 2**31 - 1


def parse_steps(texts: list[str]) -> "list[GenerationStep]":
    """Return the steps that ``--then`` names: a kind or a model, and after ``=`` a prompt.

    Raises:
        typer.BadParameter: A text is neither a kind nor the id of a model.
    """
    steps: list[GenerationStep] = []
    for text in texts:
        name, _, prompt = text.partition("=")
        step: GenerationStep
        if "/" in name:
            step = {"model_id": name}
        elif (kind := _VERBS.get(name, name)) in KINDS:
            step = {"kind": kind}
        else:
            names = sorted({*KINDS, *_VERBS} - set(_VERBS.values()) - {"text-to-image"})
            raise typer.BadParameter(
                f"{name[:100]!r} is neither the id of a model nor one of {', '.join(names)}",
                param_hint="--then",
            )
        if prompt:
            step["prompt"] = prompt
        steps.append(step)
    return steps


def build_requests(
    prompt: str | None, file: str | None, count: int, request: dict[str, Any]
) -> list[dict[str, Any]]:
    """Return a request for each prompt and seed.

    Args:
        prompt: The prompt; None: the prompts are in a file.
        file: The path of a file with a prompt on each line; ``-``: standard input.
        count: The number of seeds for each prompt. They follow the seed of the input, or are
            random.
        request: The other parts of each request.

    Raises:
        typer.BadParameter: Both or neither of prompt and file are given, or there are too many
            requests.
    """
    if prompt is None and file is None:
        raise UsageError("PROMPT is missing.")
    if prompt is not None and file is not None:
        raise typer.BadParameter("pass either a prompt or --prompts", param_hint="PROMPT")
    prompts = [prompt or ""]
    if file is not None:
        lines = read_text(file if file == "-" else f"@{file}", "--prompts").splitlines()
        prompts = [line.strip() for line in lines if line.strip()]
    if not 1 <= len(prompts) * count <= _MAX_REQUESTS:
        raise typer.BadParameter(
            f"{len(prompts)} prompts with {count} pictures each are {len(prompts) * count}; "
            f"1 to {_MAX_REQUESTS} are possible",
            param_hint="--prompts" if count == 1 else "--count",
        )
    requests = []
    for each in prompts:
        first = request["input"].get("seed")
        for n in range(count):
            model_input = dict(request["input"])
            if count > 1 and first is None:
                model_input["seed"] = secrets.randbelow(_MAX_SEED)
            elif isinstance(first, int):  # the database refuses other seeds
                model_input["seed"] = first + n
            requests.append({**request, "prompt": each, "input": model_input})
    return requests


async def expect_download(pq: "AsyncPictureQueue") -> None:
    """Check that pictures can be downloaded, before a prediction is paid for."""
    from picture_queue.generations.store import expect_api, expect_storage

    # start_generation checks the key only if it is called over the API.
    await expect_storage(pq) if pq._backend.database else expect_api(pq)


def translate_warning(text: str) -> str:
    """Return a warning about an input in the words of the command line."""
    name = text.removeprefix("input.")
    return f"--input {name}" if name != text else text


async def generate_batch(
    ctx: typer.Context,
    requests: "list[Any]",
    user_id: UUID | None,
    out: Path | None,
    timeout: float | None,
    as_json: bool,
) -> None:
    """Start a batch, follow it and save its pictures; without a directory only print its id."""
    from picture_queue_cli.generation_batches import expect_batch_completed

    batch_requests: list[GenerationRequest] = requests
    async with connect_async(ctx) as pq:
        if out is not None:
            await expect_download(pq)
        started = await pq.generations.start_many(batch_requests, user_id=user_id)
        for warning in started.warnings:
            warn(warning)
        if out is None:
            if as_json:
                print_json(started.model_dump(mode="json"))
            else:
                print_line(str(started.id))
            return
        info(f"Batch {started.id}")
        last = await follow_batch(pq, started.id, timeout)
        await _save(pq, last, out, as_json)
        await expect_batch_completed(pq, last)


async def follow_batch(
    pq: "AsyncPictureQueue", batch_id: UUID, timeout: float | None
) -> "GenerationBatch":
    """Follow a batch with one progress bar; while it waits, print the reason."""
    from picture_queue_cli.progress_bar import ProgressBar

    last = await pq.generations.get_batch(batch_id)
    command = f"generations batches show {batch_id} --watch"
    with hint_on_interrupt(command, "batch"), ProgressBar() as bar:
        async for last in pq.generations.watch_batch(batch_id, timeout=timeout):
            if last.explanation is not None:
                info(reason_lines(last.explanation) or "")
            else:
                bar.show_batch(last)
    return last


async def _save(
    pq: "AsyncPictureQueue", batch: "GenerationBatch", out: Path, as_json: bool
) -> None:
    """Save the pictures of all generations of a batch and print their paths."""
    items = []
    prompt = ""
    for entry in batch.generations:
        generation = await pq.generations.get(entry.id)
        if not entry.step:
            prompt = generation.prompt
        # A step may have no prompt, so its files are named after the prompt of its chain.
        named = generation.model_copy(
            update={"prompt": f"{prompt[:20]} {entry.kind}" if entry.step else prompt}
        )
        paths = await save_pictures(pq, named, out)
        items.append({**entry.model_dump(mode="json"), **describe_pictures(generation, paths)})
        if not as_json:
            for path in paths:
                print_line(str(path))
            if entry.status == "failed":
                info(f"Generation {entry.id} failed: {entry.error}")
            for missing in generation.missing_images:
                info(f"Picture {missing.n} of {entry.id} is missing: {missing.reason}")
    if as_json:
        print_json({**batch.model_dump(mode="json", exclude={"explanation"}), "generations": items})

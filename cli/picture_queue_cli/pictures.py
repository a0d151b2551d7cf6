"""Pictures as files."""

import mimetypes
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from picture_queue_cli.parsing import directory

if TYPE_CHECKING:
    from picture_queue import AsyncPictureQueue, Generation, Image

OutDirectory = Annotated[
    Path,
    typer.Option(
        "--out", metavar="DIR", parser=directory, help="Save the pictures in this directory."
    ),
]
DEFAULT_DIRECTORY = Path("outputs")

_NOT_IN_NAMES = re.compile(r"[^\w]+")
_NAME_LENGTH = 40


def make_directory(path: Path) -> None:
    """Make the directory, before anything is asked for that has to go there.

    Raises:
        typer.BadParameter: It cannot be made, or not be written to.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise typer.BadParameter(f"{path}: {error.strerror}", param_hint="--out") from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise typer.BadParameter(f"{path}: not writable", param_hint="--out")


async def save_pictures(
    pq: "AsyncPictureQueue", generation: "Generation", directory: Path
) -> list[Path]:
    """Save the pictures of a generation and return their paths.

    Raises:
        NotFound: A picture is gone.
        typer.BadParameter: A file cannot be written.
    """
    paths = []
    for image in generation.images:
        path = directory / file_name(generation, image)
        try:
            paths.append(await pq.generations.save(image, path))
        except OSError as error:
            raise typer.BadParameter(f"{path}: {error.strerror}", param_hint="--out") from error
    return paths


def file_name(generation: "Generation", image: "Image") -> str:
    """Return a file name that tells the prompt and is unique."""
    words = _NOT_IN_NAMES.sub("-", generation.prompt.lower()).strip("-")[:_NAME_LENGTH].strip("-")
    number = f"-{image.n}" if len(generation.images) > 1 else ""
    # mimetypes knows image/webp since Python 3.13.
    known = {"image/webp": ".webp"}.get(image.mime_type)
    extension = known or mimetypes.guess_extension(image.mime_type) or ".bin"
    return "-".join(filter(None, (words, generation.id.hex[:8]))) + number + extension

"""Save the pictures of a generation as files."""

import mimetypes
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from picture_queue._files import find_replaceable
from picture_queue.errors import LocalStackError
from picture_queue.settings import safe_directories, safe_directory_hint
from picture_queue_cli.parsing import parse_directory

if TYPE_CHECKING:
    from picture_queue import AsyncPictureQueue, Generation, Image

OutDirectory = Annotated[
    Path,
    typer.Option(
        "--out", metavar="DIR", parser=parse_directory, help="Save the pictures in this directory."
    ),
]
DEFAULT_DIRECTORY = Path("outputs")

_NOT_IN_NAMES = re.compile(r"[^\w]+")
_MAX_PROMPT_LENGTH = 40  # characters of the prompt in a file name


def make_directory(path: Path) -> None:
    """Create the directory of the pictures, before a generation is started.

    Raises:
        typer.BadParameter: The directory cannot be created or is not writable, or other users can
            exchange the pictures in it.
    """
    try:
        if os.name == "posix":
            from picture_queue.local.ownership import make_safe_directory

            safe = safe_directories()
            _expect_safe(path, safe)  # up to the first part that does not exist
            make_safe_directory(path, safe_directories=safe)
            _expect_safe(path, safe)
        else:
            path.mkdir(parents=True, exist_ok=True)
    except LocalStackError as error:  # a directory was replaced in the meantime
        raise typer.BadParameter(f"{error.message}: {error.detail}", param_hint="--out") from error
    except OSError as error:
        raise typer.BadParameter(f"{path}: {error.strerror}", param_hint="--out") from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise typer.BadParameter(f"{path} is not writable", param_hint="--out")


def _expect_safe(path: Path, safe: Sequence[Path]) -> None:
    replaceable = find_replaceable(path, safe)
    if replaceable is not None:
        raise typer.BadParameter(
            f"Other users can replace {replaceable}. {safe_directory_hint(replaceable)}",
            param_hint="--out",
        )


async def save_pictures(
    pq: "AsyncPictureQueue", generation: "Generation", directory: Path
) -> list[Path]:
    """Save the pictures of a generation and return their paths.

    Raises:
        NotFound: A picture is missing in Storage.
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


def describe_pictures(generation: "Generation", paths: list[Path]) -> dict[str, Any]:
    """Return the saved and the missing pictures of a generation as JSON."""
    return {
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
        "missing_images": [image.model_dump() for image in generation.missing_images],
    }


def file_name(generation: "Generation", image: "Image") -> str:
    """Return a unique file name that begins with the prompt."""
    # The name ends with the last digits of the id, which are random. Its first digits are a time:
    # another user could predict them, and create a file with this name first.
    words = _NOT_IN_NAMES.sub("-", generation.prompt.lower()).strip("-")
    words = words[:_MAX_PROMPT_LENGTH].strip("-")
    number = f"-{image.n}" if len(generation.images) > 1 else ""
    # mimetypes knows image/webp since Python 3.13.
    known = {"image/webp": ".webp"}.get(image.mime_type)
    extension = known or mimetypes.guess_extension(image.mime_type) or ".bin"
    return "-".join(filter(None, (words, generation.id.hex[-8:]))) + number + extension

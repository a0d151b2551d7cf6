"""The files of Storage that inputs name, and the signed URLs that replace them."""

import re
from collections.abc import Collection
from typing import Any
from uuid import UUID

from picture_queue._async.picture_files import BUCKET
from picture_queue.errors import InvalidArgument, NotFound, PictureQueueError
from picture_queue.generations.image_info import read_image
from picture_queue.generations.store import GenerationStore, generation_folder
from picture_queue.providers import errors
from picture_queue.records import BegunPrediction

_SCHEME = "storage:"
_GENERATION_SCHEME = "generation:"
_UPLOADS = "uploads/"
_PICTURES = f"{BUCKET}/"
_EXTENSIONS = ("png", "jpg", "webp")  # of the pictures that may be uploaded
#: The files that a worker may sign, as in SQL (`_file_problem`). No part begins with a dot.
_PATH = re.compile(r"(uploads|pictures)(/[A-Za-z0-9_-][A-Za-z0-9_.-]*){2,5}")
_MAX_LENGTH = 500


async def sign_files(
    store: GenerationStore,
    begun: BegunPrediction,
    seconds: float,
    max_pixels: int,
    operator_files: Collection[str] = (),
) -> dict[str, Any]:
    """Return the input of a prediction, with signed URLs in place of files of Storage.

    Only files of the inputs that the model declares are signed. They must be in the bucket uploads
    or pictures and belong to the user of the generation. `start_generation` has checked this. The
    worker checks it again, because the key of the worker can read every file of the project.

    A user can replace an uploaded file at any time. So the worker copies the bytes that it has
    checked to the folder of the generation, which only service keys can write, and signs the copy.
    The copy is deleted with the generation.

    Args:
        store: The store of the generation.
        begun: The row of the prediction.
        seconds: Time for which the URLs are valid.
        max_pixels: Maximum number of pixels of an uploaded picture.
        operator_files: The names of the inputs whose files the operator's rules have added. These
            files may belong to any user. So may the files of a generation without a user.

    Raises:
        InputRejected: A file does not exist, is not a picture, has too many pixels, or belongs to
            another user; or a generation does not have the picture.
    """
    user = begun.generation.user_id
    signed: dict[str, Any] = dict(begun.prediction.input)
    files = _files(begun)
    for name, text in files:
        _check_path(name, text, _path(begun, text), None if name in operator_files else user)
    for name, text in files:
        path = _path(begun, text) or ""
        try:
            if path.startswith(_UPLOADS):  # the pictures were checked when they were stored
                data = await store.read_file(path)
                mime_type = _check_picture(name, data, max_pixels)
                path = _signed_path(begun, path)
                await store.upload(path.removeprefix(_PICTURES), data, mime_type)
            url = await store.sign_file(path, int(seconds))
        except (NotFound, InvalidArgument) as error:
            raise _rejected(name, "does not exist in Storage") from error
        signed[name] = _replace(signed[name], text, url)
    return signed


def name_files(store: GenerationStore, begun: BegunPrediction) -> dict[str, Any]:
    """Return the input of a prediction as `sign_files` does, but with URLs without their query.

    The search for a lost prediction compares these URLs, since each call is signed anew.
    """
    named: dict[str, Any] = dict(begun.prediction.input)
    for name, text in _files(begun):
        if path := _path(begun, text):
            named[name] = _replace(named[name], text, store.file_url(_signed_path(begun, path)))
    return named


def _files(begun: BegunPrediction) -> list[tuple[str, str]]:
    """Return the inputs that are files of Storage or pictures of generations, and their texts."""
    files: dict[tuple[str, str], None] = {}
    for name in sorted(begun.model.file_inputs & begun.prediction.input.keys()):
        value = begun.prediction.input[name]
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, str) and item.startswith((_SCHEME, _GENERATION_SCHEME)):
                files[name, item] = None
    return list(files)


def _path(begun: BegunPrediction, text: str) -> str | None:
    """Return the path of a file, which begins with its bucket; None if there is no such picture."""
    if text.startswith(_GENERATION_SCHEME):
        return begun.files.get(text)
    return text.removeprefix(_SCHEME)


def _signed_path(begun: BegunPrediction, path: str) -> str:
    """Return the path of the file that is signed: for an uploaded file, that of its copy."""
    if not path.startswith(_UPLOADS):
        return path
    folder = generation_folder(begun)
    return f"{_PICTURES}{folder}/inputs/{path.removeprefix(_UPLOADS)}"


def _replace(value: Any, text: str, url: str) -> Any:
    """Replace a file in the value of an input."""
    if isinstance(value, list):
        return [_replace(item, text, url) for item in value]
    return url if value == text else value


def _check_path(name: str, text: str, path: str | None, user: UUID | None) -> None:
    if path is None:
        raise _rejected(name, f"is {text}, and there is no such picture")
    if len(path) > _MAX_LENGTH or not _PATH.fullmatch(path):
        raise _rejected(name, "is not a file of the buckets uploads and pictures")
    if user is not None and path.split("/")[1] != str(user):
        raise _rejected(name, "does not belong to the user")


def _check_picture(name: str, data: bytes, max_pixels: int) -> str:
    """Check an uploaded picture, and return its MIME type."""
    info = read_image(data)
    if info is None or info.extension not in _EXTENSIONS:
        raise _rejected(name, "is not a PNG, JPEG or WebP picture")
    if info.pixels > max_pixels:
        raise _rejected(name, f"has {info.pixels} pixels, the limit is {max_pixels}")
    return info.mime_type


def _rejected(name: str, reason: str) -> PictureQueueError:
    text = f"The file of input.{name} {reason}."
    return errors.InputRejected(text, owner_message=text)

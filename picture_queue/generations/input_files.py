"""The files of Storage that inputs name, and the signed URLs that replace them."""

from typing import Any

from picture_queue.errors import InvalidArgument, NotFound, PictureQueueError
from picture_queue.generations.image_info import read_image
from picture_queue.generations.store import GenerationStore
from picture_queue.providers import errors
from picture_queue.records import BegunPrediction

_SCHEME = "storage:"
_GENERATION_SCHEME = "generation:"
_UPLOADS = "uploads/"
_EXTENSIONS = ("png", "jpg", "webp")  # of the pictures that may be uploaded


async def sign_files(
    store: GenerationStore, begun: BegunPrediction, seconds: float, max_pixels: int
) -> dict[str, Any]:
    """Return the input of a prediction, with signed URLs in place of files of Storage.

    Args:
        store: The store of the generation.
        begun: The row of the prediction.
        seconds: Time for which the URLs are valid.
        max_pixels: Maximum number of pixels of an uploaded picture.

    Raises:
        InputRejected: A file does not exist, is not a picture, or has too many pixels; or a
            generation does not have the picture.
    """

    async def sign(name: str, value: Any) -> Any:
        if isinstance(value, list):
            return [await sign(name, item) for item in value]
        if not isinstance(value, str) or not value.startswith((_SCHEME, _GENERATION_SCHEME)):
            return value
        if value.startswith(_GENERATION_SCHEME):
            if value not in begun.files:
                raise _rejected(name, f"is {value}, and there is no such picture")
            path = begun.files[value]
        else:
            path = value.removeprefix(_SCHEME)
        try:
            if path.startswith(_UPLOADS):  # the pictures were checked when they were stored
                _check_picture(name, await store.read_file(path), max_pixels)
            return await store.sign_file(path, int(seconds))
        except (NotFound, InvalidArgument) as error:
            raise _rejected(name, "does not exist in Storage") from error

    signed: dict[str, Any] = dict(begun.prediction.input)
    for name in begun.model.file_inputs & signed.keys():
        signed[name] = await sign(name, signed[name])
    return signed


def name_files(store: GenerationStore, begun: BegunPrediction) -> dict[str, Any]:
    """Return the input of a prediction as `sign_files` does, but with URLs without their query.

    The search for a lost prediction compares these URLs, since each call is signed anew.
    """

    def name_file(value: Any) -> Any:
        if isinstance(value, list):
            return [name_file(item) for item in value]
        if not isinstance(value, str) or not value.startswith(_SCHEME):
            return value
        return store.file_url(value.removeprefix(_SCHEME))

    named: dict[str, Any] = dict(begun.prediction.input)
    for name in begun.model.file_inputs & named.keys():
        named[name] = name_file(named[name])
    return named


def _check_picture(name: str, data: bytes, max_pixels: int) -> None:
    info = read_image(data)
    if info is None or info.extension not in _EXTENSIONS:
        raise _rejected(name, "is not a PNG, JPEG or WebP picture")
    if info.pixels > max_pixels:
        raise _rejected(name, f"has {info.pixels} pixels, the limit is {max_pixels}")


def _rejected(name: str, reason: str) -> PictureQueueError:
    text = f"The file of input.{name} {reason}."
    return errors.InputRejected(text, owner_message=text)

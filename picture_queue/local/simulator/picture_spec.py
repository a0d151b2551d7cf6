"""The picture that a model draws from an input: its words, size and format."""

import hashlib
import re
from typing import Any, Final

from picture_queue.local.simulator.pictures import Format, PictureSpec
from picture_queue.providers.replicate.catalog import CatalogModel

_FORMATS: Final[dict[str, Format]] = {"png": "png", "webp": "webp", "jpg": "jpg", "jpeg": "jpg"}
#: First line of the caption of a model that changes a picture, by the kind of the model.
_TITLES: Final = {
    "image-edit": "Simulated edit",
    "image-variation": "Simulated variation",
    "upscale": "Simulated upscale",
    "background-removal": "Simulated background removal",
}
_MEGAPIXEL = 1024 * 1024
_MIN_LENGTH, _MAX_LENGTH = 64, 2048
_BY_X = re.compile(r"(\d{2,5})\s*[x*]\s*(\d{2,5})")
_BY_COLON = re.compile(r"(\d{1,2}):(\d{1,2})")


def picture_spec(model: CatalogModel, given: dict[str, Any], seed: int, number: int) -> PictureSpec:
    """Return the contents of a picture.

    Args:
        model: The model.
        given: The input of the prediction.
        seed: The seed of the prediction.
        number: Number of the picture, from 0.
    """
    width, height = _size(model, given)
    prompt = given.get("prompt")
    digest = hashlib.sha256(f"{model.id} {seed} {number}".encode()).digest()
    quality = given.get("output_quality", 80)
    is_removal = model.kind == "background-removal"
    return PictureSpec(
        prompt=prompt if isinstance(prompt, str) else "",
        seed=int.from_bytes(digest[:6]),
        width=width,
        height=height,
        format=_format(model, given),
        quality=max(1, min(100, int(quality))) if isinstance(quality, (int, float)) else 80,
        # Upscalers, for example, have no prompt: their picture depends on the whole input.
        variety="" if isinstance(prompt, str) else repr(sorted(given.items())),
        title=_TITLES.get(model.kind),
        has_background=not is_removal,
    )


def _format(model: CatalogModel, given: dict[str, Any]) -> Format:
    if model.kind == "vector" or model.id.endswith("-svg"):
        return "svg"
    known = model.input("output_format") or model.input("format")
    asked = given.get(known.name, known.default) if known else None
    found = _FORMATS.get(str(asked).lower(), "png")
    # JPEG has no transparency.
    return "png" if model.kind == "background-removal" and found == "jpg" else found


def _size(model: CatalogModel, given: dict[str, Any]) -> tuple[int, int]:
    """Return width and height in pixels, from the inputs that the model has for them."""
    asked = {known.name: known.default for known in model.inputs} | given
    ratio = str(asked.get("aspect_ratio") or "")
    if match := _BY_COLON.fullmatch(ratio):
        area = _MEGAPIXEL * (0.25 if str(asked.get("megapixels")) == "0.25" else 1.0)
        shape = int(match[1]) / max(1, int(match[2]))
        return _pixels((area * shape) ** 0.5), _pixels((area / shape) ** 0.5)
    if match := _BY_X.search(f"{asked.get('size')} {asked.get('resolution')} {ratio}"):
        return _pixels(int(match[1])), _pixels(int(match[2]))
    width, height = asked.get("width"), asked.get("height")
    if isinstance(width, (int, float)) and isinstance(height, (int, float)):
        return _pixels(width, 8), _pixels(height, 8)
    return 1024, 1024


def _pixels(length: float, step: int = 32) -> int:
    return max(_MIN_LENGTH, min(_MAX_LENGTH, round(length / step) * step))

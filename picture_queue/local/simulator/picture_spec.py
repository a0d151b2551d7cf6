"""The specification of a picture from the inputs of a prediction: prompt, size and format."""

import hashlib
import re
from typing import Any, Final

from picture_queue.local.simulator.scene import Format, PictureSpec
from picture_queue.providers.replicate.catalog import CatalogModel

_FORMATS: Final[dict[str, Format]] = {"png": "png", "webp": "webp", "jpg": "jpg", "jpeg": "jpg"}
#: First line of the caption, by the kind of the model, for models that change a picture.
_TITLES: Final = {
    "image-edit": "Simulated edit",
    "image-variation": "Simulated variation",
    "upscale": "Simulated upscale",
    "background-removal": "Simulated background removal",
}
_MEGAPIXEL = 1024 * 1024  # pixels, as the models count
_MIN_LENGTH, _MAX_LENGTH = 64, 2048
_SIZE = re.compile(r"(\d{2,5})\s*[x*]\s*(\d{2,5})")  # such as 1024x768
_RATIO = re.compile(r"(\d{1,2}):(\d{1,2})")  # such as 16:9


def picture_spec(
    model: CatalogModel, inputs: dict[str, Any], seed: int, number: int
) -> PictureSpec:
    """Return the specification of a picture.

    Args:
        model: The model.
        inputs: The inputs of the prediction.
        seed: The seed of the prediction.
        number: Number of the picture, from 0.
    """
    width, height = _size(model, inputs)
    prompt = inputs.get("prompt")
    digest = hashlib.sha256(f"{model.id} {seed} {number}".encode()).digest()
    quality = inputs.get("output_quality", 80)
    is_removal = model.kind == "background-removal"
    return PictureSpec(
        prompt=prompt if isinstance(prompt, str) else "",
        seed=int.from_bytes(digest[:6]),
        width=width,
        height=height,
        format=_format(model, inputs),
        quality=max(1, min(100, int(quality))) if isinstance(quality, (int, float)) else 80,
        # Without a prompt, such as for an upscaler, the picture depends on all inputs.
        variety="" if isinstance(prompt, str) else repr(sorted(inputs.items())),
        title=_TITLES.get(model.kind),
        has_background=not is_removal,
    )


def _format(model: CatalogModel, inputs: dict[str, Any]) -> Format:
    if model.kind == "vector" or model.id.endswith("-svg"):
        return "svg"
    model_input = model.input("output_format") or model.input("format")
    value = inputs.get(model_input.name, model_input.default) if model_input else None
    chosen = _FORMATS.get(str(value).lower(), "png")
    # JPEG has no transparency.
    return "png" if model.kind == "background-removal" and chosen == "jpg" else chosen


def _size(model: CatalogModel, inputs: dict[str, Any]) -> tuple[int, int]:
    """Return width and height in pixels, from the inputs of the model that choose the size."""
    values = {model_input.name: model_input.default for model_input in model.inputs} | inputs
    ratio = str(values.get("aspect_ratio") or "")
    if match := _RATIO.fullmatch(ratio):
        area = _MEGAPIXEL * (0.25 if str(values.get("megapixels")) == "0.25" else 1.0)
        aspect = int(match[1]) / max(1, int(match[2]))
        return _round_length((area * aspect) ** 0.5), _round_length((area / aspect) ** 0.5)
    if match := _SIZE.search(f"{values.get('size')} {values.get('resolution')} {ratio}"):
        return _round_length(int(match[1])), _round_length(int(match[2]))
    width, height = values.get("width"), values.get("height")
    if isinstance(width, (int, float)) and isinstance(height, (int, float)):
        return _round_length(width, 8), _round_length(height, 8)
    return 1024, 1024


def _round_length(length: float, step: int = 32) -> int:
    """Round a length in pixels to a multiple of `step`, within the limits."""
    return max(_MIN_LENGTH, min(_MAX_LENGTH, round(length / step) * step))

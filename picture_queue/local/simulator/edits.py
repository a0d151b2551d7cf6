"""Changes of an input picture, one for each kind of model that has such an input."""

import io
import random
from typing import Final

from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageOps

from picture_queue.local.simulator.captions import Caption
from picture_queue.local.simulator.scene import PictureSpec

_FORMATS: Final = ("PNG", "JPEG", "WEBP", "GIF")
_MAX_INPUT_PIXELS: Final = 40_000_000
_MAX_LENGTH: Final = 4096  # pixels of an output
_MASK_LENGTH: Final = 96  # pixels of the small copy in which the background is searched
# Maximum difference between the colours of the background, summed over red, green and blue.
_BACKGROUND_DISTANCE: Final = 60
_VECTOR_LENGTH: Final = 48  # squares along the longer side of a vector picture


def change(source: bytes, kind: str, spec: PictureSpec, scale: float) -> bytes | None:
    """Return a changed picture; None if the source is not a picture that can be changed.

    Args:
        source: The input picture.
        kind: Kind of the model, such as ``upscale``.
        spec: The prompt, the seed and the format of the result.
        scale: The factor by which an upscaler enlarges the picture.
    """
    try:
        with Image.open(io.BytesIO(source), formats=_FORMATS) as opened:
            if opened.width * opened.height > _MAX_INPUT_PIXELS:
                return None
            picture = ImageOps.exif_transpose(opened).convert("RGBA")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    if spec.format == "svg":
        return _vectorize(picture).encode()
    if kind == "upscale":
        picture = _resize(picture, scale)
    elif kind == "background-removal":
        picture = _remove_background(picture)
    else:
        picture = _edit(picture, spec)
    out = io.BytesIO()
    if spec.format == "jpg":
        picture.convert("RGB").save(out, "JPEG", quality=spec.quality)
    elif spec.format == "webp":
        picture.save(out, "WEBP", quality=spec.quality, method=0)
    else:
        picture.save(out, "PNG", compress_level=2)
    return out.getvalue()


def _resize(picture: Image.Image, scale: float) -> Image.Image:
    factor = min(scale, _MAX_LENGTH / max(picture.size))
    size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
    return picture.resize(size, Image.Resampling.LANCZOS)


def _remove_background(picture: Image.Image) -> Image.Image:
    """Make the areas transparent that touch the border and have the colours of the border."""
    small = picture.convert("RGB")
    small.thumbnail((_MASK_LENGTH, _MASK_LENGTH))
    marker, right, bottom = (255, 0, 254), small.width - 1, small.height - 1
    filled = small.copy()
    border = [(x, y) for x in range(0, right + 1, 4) for y in (0, bottom)]
    border += [(x, y) for y in range(0, bottom + 1, 4) for x in (0, right)]
    for point in border:
        if filled.getpixel(point) != marker:
            ImageDraw.floodfill(filled, point, marker, thresh=_BACKGROUND_DISTANCE)
    difference = ImageChops.difference(filled, Image.new("RGB", filled.size, marker))
    mask = difference.convert("L").point([0] + [255] * 255)
    mask = mask.resize(picture.size, Image.Resampling.BILINEAR).filter(ImageFilter.GaussianBlur(1))
    result = picture.copy()
    result.putalpha(ImageChops.multiply(mask, picture.getchannel("A")))
    return result


def _edit(picture: Image.Image, spec: PictureSpec) -> Image.Image:
    """Shift the hues, and write the prompt into a caption."""
    picture = _resize(picture, 1.0)
    hue = random.Random(spec.seed).randrange(24, 232)  # noqa: S311 - art
    bands = picture.convert("RGB").convert("HSV").split()
    turned = bands[0].point([(level + hue) % 256 for level in range(256)])
    result = Image.merge("HSV", (turned, *bands[1:])).convert("RGBA")
    result.putalpha(picture.getchannel("A"))
    title = spec.title or "Simulated edit"
    Caption(title, spec.prompt, picture.width, picture.height).draw(result)
    return result


def _vectorize(picture: Image.Image) -> str:
    """Return an SVG of squares with the colours of the picture."""
    small = picture.copy()
    small.thumbnail((_VECTOR_LENGTH, _VECTOR_LENGTH))
    step = max(picture.size) / max(small.size)
    width, height = round(small.width * step), round(small.height * step)
    squares = []
    for y in range(small.height):
        for x in range(small.width):
            red, green, blue, alpha = small.getpixel((x, y))  # type: ignore[misc]
            if alpha > 127:
                color = f"#{red:02x}{green:02x}{blue:02x}"
                squares.append(f'<path fill="{color}" d="M{x} {y}h1v1h-1z"/>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}"'
        f' viewBox="0 0 {small.width} {small.height}" shape-rendering="crispEdges">'
        f"{''.join(squares)}</svg>"
    )

"""A picture in the terminal: two pixels a character, with the upper half block."""

from io import BytesIO
from pathlib import Path

from rich.color import Color
from rich.console import Console
from rich.style import Style
from rich.text import Text

from picture_queue.generations.image_info import read_image

_WIDEST = 64  # characters
_HALF_BLOCK = "▀"
# A small file can say that it is huge, and Pillow takes 4 to 8 bytes of memory for each pixel.
_MOST_PIXELS = 4096 * 4096
_LARGEST_FILE = 50_000_000  # bytes


def preview(path: Path, console: Console) -> Text | None:
    """Return a picture as coloured text that fits the console.

    Returns:
        None where the console has no colours, or the file is no bitmap, broken, or large.
    """
    if console.color_system is None or not console.is_terminal:
        return None
    data = _readable(path)
    if data is None:
        return None
    try:
        from PIL import Image

        with Image.open(BytesIO(data), formats=("PNG", "JPEG", "WEBP", "GIF")) as picture:
            if picture.width * picture.height > _MOST_PIXELS:  # a GIF's frame beyond its screen
                return None
            columns, lines = _size(picture.width, picture.height, console)
            picture.draft("RGB", (columns * 2, lines * 4))
            small = picture.convert("RGB")
            small = small.resize((columns, lines * 2), Image.Resampling.LANCZOS)
    except Exception:  # Pillow is not installed, or the file is broken, in one of a dozen ways
        return None
    rgb = small.tobytes()
    text = Text(no_wrap=True)
    for line in range(lines):
        for column in range(columns):
            upper = 3 * (2 * line * columns + column)
            lower = upper + 3 * columns
            style = Style(
                color=Color.from_rgb(*rgb[upper : upper + 3]),
                bgcolor=Color.from_rgb(*rgb[lower : lower + 3]),
            )
            text.append(_HALF_BLOCK, style)
        text.append("\n")
    text.right_crop(1)
    return text


def _readable(path: Path) -> bytes | None:
    """Return a file whose header says that to decode it takes little memory."""
    try:
        if path.stat().st_size > _LARGEST_FILE:
            return None
        data = path.read_bytes()
    except OSError:
        return None
    info = read_image(data)
    return data if info is not None and 0 < info.pixels <= _MOST_PIXELS else None


def _size(width: int, height: int, console: Console) -> tuple[int, int]:
    """Returns columns and lines: as wide as is good to look at, and what follows fits below."""
    columns = min(_WIDEST, console.width - 2)
    lines = max(1, min(round(columns * height / width / 2), console.height * 2 // 3))
    return max(1, min(columns, round(lines * 2 * width / height))), lines

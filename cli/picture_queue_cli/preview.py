"""A picture in the terminal: two pixels a character, with the upper half block."""

from pathlib import Path

from rich.color import Color
from rich.console import Console
from rich.style import Style
from rich.text import Text

_WIDEST = 64  # characters
_HALF_BLOCK = "▀"


def preview(path: Path, console: Console) -> Text | None:
    """Returns a picture as coloured text that fits the console.

    Returns:
        None where the console has no colours, or the file is no bitmap that can be read.
    """
    if console.color_system is None or not console.is_terminal:
        return None
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError:
        return None
    try:
        with Image.open(path) as picture:
            small = picture.convert("RGB")
    except (OSError, UnidentifiedImageError):
        return None
    columns, lines = _size(small.width, small.height, console)
    small = small.resize((columns, lines * 2), Image.Resampling.LANCZOS)
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


def _size(width: int, height: int, console: Console) -> tuple[int, int]:
    """Returns columns and lines: as wide as is good to look at, and what follows fits below."""
    columns = min(_WIDEST, console.width - 2)
    lines = max(1, min(round(columns * height / width / 2), console.height * 2 // 3))
    return max(1, min(columns, round(lines * 2 * width / height))), lines

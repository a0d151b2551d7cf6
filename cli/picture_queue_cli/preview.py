"""Preview a picture in the terminal: each character, an upper half block, shows two pixels."""

from io import BytesIO
from pathlib import Path

from rich.color import Color
from rich.console import Console
from rich.style import Style
from rich.text import Text

from picture_queue.generations.image_info import read_image

_MAX_COLUMNS = 64
_HALF_BLOCK = "▀"
# The header of a small file can claim a huge size; Pillow allocates 4 to 8 bytes for each pixel.
_MAX_PIXELS = 4096 * 4096
_MAX_FILE_SIZE = 50_000_000  # bytes


def preview(path: Path, console: Console) -> Text | None:
    """Return a picture as coloured text that fits the console.

    Returns:
        None if the console has no colours, or the file is not a bitmap, is broken or is too large.
    """
    if console.color_system is None or not console.is_terminal:
        return None
    data = _read_if_small(path)
    if data is None:
        return None
    try:
        from PIL import Image

        with Image.open(BytesIO(data), formats=("PNG", "JPEG", "WEBP", "GIF")) as picture:
            # A frame of a GIF may be larger than its header says.
            if picture.width * picture.height > _MAX_PIXELS:
                return None
            columns, lines = _size(picture.width, picture.height, console)
            # Let the decoder of JPEG reduce the picture, to about twice the size that is shown.
            picture.draft("RGB", (columns * 2, lines * 4))
            small = picture.convert("RGB")
            small = small.resize((columns, lines * 2), Image.Resampling.LANCZOS)
    except Exception:  # Pillow is not installed, or raises one of many errors for a broken file
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


def _read_if_small(path: Path) -> bytes | None:
    """Return the bytes of a file that can be decoded within the memory limit, else None."""
    try:
        if path.stat().st_size > _MAX_FILE_SIZE:
            return None
        data = path.read_bytes()
    except OSError:
        return None
    info = read_image(data)
    return data if info is not None and 0 < info.pixels <= _MAX_PIXELS else None


def _size(width: int, height: int, console: Console) -> tuple[int, int]:
    """Return the size of the preview in columns and lines.

    A third of the lines of the console stays free for the output below the preview.
    """
    columns = min(_MAX_COLUMNS, console.width - 2)
    lines = max(1, min(round(columns * height / width / 2), console.height * 2 // 3))
    return max(1, min(columns, round(lines * 2 * width / height))), lines

"""The caption of a picture, which says that it is simulated."""

import re
import textwrap
import unicodedata
from xml.sax.saxutils import escape

from PIL import Image, ImageDraw, ImageFont

_MAX_LINES = 3
_MAX_WORDS = 160  # characters


def _replace(text: str) -> str:
    return " " if text.isspace() else "?"


class Caption:
    """A bar with text at the lower edge of a picture.

    Args:
        title: The first line.
        words: The words of the prompt.
        width: Width of the picture in pixels.
        height: Height of the picture in pixels.
    """

    def __init__(self, title: str, words: str, width: int, height: int) -> None:
        self._width, self._height = width, height
        self._size = max(8, min(width, height) // 22)
        # The font of Pillow has only the characters of ASCII.
        plain = unicodedata.normalize("NFKD", words[:_MAX_WORDS])
        kept = "".join(one for one in plain if not unicodedata.combining(one))
        per_line = max(8, round(width / self._size * 1.7))
        text = " ".join(re.sub(r"[^ -~]+", lambda found: _replace(found[0]), kept).split())
        lines = textwrap.wrap(text, per_line, max_lines=_MAX_LINES, placeholder=" ...")
        self.lines = [title, *lines]

    def draw(self, picture: Image.Image) -> None:
        """Draw the caption."""
        pen = ImageDraw.Draw(picture)
        top = self._height - round(self._size * 1.4 * len(self.lines) + self._size * 0.8)
        pen.rectangle((0, top, self._width, self._height), fill=(24, 24, 32))
        font = ImageFont.load_default(self._size)
        for number, text in enumerate(self.lines):
            at = (self._size * 0.8, top + self._size * (0.4 + 1.4 * number))
            pen.text(at, text, fill=(255, 255, 255) if number else (255, 214, 102), font=font)

    def svg(self) -> str:
        """Return the caption as elements of an SVG."""
        step = self._size * 1.4
        top = self._height - step * len(self.lines) - self._size * 0.8
        texts = "".join(
            f'<text x="{self._size * 0.8:.1f}" y="{top + self._size * 1.4 + step * number:.1f}"'
            f' font-size="{self._size}" font-family="sans-serif"'
            f' fill="{"#ffffff" if number else "#ffd666"}">{escape(text)}</text>'
            for number, text in enumerate(self.lines)
        )
        return f'<rect y="{top:.1f}" width="100%" height="100%" fill="#181820"/>{texts}'

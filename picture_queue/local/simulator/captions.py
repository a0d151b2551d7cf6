"""The caption of a picture: a title, such as "Simulated picture", and the prompt."""

import re
import textwrap
import unicodedata
from xml.sax.saxutils import escape

from PIL import Image, ImageDraw, ImageFont

_MAX_LINES = 3
_MAX_PROMPT = 160  # characters


class Caption:
    """A bar with text at the lower edge of a picture.

    Args:
        title: The first line.
        prompt: The prompt, of which the caption shows the beginning.
        width: Width of the picture in pixels.
        height: Height of the picture in pixels.
    """

    def __init__(self, title: str, prompt: str, width: int, height: int) -> None:
        self._width, self._height = width, height
        self._font_size = max(8, min(width, height) // 22)
        characters_per_line = max(8, round(width / self._font_size * 1.7))
        self.lines = [
            title,
            *textwrap.wrap(
                _to_ascii(prompt[:_MAX_PROMPT]),
                characters_per_line,
                max_lines=_MAX_LINES,
                placeholder=" ...",
            ),
        ]

    def draw(self, picture: Image.Image) -> None:
        """Draw the caption."""
        pen = ImageDraw.Draw(picture)
        top = self._height - round(self._font_size * 1.4 * len(self.lines) + self._font_size * 0.8)
        pen.rectangle((0, top, self._width, self._height), fill=(24, 24, 32))
        font = ImageFont.load_default(self._font_size)
        for number, text in enumerate(self.lines):
            position = (self._font_size * 0.8, top + self._font_size * (0.4 + 1.4 * number))
            pen.text(position, text, fill=(255, 255, 255) if number else (255, 214, 102), font=font)

    def svg(self) -> str:
        """Return the caption as elements of an SVG."""
        line_height = self._font_size * 1.4
        top = self._height - line_height * len(self.lines) - self._font_size * 0.8
        texts = "".join(
            f'<text x="{self._font_size * 0.8:.1f}" y="{top + line_height * (number + 1):.1f}"'
            f' font-size="{self._font_size}" font-family="sans-serif"'
            f' fill="{"#ffffff" if number else "#ffd666"}">{escape(text)}</text>'
            for number, text in enumerate(self.lines)
        )
        return f'<rect y="{top:.1f}" width="100%" height="100%" fill="#181820"/>{texts}'


def _to_ascii(text: str) -> str:
    """Return a text in ASCII, since the font of Pillow has no other characters.

    Accents are removed. Other characters become question marks.
    """
    decomposed = unicodedata.normalize("NFKD", text)
    without_accents = "".join(
        character for character in decomposed if not unicodedata.combining(character)
    )
    replaced = re.sub(r"[^ -~]+", lambda match: " " if match[0].isspace() else "?", without_accents)
    return " ".join(replaced.split())

"""The simulator's pictures: small landscapes that depend on prompt and seed.

The words of the prompt choose the scene and the colours, and the seed chooses the rest. The same
prompt, seed and size give the same bytes with the same version of Pillow. A picture is drawn at
twice its size and reduced, which is cheap antialiasing.
"""

import io
import math
import random
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

from PIL import Image, ImageDraw

_MAX_ANTIALIASED = 1_600_000  # pixels; larger pictures are drawn without antialiasing

Color = tuple[int, int, int]
Point = tuple[float, float]
Format = Literal["png", "webp", "jpg", "svg"]

MIME_TYPES: dict[Format, str] = {
    "png": "image/png",
    "webp": "image/webp",
    "jpg": "image/jpeg",
    "svg": "image/svg+xml",
}


@dataclass(frozen=True)
class PictureSpec:
    """The specification of a picture.

    Attributes:
        width: Pixels.
        height: Pixels.
        quality: 1 to 100, for the lossy formats.
    """

    prompt: str
    seed: int
    width: int = 1024
    height: int = 1024
    format: Format = "png"
    quality: int = 80


class _Palette(NamedTuple):
    words: str
    zenith: Color
    horizon: Color
    sun: Color
    far: Color
    near: Color
    stars: bool = False


_PALETTES = (
    _Palette(
        "sunset dusk evening autumn warm desert fire gold",
        (46, 34, 94),
        (255, 158, 92),
        (255, 232, 178),
        (186, 88, 108),
        (38, 20, 52),
    ),
    _Palette(
        "night star moon space galaxy dark midnight dream",
        (9, 12, 36),
        (60, 66, 128),
        (240, 240, 222),
        (48, 54, 108),
        (8, 10, 28),
        stars=True,
    ),
    _Palette(
        "forest green tree jungle garden spring meadow leaf",
        (126, 196, 206),
        (240, 246, 208),
        (255, 252, 222),
        (132, 178, 142),
        (22, 58, 48),
    ),
    _Palette(
        "sea ocean lake water river blue boat ship rain paper",
        (52, 120, 184),
        (204, 232, 240),
        (255, 250, 226),
        (106, 160, 194),
        (20, 56, 98),
    ),
    _Palette(
        "neon cyber robot future retro synth electric purple",
        (26, 8, 60),
        (246, 72, 152),
        (255, 206, 108),
        (118, 40, 138),
        (20, 6, 46),
        stars=True,
    ),
    _Palette(
        "snow winter ice white morning fog mist cloud mountain",
        (142, 172, 208),
        (248, 232, 226),
        (255, 252, 244),
        (172, 188, 214),
        (58, 78, 112),
    ),
)
_SCENES = {
    "sea": "sea ocean lake water boat ship sail beach island river harbour harbor lighthouse",
    "city": "city street town skyline building tower neon robot cyber night-life market",
    "hills": "sunset mountain hill forest desert valley landscape field meadow snow tree fox",
}


@lru_cache(maxsize=32)
def draw(spec: PictureSpec) -> bytes:
    """Draw a picture.

    Args:
        spec: The specification. Equal specifications give equal bytes.
    """
    scene = _Scene(spec)
    if spec.format == "svg":
        return scene.svg().encode()
    out = io.BytesIO()
    picture = scene.image()
    if spec.format == "png":
        picture.save(out, "PNG", compress_level=2)
    elif spec.format == "jpg":
        picture.save(out, "JPEG", quality=spec.quality)
    else:
        picture.save(out, "WEBP", quality=spec.quality, method=0)
    return out.getvalue()


class _Scene:
    """The shapes of a picture, with x and y from 0 to 1, y downwards."""

    def __init__(self, spec: PictureSpec) -> None:
        self.spec = spec
        self.random = random.Random(f"{spec.prompt}\n{spec.seed}")  # noqa: S311 - art
        words = set(spec.prompt.lower().replace(",", " ").split())
        by_hash = random.Random(spec.prompt).randrange(len(_PALETTES))  # noqa: S311 - art
        self.palette = next(
            (palette for palette in _PALETTES if words & set(palette.words.split())),
            _PALETTES[by_hash],
        )
        self.kind = next(
            (kind for kind, matching in _SCENES.items() if words & set(matching.split())),
            ("hills", "sea", "city")[by_hash % 3],
        )
        self.skyline = self.random.uniform(0.52, 0.64)
        self.sun: Point = (
            self.random.uniform(0.22, 0.78),
            self.skyline - self.random.uniform(0.06, 0.26),
        )
        self.sun_radius = self.random.uniform(0.055, 0.1)

    def image(self) -> Image.Image:
        scale = 2 if self.spec.width * self.spec.height <= _MAX_ANTIALIASED else 1
        width, height = self.spec.width * scale, self.spec.height * scale
        picture = self._sky().resize((width, height), Image.Resampling.BILINEAR)
        pen = ImageDraw.Draw(picture)
        side = min(width, height)
        for (x, y), radius, color in self._discs():
            r = radius * side
            pen.ellipse((x * width - r, y * height - r, x * width + r, y * height + r), fill=color)
        for points, color in self._shapes():
            pen.polygon([(x * width, y * height) for x, y in points], fill=color)
        return picture.reduce(scale)

    def svg(self) -> str:
        width, height = self.spec.width, self.spec.height
        side = min(width, height)
        discs = "".join(
            f'<circle cx="{x * width:.1f}" cy="{y * height:.1f}" r="{r * side:.1f}"'
            f' fill="{_hex(color)}"/>'
            for (x, y), r, color in self._discs()
        )
        shapes = "".join(
            '<polygon points="'
            + " ".join(f"{x * width:.1f},{y * height:.1f}" for x, y in points)
            + f'" fill="{_hex(color)}"/>'
            for points, color in self._shapes()
        )
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}"'
            f' viewBox="0 0 {width} {height}"><defs><linearGradient id="sky" x2="0" y2="1">'
            f'<stop stop-color="{_hex(self.palette.zenith)}"/><stop offset="{self.skyline:.3f}"'
            f' stop-color="{_hex(self.palette.horizon)}"/></linearGradient></defs>'
            f'<rect width="100%" height="100%" fill="url(#sky)"/>{discs}{shapes}</svg>'
        )

    def _sky(self) -> Image.Image:
        # Drawing a small gradient and enlarging it is cheaper than drawing a large one.
        size = 128
        sky = Image.new("RGB", (1, size))
        for y in range(size):
            part = min(1.0, y / size / self.skyline)
            sky.putpixel((0, y), _mix(self.palette.zenith, self.palette.horizon, part))
        sky = sky.resize((size, size))
        aspect = self.spec.width / self.spec.height
        reach = self.sun_radius * 10 * size
        wide, tall = int(reach / max(1.0, aspect)), int(reach * min(1.0, aspect))
        glow = Image.radial_gradient("L").resize((max(wide, 2), max(tall, 2)))
        # Pillow's gradient is 181 at the middle of an edge. The glow ends at that circle.
        glow = glow.point([round(150 * max(0.0, 1 - level / 181) ** 2) for level in range(256)])
        at = int(self.sun[0] * size - wide / 2), int(self.sun[1] * size - tall / 2)
        sky.paste(self.palette.sun, (at[0], at[1], at[0] + glow.width, at[1] + glow.height), glow)
        return sky

    def _discs(self) -> list[tuple[Point, float, Color]]:
        rng = random.Random(f"discs {self.spec.prompt}\n{self.spec.seed}")  # noqa: S311 - art
        discs: list[tuple[Point, float, Color]] = []
        if self.palette.stars:
            for _ in range(140):
                at = rng.random(), rng.random() * self.skyline
                shine = _mix(self.palette.zenith, (255, 255, 255), rng.uniform(0.3, 0.9))
                discs.append((at, rng.uniform(0.0006, 0.0022), shine))
        discs.append((self.sun, self.sun_radius, self.palette.sun))
        return discs

    def _shapes(self) -> list[tuple[list[Point], Color]]:
        rng = random.Random(f"shapes {self.spec.prompt}\n{self.spec.seed}")  # noqa: S311 - art
        shapes: list[tuple[list[Point], Color]] = []
        if self.kind == "sea":
            shapes += self._ridges(rng, 2, self.skyline - 0.02, 0.02, 0.0, 0.35)
            shapes += self._water(rng)
        elif self.kind == "city":
            shapes += self._ridges(rng, 1, self.skyline, 0.05, 0.0, 0.1)
            for layer in range(3):
                shapes += self._houses(rng, layer)
        else:
            shapes += self._ridges(rng, 6, self.skyline, 0.075, 0.0, 1.0)
        return shapes

    def _ridges(
        self, rng: random.Random, count: int, top: float, height: float, first: float, last: float
    ) -> list[tuple[list[Point], Color]]:
        shapes: list[tuple[list[Point], Color]] = []
        for layer in range(count):
            depth = first + (last - first) * (layer / max(1, count - 1))
            base = top + (1.0 - top) * (layer / max(1, count)) ** 1.3
            waves = [
                (rng.uniform(0.8, 1.6) * 2**octave, rng.uniform(0, math.tau), 0.55**octave)
                for octave in range(6)
            ]
            points = [
                (
                    x / 160,
                    base
                    - height
                    * sum(a * math.sin(math.tau * f * x / 160 + phase) for f, phase, a in waves),
                )
                for x in range(161)
            ]
            color = _mix(
                _mix(self.palette.horizon, self.palette.far, 0.7), self.palette.near, depth
            )
            shapes.append(([*points, (1.0, 1.0), (0.0, 1.0)], color))
        return shapes

    def _water(self, rng: random.Random) -> list[tuple[list[Point], Color]]:
        top = self.skyline
        bands = 28
        shapes: list[tuple[list[Point], Color]] = []
        for band in range(bands):
            y = top + (1 - top) * (band / bands)
            color = _mix(
                _mix(self.palette.horizon, self.palette.far, 0.55), self.palette.near, band / bands
            )
            shapes.append(([(0.0, y), (1.0, y), (1.0, 1.0), (0.0, 1.0)], color))
        for band in range(46):
            part = (band / 46) ** 1.4
            y = top + (1 - top) * part + 0.004
            reach = self.sun_radius * rng.uniform(0.25, 1.0) * (1 - 0.55 * part)
            x = self.sun[0] + rng.uniform(-0.03, 0.03) * (0.4 + part)
            thick = 0.0015 + 0.005 * part
            color = _mix(self.palette.sun, self.palette.far, 0.15 + 0.6 * part)
            shapes.append((_lens(x, y, reach, thick), color))
        shapes += self._boat(rng.choice((0.3, 0.68)) + rng.uniform(-0.08, 0.08), top)
        return shapes

    def _boat(self, x: float, top: float) -> list[tuple[list[Point], Color]]:
        y = top + (1 - top) * 0.3
        hull = _mix(self.palette.near, (0, 0, 0), 0.35)
        sail = _mix(self.palette.sun, (255, 255, 255), 0.4)
        size = 0.085
        return [
            (_lens(x, y + size * 0.36, size * 0.95, 0.006), hull),
            ([(x - size * 0.06, y), (x - size * 0.06, y - size * 1.5), (x - size * 0.8, y)], sail),
            (
                [(x + size * 0.03, y), (x + size * 0.03, y - size * 1.25), (x + size * 0.6, y)],
                _mix(sail, self.palette.far, 0.25),
            ),
            (
                [
                    (x - size, y + size * 0.06),
                    (x + size, y + size * 0.06),
                    (x + size * 0.66, y + size * 0.36),
                    (x - size * 0.66, y + size * 0.36),
                ],
                hull,
            ),
        ]

    def _houses(self, rng: random.Random, layer: int) -> list[tuple[list[Point], Color]]:
        wall = _mix(self.palette.far, self.palette.near, (0.25, 0.6, 1.0)[layer])
        light = _mix(wall, self.palette.sun, 0.75)
        shapes: list[tuple[list[Point], Color]] = []
        x = rng.uniform(-0.05, 0.0)
        while x < 1.0:
            width = rng.uniform(0.045, 0.1) * (1 + layer * 0.35)
            roof = self.skyline - rng.uniform(-0.1, 0.24) + layer * 0.14
            shapes.append((_box(x, roof, width, 1.0), wall))
            if layer:
                step = 0.018 * (1 + layer * 0.3)
                for row in range(int((1 - roof) / step / 1.4) - 1):
                    for column in range(int(width / step) - 1):
                        if rng.random() < 0.32:
                            left = x + step * (column + 0.75)
                            up = roof + step * 1.4 * (row + 0.6)
                            shapes.append((_box(left, up, step * 0.5, up + step * 0.7), light))
            x += width + rng.uniform(0.0, 0.012)
        return shapes


def _box(left: float, top: float, width: float, bottom: float) -> list[Point]:
    return [(left, top), (left + width, top), (left + width, bottom), (left, bottom)]


def _lens(x: float, y: float, reach: float, thick: float) -> list[Point]:
    angles = [math.tau * step / 20 for step in range(20)]
    return [(x + reach * math.cos(angle), y + thick * math.sin(angle)) for angle in angles]


def _mix(one: Color, other: Color, part: float) -> Color:
    red, green, blue = (round(a + (b - a) * part) for a, b in zip(one, other, strict=True))
    return red, green, blue


def _hex(color: Color) -> str:
    return "#{:02x}{:02x}{:02x}".format(*color)

"""The scene of a picture: a small landscape, with the subjects that the prompt names.

The words of the prompt choose the subjects, the scene and the colours. The seed chooses the rest.
If the prompt has no known word, the picture has a caption, "Simulated picture".
"""

import math
import random
from dataclasses import dataclass
from typing import Literal, NamedTuple

from picture_queue.local.simulator.captions import Caption
from picture_queue.local.simulator.shapes import Color, Point, Shape, box, ellipse, mix
from picture_queue.local.simulator.subjects import find_subjects

Format = Literal["png", "webp", "jpg", "svg"]


@dataclass(frozen=True)
class PictureSpec:
    """The specification of a picture.

    Attributes:
        prompt: The prompt, whose words choose what is drawn.
        seed: The seed of the random parts.
        variety: A text on which the random parts depend as well.
        width: Pixels.
        height: Pixels.
        quality: 1 to 100, for the lossy formats.
        title: First line of the caption. Without a title, the picture has a caption only if its
            prompt has no known word.
        has_background: Whether the scene is drawn; without it, the background is transparent.
    """

    prompt: str
    seed: int
    width: int = 1024
    height: int = 1024
    format: Format = "png"
    quality: int = 80
    variety: str = ""
    title: str | None = None
    has_background: bool = True


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


class Scene:
    """The shapes of a picture, with x and y from 0 to 1, y downwards."""

    def __init__(self, spec: PictureSpec) -> None:
        self.spec = spec
        self.random = random.Random(self._random_key())  # noqa: S311 - art
        words = set(spec.prompt.lower().replace(",", " ").split())
        # For a prompt without a known word, the whole prompt chooses the palette and the scene.
        choice = random.Random(spec.prompt + spec.variety).randrange(len(_PALETTES))  # noqa: S311 - art
        self.palette = next(
            (palette for palette in _PALETTES if words & set(palette.words.split())),
            _PALETTES[choice],
        )
        kind = next(
            (kind for kind, matching in _SCENES.items() if words & set(matching.split())), None
        )
        self.kind = kind or ("hills", "sea", "city")[choice % 3]
        self.subjects = find_subjects(spec.prompt)
        self.caption: Caption | None = None
        if spec.title or not (self.subjects or kind):
            title = spec.title or "Simulated picture"
            self.caption = Caption(title, spec.prompt, spec.width, spec.height)
        self.skyline = self.random.uniform(0.52, 0.64)
        self.sun: Point = (
            self.random.uniform(0.22, 0.78),
            self.skyline - self.random.uniform(0.06, 0.26),
        )
        self.sun_radius = self.random.uniform(0.055, 0.1)

    def _random_key(self) -> str:
        return f"{self.spec.prompt}\n{self.spec.variety}\n{self.spec.seed}"

    def discs(self) -> list[tuple[Point, float, Color]]:
        """Return the stars and the sun: center, radius and colour of each."""
        rng = random.Random(f"discs {self._random_key()}")  # noqa: S311 - art
        discs: list[tuple[Point, float, Color]] = []
        if not self.spec.has_background:
            return discs
        if self.palette.stars:
            for _ in range(140):
                center = rng.random(), rng.random() * self.skyline
                color = mix(self.palette.zenith, (255, 255, 255), rng.uniform(0.3, 0.9))
                discs.append((center, rng.uniform(0.0006, 0.0022), color))
        discs.append((self.sun, self.sun_radius, self.palette.sun))
        return discs

    def shapes(self) -> list[Shape]:
        """Return the landscape and the subjects, the farthest first."""
        rng = random.Random(f"shapes {self._random_key()}")  # noqa: S311 - art
        shapes: list[Shape] = []
        if not self.spec.has_background:
            shapes += self._placed_subjects(rng)
            return shapes or [(ellipse(0.5, 0.5, 0.3, 0.3), self.palette.far)]
        if self.kind == "sea":
            shapes += self._ridges(rng, 2, self.skyline - 0.02, 0.02, 0.0, 0.35)
            shapes += self._water(rng)
        elif self.kind == "city":
            shapes += self._ridges(rng, 1, self.skyline, 0.05, 0.0, 0.1)
            for layer in range(3):
                shapes += self._houses(rng, layer)
        else:
            shapes += self._ridges(rng, 6, self.skyline, 0.075, 0.0, 1.0)
        return shapes + self._placed_subjects(rng)

    def _placed_subjects(self, rng: random.Random) -> list[Shape]:
        """Return the shapes of the subjects, side by side in the foreground."""
        shapes: list[Shape] = []
        count = len(self.subjects)
        aspect = self.spec.width / self.spec.height
        # A subject is drawn in a square of pixels. As fractions of the picture, the width and the
        # height of this square differ.
        height = min(0.66, 0.9 * aspect / max(1, count))
        width = height / aspect
        for number, subject in enumerate(self.subjects):
            middle = (number + 1) / (count + 1) if count < 3 else 0.18 + number * 0.32
            left = middle - width / 2 + rng.uniform(-0.04, 0.04) / max(1, count)
            top = 0.93 - height - rng.uniform(0.0, 0.05)
            shapes += [
                ([(left + x * width, top + y * height) for x, y in points], color)
                for points, color in subject.shapes()
            ]
        return shapes

    def _ridges(
        self,
        rng: random.Random,
        count: int,
        top: float,
        height: float,
        first_shade: float,
        last_shade: float,
    ) -> list[Shape]:
        """Return wavy layers, the farthest first.

        Args:
            rng: The source of the waves.
            count: The number of layers.
            top: The y of the first layer.
            height: The height of the waves.
            first_shade: The share of the palette's near colour in the first layer.
            last_shade: The share of the palette's near colour in the last layer.
        """
        shapes: list[Shape] = []
        for layer in range(count):
            shade = first_shade + (last_shade - first_shade) * (layer / max(1, count - 1))
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
                    * sum(
                        amplitude * math.sin(math.tau * frequency * x / 160 + phase)
                        for frequency, phase, amplitude in waves
                    ),
                )
                for x in range(161)
            ]
            color = mix(mix(self.palette.horizon, self.palette.far, 0.7), self.palette.near, shade)
            shapes.append(([*points, (1.0, 1.0), (0.0, 1.0)], color))
        return shapes

    def _water(self, rng: random.Random) -> list[Shape]:
        """Return bands of water, the reflection of the sun, and a boat if there is no subject."""
        top = self.skyline
        bands = 28
        shapes: list[Shape] = []
        for band in range(bands):
            y = top + (1 - top) * (band / bands)
            color = mix(
                mix(self.palette.horizon, self.palette.far, 0.55), self.palette.near, band / bands
            )
            shapes.append(([(0.0, y), (1.0, y), (1.0, 1.0), (0.0, 1.0)], color))
        reflections = 46
        for reflection in range(reflections):
            part = (reflection / reflections) ** 1.4
            y = top + (1 - top) * part + 0.004
            half_width = self.sun_radius * rng.uniform(0.25, 1.0) * (1 - 0.55 * part)
            x = self.sun[0] + rng.uniform(-0.03, 0.03) * (0.4 + part)
            half_height = 0.0015 + 0.005 * part
            color = mix(self.palette.sun, self.palette.far, 0.15 + 0.6 * part)
            shapes.append((ellipse(x, y, half_width, half_height), color))
        if not self.subjects:
            shapes += self._boat(rng.choice((0.3, 0.68)) + rng.uniform(-0.08, 0.08), top)
        return shapes

    def _boat(self, x: float, top: float) -> list[Shape]:
        y = top + (1 - top) * 0.3
        hull = mix(self.palette.near, (0, 0, 0), 0.35)
        sail = mix(self.palette.sun, (255, 255, 255), 0.4)
        size = 0.085
        return [
            (ellipse(x, y + size * 0.36, size * 0.95, 0.006), hull),
            ([(x - size * 0.06, y), (x - size * 0.06, y - size * 1.5), (x - size * 0.8, y)], sail),
            (
                [(x + size * 0.03, y), (x + size * 0.03, y - size * 1.25), (x + size * 0.6, y)],
                mix(sail, self.palette.far, 0.25),
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

    def _houses(self, rng: random.Random, layer: int) -> list[Shape]:
        wall = mix(self.palette.far, self.palette.near, (0.25, 0.6, 1.0)[layer])
        light = mix(wall, self.palette.sun, 0.75)
        shapes: list[Shape] = []
        x = rng.uniform(-0.05, 0.0)
        while x < 1.0:
            width = rng.uniform(0.045, 0.1) * (1 + layer * 0.35)
            roof = self.skyline - rng.uniform(-0.1, 0.24) + layer * 0.14
            shapes.append((box(x, roof, width, 1.0), wall))
            if layer:
                step = 0.018 * (1 + layer * 0.3)
                for row in range(int((1 - roof) / step / 1.4) - 1):
                    for column in range(int(width / step) - 1):
                        if rng.random() < 0.32:
                            left = x + step * (column + 0.75)
                            top = roof + step * 1.4 * (row + 0.6)
                            shapes.append((box(left, top, step * 0.5, top + step * 0.7), light))
            x += width + rng.uniform(0.0, 0.012)
        return shapes

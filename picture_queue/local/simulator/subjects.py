"""Drawings of the common subjects of a prompt: a boat, a cat, a tree.

Each drawing fills a square, with x and y from 0 to 1 and the y axis downwards, and stands on the
lower edge. If a colour precedes the subject in the prompt ("a red boat"), it is the main colour of
the drawing.
"""

import re
from collections.abc import Callable
from typing import NamedTuple

from picture_queue.local.simulator.shapes import (
    Color,
    Shape,
    box,
    dark,
    ellipse,
    light,
    line,
    star,
)

MAX_SUBJECTS = 3
_INK: Color = (34, 32, 44)
_WHITE: Color = (250, 248, 240)
_WOOD: Color = (120, 78, 48)
_LEAF: Color = (64, 134, 72)
_SKIN: Color = (226, 172, 132)
_GLASS: Color = (168, 214, 232)
_GOLD: Color = (246, 196, 72)
_COLORS: dict[str, Color] = {
    "red": (206, 56, 52), "orange": (236, 136, 46), "yellow": (244, 204, 66),
    "green": (72, 150, 78), "blue": (54, 108, 190), "purple": (128, 74, 168),
    "violet": (128, 74, 168), "pink": (238, 138, 172), "brown": _WOOD, "black": (40, 40, 46),
    "white": _WHITE, "gray": (140, 144, 150), "grey": (140, 144, 150), "golden": _GOLD,
    "gold": _GOLD, "silver": (190, 196, 204), "turquoise": (64, 188, 178),
}  # fmt: skip


class Subject(NamedTuple):
    """A subject that a prompt names.

    Attributes:
        name: The name of its drawing.
        color: Main colour of the drawing.
    """

    name: str
    color: Color

    def shapes(self) -> list[Shape]:
        """Return the shapes of the drawing, from back to front."""
        return _DRAWINGS[self.name].draw(self.color)


def find_subjects(prompt: str) -> list[Subject]:
    """Return at most `MAX_SUBJECTS` subjects that a prompt names, in the order of the prompt."""
    subjects: dict[str, Subject] = {}
    color: Color | None = None
    for word in re.findall(r"[a-z]+", prompt.lower()):
        name = _NAMES.get(word) or _NAMES.get(word.removesuffix("s"))
        if name is None:
            color = _COLORS.get(word, color)
            continue
        subjects.setdefault(name, Subject(name, color or _DRAWINGS[name].color))
        color = None
    return list(subjects.values())[:MAX_SUBJECTS]


def _boat(color: Color) -> list[Shape]:
    return [
        (line((0.5, 0.1), (0.5, 0.72), 0.025), _WOOD),
        ([(0.48, 0.1), (0.48, 0.66), (0.12, 0.66)], _WHITE),
        ([(0.53, 0.2), (0.53, 0.66), (0.84, 0.66)], dark(_WHITE, 0.12)),
        ([(0.04, 0.7), (0.96, 0.7), (0.8, 0.93), (0.2, 0.93)], color),
        (box(0.04, 0.7, 0.92, 0.74), dark(color)),
    ]


def _cat(color: Color) -> list[Shape]:
    whiskers = [
        (line((0.5 + side * 0.06, 0.4), (0.5 + side * 0.3, 0.4 + drop), 0.008), _INK)
        for side in (-1, 1)
        for drop in (-0.04, 0.04)
    ]
    return [
        (line((0.74, 0.88), (0.93, 0.5), 0.07), dark(color, 0.15)),
        (ellipse(0.5, 0.78, 0.27, 0.24), color),
        (ellipse(0.5, 0.84, 0.14, 0.16), light(color)),
        ([(0.27, 0.36), (0.29, 0.06), (0.47, 0.2)], color),
        ([(0.73, 0.36), (0.71, 0.06), (0.53, 0.2)], color),
        (ellipse(0.5, 0.36, 0.25, 0.21), color),
        *[(ellipse(x, 0.33, 0.05, 0.055), (214, 224, 92)) for x in (0.4, 0.6)],
        *[(ellipse(x, 0.33, 0.015, 0.05), _INK) for x in (0.4, 0.6)],
        ([(0.46, 0.42), (0.54, 0.42), (0.5, 0.46)], (222, 120, 130)),
        *whiskers,
        *[(ellipse(x, 0.98, 0.09, 0.045), light(color, 0.2)) for x in (0.38, 0.62)],
    ]


def _dog(color: Color) -> list[Shape]:
    return [
        (line((0.78, 0.7), (0.95, 0.4), 0.06), color),
        (ellipse(0.52, 0.72, 0.3, 0.2), color),
        *[(box(x, 0.75, 0.09, 1.0), dark(color, 0.1)) for x in (0.28, 0.42, 0.58, 0.7)],
        (ellipse(0.33, 0.38, 0.2, 0.2), color),
        (ellipse(0.19, 0.48, 0.13, 0.09), light(color)),
        (ellipse(0.08, 0.45, 0.035, 0.03), _INK),
        (ellipse(0.28, 0.32, 0.025, 0.03), _INK),
        (ellipse(0.47, 0.4, 0.08, 0.19), dark(color)),
        (box(0.3, 0.56, 0.22, 0.6), (206, 56, 52)),
    ]


def _tree(color: Color) -> list[Shape]:
    crown = [(0.5, 0.22, 0.24), (0.29, 0.4, 0.23), (0.71, 0.4, 0.23), (0.5, 0.46, 0.25)]
    return [
        ([(0.44, 0.5), (0.56, 0.5), (0.62, 1.0), (0.38, 1.0)], _WOOD),
        *[(ellipse(x, y, r, r * 0.85), dark(color, 0.2)) for x, y, r in crown],
        *[(ellipse(x - 0.02, y - 0.03, r * 0.85, r * 0.7), color) for x, y, r in crown],
    ]


def _house(color: Color) -> list[Shape]:
    roof = (168, 64, 52)
    return [
        (box(0.68, 0.12, 0.1, 0.4), dark(roof)),
        (box(0.14, 0.44, 0.72, 1.0), color),
        ([(0.05, 0.46), (0.5, 0.08), (0.95, 0.46)], roof),
        (box(0.42, 0.68, 0.17, 1.0), _WOOD),
        (ellipse(0.555, 0.85, 0.014, 0.014), _GOLD),
        *[(box(x, 0.54, 0.16, 0.72), _GLASS) for x in (0.2, 0.65)],
        *[(box(x + 0.073, 0.54, 0.014, 0.72), _WHITE) for x in (0.2, 0.65)],
        *[(box(x, 0.623, 0.16, 0.637), _WHITE) for x in (0.2, 0.65)],
    ]


def _flower(color: Color) -> list[Shape]:
    around = star(0.5, 0.32, 0.2, 0.2, 4)
    return [
        (box(0.48, 0.4, 0.04, 1.0), _LEAF),
        (ellipse(0.36, 0.76, 0.13, 0.05), _LEAF),
        (ellipse(0.64, 0.66, 0.13, 0.05), dark(_LEAF, 0.15)),
        *[(ellipse(x, y, 0.115, 0.115), color) for x, y in around],
        (ellipse(0.5, 0.32, 0.12, 0.12), _GOLD),
        (ellipse(0.5, 0.32, 0.07, 0.07), dark(_GOLD, 0.25)),
    ]


def _robot(color: Color) -> list[Shape]:
    return [
        (box(0.485, 0.03, 0.03, 0.16), dark(color)),
        (ellipse(0.5, 0.05, 0.04, 0.04), (226, 72, 66)),
        (box(0.28, 0.14, 0.44, 0.42), color),
        *[(ellipse(x, 0.25, 0.06, 0.06), (120, 232, 240)) for x in (0.4, 0.6)],
        (box(0.38, 0.34, 0.24, 0.38), _INK),
        (box(0.45, 0.42, 0.1, 0.47), dark(color)),
        (box(0.22, 0.46, 0.56, 0.8), color),
        (box(0.34, 0.53, 0.32, 0.68), dark(color, 0.55)),
        *[
            (ellipse(x, 0.6, 0.03, 0.03), c)
            for x, c in ((0.42, _GOLD), (0.5, _LEAF), (0.58, _COLORS["red"]))
        ],
        *[(box(x, 0.48, 0.1, 0.76), dark(color, 0.2)) for x in (0.09, 0.81)],
        *[(box(x, 0.8, 0.13, 1.0), dark(color, 0.2)) for x in (0.29, 0.58)],
    ]


def _sun(color: Color) -> list[Shape]:
    return [
        (star(0.5, 0.45, 0.44, 0.24, 12), light(color, 0.25)),
        (ellipse(0.5, 0.45, 0.25, 0.25), color),
    ]


def _moon(color: Color) -> list[Shape]:
    # A crescent lies between the left half of a circle and the left half of a narrower ellipse.
    outer = ellipse(0.55, 0.45, 0.36, 0.36)[8:25]
    inner = ellipse(0.55, 0.45, 0.16, 0.36)[8:25]
    return [(outer + inner[::-1], color)]


def _mountain(color: Color) -> list[Shape]:
    return [
        ([(0.4, 1.0), (0.74, 0.3), (1.08, 1.0)], light(color, 0.15)),
        ([(-0.08, 1.0), (0.38, 0.08), (0.84, 1.0)], color),
        ([(0.38, 0.08), (0.84, 1.0), (0.46, 1.0)], dark(color, 0.25)),
        (
            [(0.38, 0.08), (0.25, 0.34), (0.33, 0.29), (0.38, 0.37), (0.44, 0.3), (0.51, 0.34)],
            _WHITE,
        ),
        ([(0.74, 0.3), (0.665, 0.455), (0.73, 0.42), (0.77, 0.47), (0.815, 0.455)], _WHITE),
    ]


def _fish(color: Color) -> list[Shape]:
    return [
        ([(0.68, 0.55), (0.97, 0.33), (0.9, 0.55), (0.97, 0.77)], dark(color, 0.2)),
        ([(0.34, 0.38), (0.52, 0.2), (0.62, 0.42)], dark(color, 0.2)),
        (ellipse(0.42, 0.55, 0.36, 0.21), color),
        (ellipse(0.5, 0.62, 0.09, 0.06), dark(color, 0.2)),
        (ellipse(0.2, 0.49, 0.045, 0.045), _WHITE),
        (ellipse(0.19, 0.49, 0.022, 0.022), _INK),
    ]


def _bird(color: Color) -> list[Shape]:
    return [
        ([(0.7, 0.6), (0.98, 0.52), (0.95, 0.7)], dark(color, 0.25)),
        (ellipse(0.5, 0.58, 0.28, 0.19), color),
        (ellipse(0.28, 0.38, 0.15, 0.15), color),
        ([(0.15, 0.35), (0.0, 0.41), (0.15, 0.45)], (240, 160, 48)),
        (ellipse(0.25, 0.35, 0.025, 0.025), _INK),
        ([(0.36, 0.52), (0.8, 0.42), (0.62, 0.7)], dark(color, 0.3)),
        *[(line((x, 0.75), (x, 0.98), 0.02), (240, 160, 48)) for x in (0.45, 0.55)],
    ]


def _car(color: Color) -> list[Shape]:
    return [
        ([(0.22, 0.58), (0.34, 0.36), (0.66, 0.36), (0.8, 0.58)], color),
        ([(0.28, 0.57), (0.37, 0.41), (0.49, 0.41), (0.49, 0.57)], _GLASS),
        ([(0.52, 0.57), (0.52, 0.41), (0.64, 0.41), (0.73, 0.57)], _GLASS),
        (box(0.04, 0.57, 0.92, 0.83), color),
        (box(0.04, 0.75, 0.92, 0.79), dark(color, 0.3)),
        (box(0.89, 0.61, 0.07, 0.68), _GOLD),
        *[(ellipse(x, 0.85, 0.12, 0.12), _INK) for x in (0.25, 0.75)],
        *[(ellipse(x, 0.85, 0.055, 0.055), (190, 196, 204)) for x in (0.25, 0.75)],
    ]


def _balloon(color: Color) -> list[Shape]:
    return [
        *[(line((x, 0.56), (0.5 + (x - 0.5) * 0.5, 0.84), 0.012), _WOOD) for x in (0.3, 0.7)],
        (ellipse(0.5, 0.34, 0.33, 0.32), color),
        (ellipse(0.5, 0.34, 0.19, 0.32), light(color)),
        (ellipse(0.5, 0.34, 0.07, 0.32), color),
        (box(0.39, 0.82, 0.22, 0.97), _WOOD),
    ]


def _castle(color: Color) -> list[Shape]:
    shapes: list[Shape] = [(box(0.1, 0.5, 0.8, 1.0), color)]
    for left, top in ((0.04, 0.3), (0.74, 0.3), (0.38, 0.16)):
        shapes.append((box(left, top, 0.22, 1.0), dark(color, 0.15)))
        shapes += [
            (box(left + step * 0.08, top - 0.07, 0.06, top), dark(color, 0.15)) for step in range(3)
        ]
        shapes.append((box(left + 0.085, top + 0.12, 0.05, top + 0.24), _INK))
    door = [*box(0.42, 0.8, 0.14, 1.0)]
    return [*shapes, (ellipse(0.49, 0.8, 0.07, 0.09), _WOOD), (door, _WOOD)]


def _rocket(color: Color) -> list[Shape]:
    return [
        ([(0.4, 0.8), (0.6, 0.8), (0.5, 1.0)], (246, 150, 52)),
        ([(0.38, 0.52), (0.2, 0.82), (0.38, 0.76)], (206, 56, 52)),
        ([(0.62, 0.52), (0.8, 0.82), (0.62, 0.76)], (206, 56, 52)),
        (ellipse(0.5, 0.45, 0.15, 0.4), color),
        ([(0.38, 0.22), (0.5, 0.02), (0.62, 0.22)], (206, 56, 52)),
        (ellipse(0.5, 0.42, 0.075, 0.075), _INK),
        (ellipse(0.5, 0.42, 0.055, 0.055), _GLASS),
    ]


def _heart(color: Color) -> list[Shape]:
    return [
        *[(ellipse(x, 0.36, 0.2, 0.2), color) for x in (0.32, 0.68)],
        ([(0.155, 0.47), (0.5, 0.36), (0.845, 0.47), (0.5, 0.9)], color),
    ]


def _star(color: Color) -> list[Shape]:
    return [(star(0.5, 0.48, 0.44, 0.18, 5), color)]


def _person(color: Color) -> list[Shape]:
    return [
        ([(0.14, 1.0), (0.24, 0.72), (0.76, 0.72), (0.86, 1.0)], color),
        (box(0.42, 0.58, 0.16, 0.76), dark(_SKIN, 0.12)),
        (ellipse(0.5, 0.33, 0.27, 0.28), _WOOD),
        (ellipse(0.5, 0.41, 0.22, 0.26), _SKIN),
        *[(ellipse(x, 0.38, 0.028, 0.03), _INK) for x in (0.42, 0.58)],
        ([(0.42, 0.52), (0.58, 0.52), (0.5, 0.57)], (190, 84, 84)),
    ]


def _fox(color: Color) -> list[Shape]:
    return [
        (ellipse(0.83, 0.78, 0.15, 0.2), color),
        (ellipse(0.9, 0.63, 0.07, 0.08), _WHITE),
        (ellipse(0.5, 0.8, 0.25, 0.2), color),
        ([(0.2, 0.36), (0.2, 0.04), (0.44, 0.22)], dark(color)),
        ([(0.8, 0.36), (0.8, 0.04), (0.56, 0.22)], dark(color)),
        ([(0.17, 0.3), (0.83, 0.3), (0.5, 0.68)], color),
        ([(0.17, 0.32), (0.45, 0.44), (0.5, 0.67)], _WHITE),
        ([(0.83, 0.32), (0.55, 0.44), (0.5, 0.67)], _WHITE),
        *[(ellipse(x, 0.38, 0.03, 0.035), _INK) for x in (0.38, 0.62)],
        (ellipse(0.5, 0.65, 0.04, 0.035), _INK),
    ]


def _lighthouse(color: Color) -> list[Shape]:
    return [
        ([(0.5, 0.17), (-0.1, 0.05), (-0.1, 0.3)], (255, 240, 180)),
        ([(0.36, 0.26), (0.64, 0.26), (0.72, 1.0), (0.28, 1.0)], _WHITE),
        ([(0.345, 0.4), (0.655, 0.4), (0.67, 0.56), (0.33, 0.56)], color),
        ([(0.31, 0.72), (0.69, 0.72), (0.705, 0.88), (0.295, 0.88)], color),
        (box(0.4, 0.1, 0.2, 0.26), _GOLD),
        (box(0.32, 0.24, 0.36, 0.28), _INK),
        ([(0.36, 0.11), (0.64, 0.11), (0.5, 0.0)], color),
    ]


def _apple(color: Color) -> list[Shape]:
    return [
        (line((0.5, 0.32), (0.55, 0.1), 0.04), _WOOD),
        (ellipse(0.66, 0.18, 0.12, 0.055), _LEAF),
        *[(ellipse(x, 0.6, 0.24, 0.32), color) for x in (0.38, 0.62)],
        (ellipse(0.3, 0.48, 0.05, 0.09), light(color, 0.6)),
    ]


def _cup(color: Color) -> list[Shape]:
    return [
        (ellipse(0.72, 0.6, 0.17, 0.16), dark(color, 0.2)),
        (ellipse(0.72, 0.6, 0.1, 0.09), light(color, 0.8)),
        ([(0.2, 0.36), (0.76, 0.36), (0.68, 0.94), (0.28, 0.94)], color),
        (ellipse(0.48, 0.36, 0.28, 0.07), dark(color, 0.3)),
        (ellipse(0.48, 0.37, 0.24, 0.05), (92, 56, 36)),
        *[(line((x, 0.26), (x + 0.04, 0.06), 0.025), _WHITE) for x in (0.4, 0.52)],
    ]


class _Drawing(NamedTuple):
    words: str
    color: Color
    draw: Callable[[Color], list[Shape]]


_DRAWINGS = {
    "boat": _Drawing("boat ship sail sailboat sailing yacht", (176, 66, 54), _boat),
    "cat": _Drawing("cat kitten kitty", (216, 140, 70), _cat),
    "dog": _Drawing("dog puppy puppies hound", (176, 126, 80), _dog),
    "tree": _Drawing("tree oak forest wood bonsai", _LEAF, _tree),
    "house": _Drawing("house cottage home cabin hut barn villa", (236, 216, 180), _house),
    "flower": _Drawing("flower rose tulip daisy sunflower blossom lily", (226, 92, 132), _flower),
    "robot": _Drawing("robot android cyborg droid", (150, 162, 176), _robot),
    "sun": _Drawing("sun sunny sunshine", (255, 206, 84), _sun),
    "moon": _Drawing("moon crescent", (244, 240, 214), _moon),
    "mountain": _Drawing("mountain peak alp volcano summit", (104, 118, 142), _mountain),
    "fish": _Drawing("fish goldfish shark whale dolphin", (240, 144, 62), _fish),
    "bird": _Drawing("bird owl parrot eagle duck penguin", (84, 138, 206), _bird),
    "car": _Drawing("car taxi truck bus van automobile", (206, 56, 52), _car),
    "balloon": _Drawing("balloon zeppelin airship", (226, 92, 70), _balloon),
    "castle": _Drawing("castle palace fortress", (162, 158, 160), _castle),
    "rocket": _Drawing("rocket spaceship spacecraft shuttle", (232, 234, 240), _rocket),
    "heart": _Drawing("heart love valentine", (214, 52, 78), _heart),
    "star": _Drawing("star", _GOLD, _star),
    "person": _Drawing(
        "person man woman girl boy child face portrait people astronaut wizard king queen",
        (76, 112, 168),
        _person,
    ),
    "fox": _Drawing("fox foxes wolf", (224, 112, 44), _fox),
    "lighthouse": _Drawing("lighthouse", (206, 56, 52), _lighthouse),
    "apple": _Drawing("apple fruit peach cherry", (206, 56, 52), _apple),
    "cup": _Drawing("cup mug coffee tea", (92, 148, 186), _cup),
}  # fmt: skip
_NAMES = {word: name for name, drawing in _DRAWINGS.items() for word in drawing.words.split()}

#: The subjects that have a drawing.
SUBJECTS = tuple(_DRAWINGS)

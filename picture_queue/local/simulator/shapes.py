"""Polygons of the simulator's pictures.

The coordinates are fractions of the width and height, from 0 to 1. The y axis points downwards.
"""

import math

Color = tuple[int, int, int]
Point = tuple[float, float]
Shape = tuple[list[Point], Color]


def box(left: float, top: float, width: float, bottom: float) -> list[Point]:
    """Return a rectangle from its left, top and bottom coordinates and its width."""
    return [(left, top), (left + width, top), (left + width, bottom), (left, bottom)]


def ellipse(x: float, y: float, radius_x: float, radius_y: float) -> list[Point]:
    """Return an ellipse around a point, as a polygon with 32 corners."""
    angles = [math.tau * step / 32 for step in range(32)]
    return [(x + radius_x * math.cos(angle), y + radius_y * math.sin(angle)) for angle in angles]


def star(x: float, y: float, outer: float, inner: float, rays: int) -> list[Point]:
    """Return a star around a point."""
    return [
        (
            x + (inner if step % 2 else outer) * math.sin(math.pi * step / rays),
            y - (inner if step % 2 else outer) * math.cos(math.pi * step / rays),
        )
        for step in range(2 * rays)
    ]


def line(start: Point, end: Point, width: float) -> list[Point]:
    """Return a thick line."""
    dx, dy = end[0] - start[0], end[1] - start[1]
    length = math.hypot(dx, dy) or 1.0
    x, y = -dy / length * width / 2, dx / length * width / 2
    return [
        (start[0] + x, start[1] + y),
        (end[0] + x, end[1] + y),
        (end[0] - x, end[1] - y),
        (start[0] - x, start[1] - y),
    ]


def mix(first: Color, second: Color, part: float) -> Color:
    """Return a mixture of two colours; `part` is the share of the second, from 0 to 1."""
    red, green, blue = (round(a + (b - a) * part) for a, b in zip(first, second, strict=True))
    return red, green, blue


def dark(color: Color, part: float = 0.35) -> Color:
    """Return a darker colour."""
    return mix(color, (0, 0, 0), part)


def light(color: Color, part: float = 0.4) -> Color:
    """Return a lighter colour."""
    return mix(color, (255, 255, 255), part)

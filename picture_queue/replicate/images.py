"""Tells what a picture is, and how large, from its own bytes.

A name or a Content-Type header is what somebody claims; these readers look at the file. They read
headers only and never decode pixels. An SVG can carry scripts: serve it as a download.
"""

import re
from collections.abc import Callable
from typing import NamedTuple


class ImageInfo(NamedTuple):
    """Type and size of a picture.

    Attributes:
        mime_type: For example ``image/png``.
        extension: For example ``png``, without a dot.
        width: Pixels, None where the file does not say (an SVG without a size).
        height: Pixels, likewise.
    """

    mime_type: str
    extension: str
    width: int | None
    height: int | None


def read_image(data: bytes) -> ImageInfo | None:
    """Reads type and size of a png, jpeg, webp, gif or svg.

    Args:
        data: The whole file.

    Returns:
        What it is, or None when it is none of these or its header is broken.
    """
    for extension, mime_type, matches, size in _FORMATS:
        if matches(data):
            try:
                width, height = size(data)
            except (IndexError, ValueError):
                return None
            return ImageInfo(mime_type, extension, width, height)
    return None


_Size = tuple[int | None, int | None]


def _number(data: bytes, start: int, length: int, order: str) -> int:
    field = data[start : start + length]
    if len(field) < length:
        raise ValueError("the header ends early")
    return int.from_bytes(field, "big" if order == ">" else "little")


def _png(data: bytes) -> _Size:
    return _number(data, 16, 4, ">"), _number(data, 20, 4, ">")


def _gif(data: bytes) -> _Size:
    return _number(data, 6, 2, "<"), _number(data, 8, 2, "<")


def _jpeg(data: bytes) -> _Size:
    at = 2
    while True:
        if data[at] != 0xFF:
            raise ValueError("a marker is missing")
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
        elif marker == 0x01 or 0xD0 <= marker <= 0xD8:  # stands alone
            at += 2
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # start of frame
            return _number(data, at + 7, 2, ">"), _number(data, at + 5, 2, ">")
        else:
            at += 2 + max(2, _number(data, at + 2, 2, ">"))


def _webp(data: bytes) -> _Size:
    chunk = data[12:16]
    if chunk == b"VP8 ":  # lossy: 14 bits each, the upper two are a scale
        return _number(data, 26, 2, "<") & 0x3FFF, _number(data, 28, 2, "<") & 0x3FFF
    if chunk == b"VP8L":  # lossless: 14 bits each, less one
        bits = _number(data, 21, 4, "<")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if chunk == b"VP8X":  # extended: 24 bits each, less one
        return _number(data, 24, 3, "<") + 1, _number(data, 27, 3, "<") + 1
    raise ValueError("unknown chunk")


# An XML parser would fetch and expand what strangers wrote; the opening tag is enough.
_SVG_TAG = re.compile(rb"<svg\b[^>]*>", re.IGNORECASE)
_SVG_START = re.compile(rb"^(\xef\xbb\xbf)?\s*(<\?xml|<!--|<!doctype\s+svg|<svg\b)", re.IGNORECASE)
_SVG_HEAD = 4096


def _is_svg(data: bytes) -> bool:
    head = data[:_SVG_HEAD]
    return bool(_SVG_START.match(head) and _SVG_TAG.search(head))


def _svg(data: bytes) -> _Size:
    tag = _SVG_TAG.search(data[:_SVG_HEAD])
    assert tag  # noqa: S101 - _is_svg found it
    width, height = (_svg_length(tag[0], name) for name in (b"width", b"height"))
    if width and height:
        return width, height
    box = re.search(rb"""\bviewBox\s*=\s*["']\s*([\d.eE+,\s-]+?)\s*["']""", tag[0])
    numbers = [float(part) for part in re.split(rb"[\s,]+", box[1])] if box else []
    return (round(numbers[2]), round(numbers[3])) if len(numbers) == 4 else (None, None)


def _svg_length(tag: bytes, name: bytes) -> int | None:
    match = re.search(rb"\s" + name + rb"""\s*=\s*["']\s*(\d+(?:\.\d+)?)(?:px)?\s*["']""", tag)
    return round(float(match[1])) if match else None


_FORMATS: list[tuple[str, str, Callable[[bytes], bool], Callable[[bytes], _Size]]] = [
    ("png", "image/png", lambda data: data.startswith(b"\x89PNG\r\n\x1a\n"), _png),
    ("jpg", "image/jpeg", lambda data: data.startswith(b"\xff\xd8\xff"), _jpeg),
    ("webp", "image/webp", lambda data: data[:4] == b"RIFF" and data[8:12] == b"WEBP", _webp),
    ("gif", "image/gif", lambda data: data[:6] in (b"GIF87a", b"GIF89a"), _gif),
    ("svg", "image/svg+xml", _is_svg, _svg),
]

"""The type and the size of a picture, read from its bytes.

A file name or a Content-Type header may be wrong, so these functions read the file itself. They
read only the header, never decode pixels, and run in linear time of the length of the header.
"""

import re
from collections.abc import Callable
from mmap import mmap
from typing import NamedTuple

#: A whole file: in memory, or a mapped file.
Data = bytes | bytearray | mmap


class ImageInfo(NamedTuple):
    """The type and the size of a picture.

    Attributes:
        mime_type: MIME type, such as ``image/png``.
        extension: File name extension without a dot, such as ``png``.
        width: Width in pixels; None for an SVG without a size.
        height: Height in pixels; None for an SVG without a size.
    """

    mime_type: str
    extension: str
    width: int | None
    height: int | None

    @property
    def pixels(self) -> int:
        """Number of pixels that a viewer has to decode; 0 for a vector picture."""
        return 0 if self.extension == "svg" else (self.width or 0) * (self.height or 0)


def read_image(data: Data) -> ImageInfo | None:
    """Read the type and the size of a PNG, JPEG, WebP, GIF or SVG file.

    Args:
        data: The whole file.

    Returns:
        The type and size; None if the file has another type, a broken header, or no pixels.
    """
    for extension, mime_type, matches, read_size in _BITMAPS:
        if matches(data):
            try:
                width, height = read_size(data)
            except (IndexError, ValueError):
                return None
            return ImageInfo(mime_type, extension, width, height) if width and height else None
    tag = _read_svg_attributes(data)
    return None if tag is None else ImageInfo("image/svg+xml", "svg", *_parse_svg_size(tag))


def _read_number(data: Data, start: int, length: int, order: str) -> int:
    field = data[start : start + length]
    if len(field) < length:
        raise ValueError("the header ends early")
    return int.from_bytes(field, "big" if order == ">" else "little")


def _read_png(data: Data) -> tuple[int, int]:
    if data[12:16] != b"IHDR":
        raise ValueError("the header is missing")
    return _read_number(data, 16, 4, ">"), _read_number(data, 20, 4, ">")


def _read_gif(data: Data) -> tuple[int, int]:
    return _read_number(data, 6, 2, "<"), _read_number(data, 8, 2, "<")


# Maximum number of segments before the start of frame. A colour profile has up to 255 segments;
# 50 MB of metadata have 800. Without a maximum, a file of nothing but markers would take seconds.
_MAX_JPEG_SEGMENTS = 5000
_FILL = re.compile(rb"\xff*+")


def _read_jpeg(data: Data) -> tuple[int, int]:
    at = 2
    for _ in range(_MAX_JPEG_SEGMENTS):
        if data[at] != 0xFF:
            raise ValueError("a marker is missing")
        at = _FILL.match(data, at).end()  # type: ignore[union-attr]  # it matches the empty string
        marker = data[at]
        if marker == 0x01 or 0xD0 <= marker <= 0xD8:  # a marker without a segment
            at += 1
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # start of frame
            return _read_number(data, at + 6, 2, ">"), _read_number(data, at + 4, 2, ">")
        else:
            at += 1 + max(2, _read_number(data, at + 1, 2, ">"))
    raise ValueError("there are too many segments")


def _read_webp(data: Data) -> tuple[int, int]:
    chunk = bytes(data[12:16])
    if chunk == b"VP8 ":  # lossy: 14 bits for each side, followed by 2 bits for scaling
        return _read_number(data, 26, 2, "<") & 0x3FFF, _read_number(data, 28, 2, "<") & 0x3FFF
    if chunk == b"VP8L":  # lossless: 14 bits for each side, minus one
        bits = _read_number(data, 21, 4, "<")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if chunk == b"VP8X":  # extended: 24 bits for each side, minus one
        return _read_number(data, 24, 3, "<") + 1, _read_number(data, 27, 3, "<") + 1
    raise ValueError("unknown chunk")


_BITMAPS: tuple[tuple[str, str, Callable[[Data], bool], Callable[[Data], tuple[int, int]]], ...] = (
    ("png", "image/png", lambda data: data[:8] == b"\x89PNG\r\n\x1a\n", _read_png),
    ("jpg", "image/jpeg", lambda data: data[:3] == b"\xff\xd8\xff", _read_jpeg),
    ("webp", "image/webp", lambda data: data[:4] == b"RIFF" and data[8:12] == b"WEBP", _read_webp),
    ("gif", "image/gif", lambda data: data[:6] in (b"GIF87a", b"GIF89a"), _read_gif),
)

# An XML parser would expand entities of an untrusted file. So these patterns read the opening tag
# of the root element, which has the size. Their repetitions are possessive (*+), so no pattern
# backtracks, and all take linear time.

# The opening tag has to end within this number of bytes. Editors may write long comments before it.
_SVG_HEAD = 65_536
_SPACE = re.compile(rb"\s*+")
_DOCTYPE = re.compile(rb"(?i:<!doctype)\s++svg\b[^\[>]*+")
_SVG_TAG = re.compile(rb"""<(?:\w++:)?+svg(?=[\s/>])((?:"[^"]*+"|'[^']*+'|[^"'>])*+)>""", re.I)
# This pattern matches at every position, so `finditer` reads each byte of the tag once.
_ATTRIBUTE = re.compile(rb"""\s*+([^\s=]*+)\s*+(?:=\s*+("[^"]*+"|'[^']*+'|[^\s"']*+))?+""")
_LENGTH = re.compile(rb"([0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?)(?:px)?")
_MAX_SIDE = 2**31 - 1  # the largest value of the columns images.width and images.height


def _read_svg_attributes(data: Data) -> bytes | None:
    """Return the attributes of the root element of an SVG; None if the file is not an SVG."""
    head = bytes(data[:_SVG_HEAD]).removeprefix(b"\xef\xbb\xbf")
    at = 0
    while True:
        at = _SPACE.match(head, at).end()  # type: ignore[union-attr]  # it matches the empty string
        if head.startswith(b"<!--", at):
            at = _find_end(head, b"-->", at + 4)
        elif head.startswith(b"<?", at):
            at = _find_end(head, b"?>", at + 2)
        elif doctype := _DOCTYPE.match(head, at):
            at = doctype.end()
            if head.startswith(b"[", at):
                at = _find_end(head, b"]", at)
            at = _find_end(head, b">", at)
        else:
            root = _SVG_TAG.match(head, at)
            return root[1] if root else None


def _find_end(head: bytes, terminator: bytes, start: int) -> int:
    """Return the position after the next terminator; the length of the head if there is none."""
    found = head.find(terminator, start)
    return len(head) if found < 0 else found + len(terminator)


def _parse_svg_size(tag: bytes) -> tuple[int | None, int | None]:
    attributes = {
        match[1]: match[2].strip(b"\"' \t\r\n")
        for match in _ATTRIBUTE.finditer(tag)
        if match[2] is not None
    }
    box = attributes.get(b"viewBox", b"").replace(b",", b" ").split()
    sizes = [(attributes.get(b"width", b""), attributes.get(b"height", b""))]
    if len(box) == 4:
        sizes.append((box[2], box[3]))
    for size in sizes:
        width, height = map(_parse_svg_length, size)
        if width and height:
            return width, height
    return None, None


def _parse_svg_length(text: bytes) -> int | None:
    """Return a length in pixels; None if it has another unit or is too long for its column."""
    match = _LENGTH.fullmatch(text[:40])
    length = float(match[1]) if match else 0.0  # infinite above 1e308
    return round(length) if 0.5 < length <= _MAX_SIDE else None

"""Remove metadata from a picture without changing its pixels.

The functions copy the parts of a file that a viewer needs, and leave out the others: EXIF, XMP,
IPTC, comments, embedded previews, Content Credentials, and all bytes after the end of the picture.
Pixels are never decoded. The orientation is kept, since without it the picture would be turned.

Parts that expand to far more than they occupy (compressed texts and colour profiles) are left out
even if the metadata is kept, so that no viewer has to expand them.
"""

import re
import zlib
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

from picture_queue.generations.image_info import Data


class Parts(Protocol):
    """A file whose slices are parts of its bytes."""

    def __getitem__(self, part: slice, /) -> bytes | bytearray: ...


#: A part of the cleaned file: new bytes, or the start and end of a part of the original file.
Piece = bytes | tuple[int, int]

MAX_PROFILE_BYTES = 4 * 1024 * 1024  # of a colour profile; those of common printers have up to 3 MB
_MAX_TEXT_BYTES = 1024 * 1024  # of a text in a PNG, after decompression
# Each part takes some microseconds. A file of 50 MB with parts of 8 KiB has 6,400 parts.
_MAX_PARTS = 100_000
_MAX_SUB_BLOCKS = 1_000_000  # of a GIF; a file of 50 MB with full blocks has 200,000
# A viewer decodes each scan of a JPEG in full size. Encoders write about 10 scans.
_MAX_SCANS = 100


class CleanedImage(NamedTuple):
    """The parts of a file to store.

    Attributes:
        pieces: The parts, in order.
        frames: Number of frames of an animation; otherwise 1.
        orientation: EXIF orientation from 1 to 8; from 5, width and height are swapped when shown.
    """

    pieces: list[Piece]
    frames: int
    orientation: int

    @property
    def size(self) -> int:
        """Number of bytes of the cleaned file."""
        return sum(_length(piece) for piece in self.pieces)

    def chunks(self, data: Parts, length: int = 65_536) -> Iterator[bytes]:
        """Yield the bytes of the cleaned file, at most ``length`` at a time.

        Args:
            data: The original file.
            length: Maximum length of a chunk.
        """
        for piece in self.pieces:
            source: Parts = piece if isinstance(piece, bytes) else data
            start, end = (0, len(piece)) if isinstance(piece, bytes) else piece
            for at in range(start, end, length):
                yield bytes(source[at : min(at + length, end)])


def clean_image(data: Data, extension: str, strip: bool = True) -> CleanedImage:
    """Return the parts of a picture to store.

    Args:
        data: A PNG, JPEG, WebP or GIF file.
        extension: The type of the file, as `read_image` returns it.
        strip: False keeps the metadata, except for parts that expand beyond a limit.

    Raises:
        ValueError: The file has no pixels, or too many parts.
    """
    try:
        return _CLEANERS[extension](data, strip)
    except IndexError:
        raise ValueError("the file ends in its header") from None


def _length(piece: Piece) -> int:
    return len(piece) if isinstance(piece, bytes) else piece[1] - piece[0]


class _Pieces:
    """The pieces of a file, in which neighbours are joined."""

    def __init__(self, start: int) -> None:
        self._list: list[Piece] = [(0, start)]
        self._count = 0

    def add(self, start: int, end: int, is_kept: bool = True) -> None:
        """Add a part of the file, unless it is not kept."""
        self._count += 1
        if self._count > _MAX_PARTS:
            raise ValueError(f"the file has over {_MAX_PARTS} parts")
        if not is_kept or start >= end:
            return
        last = self._list[-1]
        if isinstance(last, tuple) and last[1] == start:
            self._list[-1] = (last[0], end)
        else:
            self._list.append((start, end))

    def finish(self, insert: bytes = b"", at: int = 0) -> list[Piece]:
        """Return the pieces, with bytes inserted at a position of the first piece.

        The first piece starts at the first byte of the file.
        """
        if not insert:
            return self._list
        end = _end(self._list[0])
        at = min(at, end)
        rest: list[Piece] = [(at, end)] if at < end else []
        return [(0, at), insert, *rest, *self._list[1:]]


def _end(piece: Piece) -> int:
    return len(piece) if isinstance(piece, bytes) else piece[1]


# PNG (https://www.w3.org/TR/png-3/): chunks with 4 bytes length, 4 bytes type, the data and 4 bytes
# checksum. The types of chunks that a decoder needs begin with an uppercase letter.
_PNG_HEADER = 33  # the position after the signature and the chunk IHDR
#: The other chunks that change how the picture looks.
_PNG_SHOWN = frozenset(
    b"tRNS cHRM gAMA iCCP sBIT sRGB cICP mDCV cLLI bKGD hIST pHYs sPLT acTL fcTL fdAT".split()
)


def _clean_png(data: Data, strip: bool) -> CleanedImage:
    pieces, frames, orientation, has_pixels = _Pieces(8), 0, 1, False
    at, size = 8, len(data)
    while at + 8 <= size:
        length, kind = int.from_bytes(data[at : at + 4], "big"), bytes(data[at + 4 : at + 8])
        end = at + 12 + length
        if end > size and kind != b"IDAT":
            break  # the file ends in a chunk without pixels
        end = min(end, size)
        if kind == b"eXIf" and strip:
            orientation = read_orientation(bytes(data[at + 8 : min(end, at + 8 + _MAX_EXIF)]))
        pieces.add(at, end, _is_kept_in_png(data, at, end, kind, strip))
        has_pixels = has_pixels or kind == b"IDAT"
        frames += kind == b"fcTL"
        at = end
        if kind == b"IEND":
            break
    if not has_pixels:
        raise ValueError("the file has no pixels")
    if not strip:
        pieces.add(at, size)
    exif = b"" if orientation == 1 else _png_chunk(b"eXIf", _exif(orientation))
    return CleanedImage(pieces.finish(exif, _PNG_HEADER), max(1, frames), orientation)


def _is_kept_in_png(data: Data, start: int, end: int, kind: bytes, strip: bool) -> bool:
    if kind == b"iCCP":
        return _expands_to(data, start, end) <= MAX_PROFILE_BYTES
    if kind in _PNG_SHOWN or kind[:1].isupper():
        return True
    if strip:
        return False
    return kind not in (b"zTXt", b"iTXt") or _expands_to(data, start, end) <= _MAX_TEXT_BYTES


def _expands_to(data: Data, start: int, end: int) -> float:
    """Return the length of the compressed data of a chunk; infinite if it is too long or broken."""
    if end - start > MAX_PROFILE_BYTES:
        return float("inf")
    kind, content = data[start + 4 : start + 8], bytes(data[start + 8 : end - 4])
    rest = content.partition(b"\0")[2]  # after the name of the profile or text
    if kind != b"iTXt":
        compressed = rest[1:]  # after the method
    elif rest[:1] != b"\x01":
        return 0  # it is not compressed
    else:
        compressed = rest[2:].split(b"\0", 2)[-1]  # after the language and the translated name
    try:
        return len(zlib.decompressobj().decompress(compressed, MAX_PROFILE_BYTES + 1))
    except zlib.error:
        return float("inf")


def _png_chunk(kind: bytes, content: bytes) -> bytes:
    body = kind + content
    return len(content).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")


# JPEG (ITU T.81): segments with a marker, a length and data. A segment "start of scan" is followed
# by compressed data up to the next marker. In compressed data, a 0xFF byte is followed by 0, or is
# the first byte of a restart marker (0xD0 to 0xD7).
_JPEG_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_ICC = b"ICC_PROFILE\0"  # followed by the number of the part, and by the number of parts
_MAX_PROFILE_PARTS = MAX_PROFILE_BYTES // 65_519  # bytes of the profile in each segment


def _clean_jpeg(data: Data, strip: bool) -> CleanedImage:
    pieces, orientation, profile_parts, scans = _Pieces(2), 1, 0, 0
    at, size = 2, len(data)
    while match := _JPEG_MARKER.search(data, at):
        start, marker = match.start(), data[match.end() - 1]
        if scans:
            pieces.add(at, start)  # compressed data
        at = match.end()
        if marker == 0xD9:  # end of image
            pieces.add(start, at)
            break
        if marker in (0x01, 0xD8):  # a marker without data
            continue
        end = at + max(2, int.from_bytes(data[at : at + 2], "big"))
        if end > size:
            at = size
            break
        head = bytes(data[at + 2 : min(end, at + 16)])
        scans += marker == 0xDA  # start of scan
        profile_parts += head.startswith(_ICC)
        if scans > _MAX_SCANS:
            raise ValueError(f"the file has over {_MAX_SCANS} scans")
        if marker == 0xE1 and head.startswith(b"Exif\0") and strip and orientation == 1:
            orientation = read_orientation(bytes(data[at + 2 : end]))
        pieces.add(start, end, _is_kept_in_jpeg(marker, head, strip, profile_parts))
        at = end
    else:
        # The file has no end marker. Viewers show the pixels that it has.
        pieces.add(at, size)
        at = size
    if not scans:
        raise ValueError("the file has no pixels")
    if not strip:
        pieces.add(at, size)
    exif = b"" if orientation == 1 else _jpeg_exif(orientation)
    return CleanedImage(pieces.finish(exif, _jfif_end(data)), 1, orientation)


def _is_kept_in_jpeg(marker: int, head: bytes, strip: bool, profile_parts: int) -> bool:
    if marker == 0xE2 and head.startswith(_ICC):
        return max(profile_parts, head[13] if len(head) > 13 else 0) <= _MAX_PROFILE_PARTS
    if not strip or not (0xE0 <= marker <= 0xEF or marker == 0xFE):
        return True
    # The header of JFIF, and the header of Adobe, which names the colour space.
    return marker == 0xE0 or (marker == 0xEE and head.startswith(b"Adobe"))


def _jfif_end(data: Data) -> int:
    """Return the position for EXIF: after the header of JFIF, if the file begins with one."""
    return 4 + int.from_bytes(data[4:6], "big") if data[2:4] == b"\xff\xe0" else 2


def _jpeg_exif(orientation: int) -> bytes:
    content = b"Exif\0\0" + _exif(orientation)
    return b"\xff\xe1" + (len(content) + 2).to_bytes(2, "big") + content


# WebP (RFC 9649): chunks with 4 bytes type, 4 bytes length and the data. Data of an odd length is
# followed by a padding byte.
_WEBP_SHOWN = frozenset((b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF", b"ICCP"))
_WEBP_PIXELS = (b"VP8 ", b"VP8L", b"ANMF")
# Flags of the chunk VP8X, which must be the first chunk.
_HAS_PROFILE, _HAS_EXIF, _HAS_XMP = 0x20, 0x08, 0x04


def _clean_webp(data: Data, strip: bool) -> CleanedImage:
    pieces, orientation, kinds = _Pieces(0), 1, list[bytes]()
    size = min(len(data), 8 + int.from_bytes(data[4:8], "little"))
    at, header = 12, b""
    if data[12:16] == b"VP8X":
        at = 30
        header = bytes(data[12:at])
    while at + 8 <= size:
        kind, length = bytes(data[at : at + 4]), int.from_bytes(data[at + 4 : at + 8], "little")
        end = at + 8 + length + length % 2
        if end > size and kind not in _WEBP_PIXELS:
            break
        end = min(end, size)
        if kind == b"EXIF" and strip and header:
            orientation = read_orientation(bytes(data[at + 8 : min(end, at + 8 + _MAX_EXIF)]))
        is_kept = kind in _WEBP_SHOWN if strip else kind != b"VP8X"
        is_kept = is_kept and (kind != b"ICCP" or length <= MAX_PROFILE_BYTES)
        pieces.add(at, end, is_kept)
        kinds += [kind] if is_kept else []
        at = end
    if not set(kinds) & set(_WEBP_PIXELS):
        raise ValueError("the file has no pixels")
    body = pieces.finish()[1:]  # without the old header
    if orientation != 1:
        exif = _exif(orientation)
        padding = b"\0" * (sum(map(_length, body)) % 2)  # the last chunk may lack its padding
        body.append(padding + b"EXIF" + len(exif).to_bytes(4, "little") + exif)
        kinds.append(b"EXIF")
    if header:
        flags = header[8] & ~(_HAS_PROFILE | _HAS_EXIF | _HAS_XMP)
        for flag, kind in ((_HAS_PROFILE, b"ICCP"), (_HAS_EXIF, b"EXIF"), (_HAS_XMP, b"XMP ")):
            flags |= flag if kind in kinds else 0
        body.insert(0, header[:8] + bytes([flags]) + header[9:])
    length = 4 + sum(map(_length, body))
    start = b"RIFF" + length.to_bytes(4, "little") + b"WEBP"
    return CleanedImage([start, *body], max(1, kinds.count(b"ANMF")), orientation)


def _clean_gif(data: Data, strip: bool) -> CleanedImage:
    """Copy the blocks of a GIF (https://www.w3.org/Graphics/GIF/spec-gif89a.txt)."""
    at = 13 + _table_size(data[10])
    pieces, frames, budget = _Pieces(at), 0, iter(range(_MAX_SUB_BLOCKS))
    while at + 2 < len(data) and data[at] in (0x21, 0x2C):
        start, is_frame = at, data[at] == 0x2C
        if is_frame:
            at = _end_of_sub_blocks(data, at + 11 + _table_size(data[at + 9]), budget)
            frames += 1
        else:
            at = _end_of_sub_blocks(data, at + 2, budget)
        is_shown = data[start + 1] == 0xF9 or bytes(data[start + 3 : start + 14]) in _GIF_LOOPS
        pieces.add(start, at, is_frame or is_shown or not strip)
    if not frames:
        raise ValueError("the file has no pixels")
    return CleanedImage([*pieces.finish(), b";"], frames, 1)


_GIF_LOOPS = (b"NETSCAPE2.0", b"ANIMEXTS1.0")  # how often an animation is repeated


def _table_size(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _end_of_sub_blocks(data: Data, at: int, budget: Iterator[int]) -> int:
    for _ in budget:
        if at >= len(data):
            return len(data)
        if data[at] == 0:
            return at + 1
        at += 1 + data[at]
    raise ValueError(f"the file has over {_MAX_SUB_BLOCKS} blocks")


# EXIF is a TIFF file: byte order, 42, the position of a directory, and its entries of 12 bytes.
_MAX_EXIF = 65_536  # bytes that are searched for the orientation
_MAX_EXIF_ENTRIES = 500  # entries of the directory that are searched
_ORIENTATION = 0x0112


def read_orientation(exif: bytes) -> int:
    """Return the orientation in EXIF data, from 1 to 8; 1 if there is none.

    Args:
        exif: The data, with or without the prefix of a JPEG.
    """
    exif = exif.removeprefix(b"Exif\0\0")
    order: dict[bytes, str] = {b"II": "little", b"MM": "big"}
    if exif[:2] not in order:
        return 1

    def number(at: int, length: int) -> int:
        return int.from_bytes(exif[at : at + length], order[exif[:2]])  # type: ignore[arg-type]

    directory = number(4, 4)
    for entry in range(min(number(directory, 2), _MAX_EXIF_ENTRIES)):
        at = directory + 2 + entry * 12
        if number(at, 2) == _ORIENTATION:
            orientation = number(at + 8, 2)
            return orientation if 1 <= orientation <= 8 else 1
    return 1


def _exif(orientation: int) -> bytes:
    """Return EXIF data that contains only an orientation."""
    entry = bytes.fromhex("0112 0003 00000001") + orientation.to_bytes(2, "big") + b"\0\0"
    return b"MM\0*\0\0\0\x08\0\x01" + entry + b"\0\0\0\0"


_CLEANERS: dict[str, Callable[[Data, bool], CleanedImage]] = {
    "png": _clean_png,
    "jpg": _clean_jpeg,
    "webp": _clean_webp,
    "gif": _clean_gif,
}

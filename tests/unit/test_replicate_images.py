"""Type and size of pictures out of their bytes, checked against what Pillow writes."""

import io

import pytest
from PIL import Image

from picture_queue.replicate.images import ImageInfo, read_image


def picture(format_: str, **options: object) -> bytes:
    out = io.BytesIO()
    image = Image.new("RGB", (317, 211), (200, 80, 10))
    image.save(out, format_, **options)
    return out.getvalue()


@pytest.mark.parametrize(
    ("data", "mime_type", "extension"),
    [
        (picture("PNG"), "image/png", "png"),
        (picture("JPEG"), "image/jpeg", "jpg"),
        (picture("JPEG", progressive=True, comment=b"hello"), "image/jpeg", "jpg"),
        (b"\xff\xd8\xff\xff\x01\xff" + picture("JPEG")[2:], "image/jpeg", "jpg"),
        (picture("GIF"), "image/gif", "gif"),
        (picture("WEBP"), "image/webp", "webp"),
        (picture("WEBP", lossless=True), "image/webp", "webp"),
        (picture("WEBP", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0"), "image/webp", "webp"),
    ],
)
def test_type_and_size(data: bytes, mime_type: str, extension: str) -> None:
    assert read_image(data) == ImageInfo(mime_type, extension, 317, 211)


@pytest.mark.parametrize(
    ("svg", "size"),
    [
        ('<svg xmlns="http://www.w3.org/2000/svg" width="40" height="30px"/>', (40, 30)),
        ('<?xml version="1.0"?>\n<!-- hi -->\n<svg viewBox="0 0 64.4 48"><g/></svg>', (64, 48)),
        ("\ufeff  <svg width='100%' height='100%' viewBox='0,0,10,20'></svg>", (10, 20)),
        ('<!DOCTYPE svg PUBLIC "x" "y">\n<svg></svg>', (None, None)),
        ('<svg width="100%" viewBox="none"></svg>', (None, None)),
    ],
)
def test_svg_tells_its_size_or_none(svg: str, size: tuple[int | None, int | None]) -> None:
    assert read_image(svg.encode()) == ImageInfo("image/svg+xml", "svg", *size)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello",
        b"<html><body><svg/></body></html>",
        b"RIFF\0\0\0\0WEBPVP9 " + bytes(20),
        picture("PNG")[:18],
        picture("WEBP")[:20],
        picture("JPEG")[:9],
        b"\xff\xd8\xff\xe0\0\x10" + bytes(40),
        b'<svg viewBox="0 0 e +"></svg>',
    ],
)
def test_what_is_no_picture_or_broken_is_none(data: bytes) -> None:
    assert read_image(data) is None

"""The type and size of an image are read from the bytes of its file."""

import io
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from picture_queue.generations.image_info import ImageInfo, read_image


def create_image(format_: str, **options: object) -> bytes:
    out = io.BytesIO()
    image = Image.new("RGB", (317, 211), (200, 80, 10))
    image.save(out, format_, **options)
    return out.getvalue()


@pytest.mark.parametrize(
    ("data", "mime_type", "extension"),
    [
        (create_image("PNG"), "image/png", "png"),
        (create_image("JPEG"), "image/jpeg", "jpg"),
        (create_image("JPEG", progressive=True, comment=b"hello"), "image/jpeg", "jpg"),
        (b"\xff\xd8\xff\xff\x01\xff" + create_image("JPEG")[2:], "image/jpeg", "jpg"),
        (create_image("GIF"), "image/gif", "gif"),
        (create_image("WEBP"), "image/webp", "webp"),
        (create_image("WEBP", lossless=True), "image/webp", "webp"),
        (create_image("WEBP", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0"), "image/webp", "webp"),
    ],
)
def test_type_and_size_are_read(data: bytes, mime_type: str, extension: str) -> None:
    assert read_image(data) == ImageInfo(mime_type, extension, 317, 211)


@pytest.mark.parametrize(
    ("svg", "size"),
    [
        ('<svg xmlns="http://www.w3.org/2000/svg" width="40" height="30px"/>', (40, 30)),
        ('<?xml version="1.0"?>\n<!-- hi -->\n<svg viewBox="0 0 64.4 48"><g/></svg>', (64, 48)),
        ("\ufeff  <svg width='100%' height='100%' viewBox='0,0,10,20'></svg>", (10, 20)),
        ('<!DOCTYPE svg PUBLIC "x" "y">\n<svg></svg>', (None, None)),
        ('<svg width="100%" viewBox="none"></svg>', (None, None)),
        ('<svg viewBox="0 0 e +"></svg>', (None, None)),
        ('<svg viewBox="0 0 1e999 1"/>', (None, None)),
        ('<svg width="9e9" height="9"/>', (None, None)),
        (f'<svg width="{"9" * 5000}" height="2147483647"/>', (None, None)),
        ('<svg width="2147483648" height="1" viewBox="0 0 2e1 3"/>', (20, 3)),
        ('<svg width="0" height="0"/>', (None, None)),
        ('<svg title="a > b" width=\'4\' height="3"/>', (4, 3)),
        ('<svg data-width="9" stroke-width="9" width="4" height="3"/>', (4, 3)),
        ('<s:svg xmlns:s="http://www.w3.org/2000/svg" width="4" height="3"/>', (4, 3)),
        ('<!DOCTYPE svg [<!ENTITY a "<b>">]>\n<svg width="4" height="3"/>', (4, 3)),
        (f'<!--{" " * 60_000}--><svg width="4" height="3"/>', (4, 3)),
    ],
)
def test_the_size_of_an_svg_is_read_if_it_is_given(
    svg: str, size: tuple[int | None, int | None]
) -> None:
    assert read_image(svg.encode()) == ImageInfo("image/svg+xml", "svg", *size)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello",
        b"<html><body><svg/></body></html>",
        b"RIFF\0\0\0\0WEBPVP9 " + bytes(20),
        create_image("PNG")[:18],
        create_image("WEBP")[:20],
        create_image("JPEG")[:9],
        b"\xff\xd8\xff\xe0\0\x10" + bytes(40),
        b"\x89PNG\r\n\x1a\n\0\0\0\rIDAT" + bytes(20),
        b"GIF89a" + bytes(20),
        b'<svg width="40',
        b"<svgx width='1'/>",
        b"<!-- <svg/> -->",
        b"<?xml version='1.0'?><html><svg/></html>",
    ],
)
def test_broken_files_and_other_formats_are_not_recognised(data: bytes) -> None:
    assert read_image(data) is None


#: The size of a file in bytes. A parser in quadratic time takes seconds or minutes for such files.
LARGE = 3_000_000


@pytest.mark.parametrize(
    "data",
    [
        b'<svg viewBox="' + b" " * LARGE + b">",
        b'<svg viewBox="' + b" " * 2500 + b">",
        b'<svg viewBox="' + b"0 " * LARGE + b'">',
        b"<svg " + b"width" * LARGE,
        b"<svg " + b"width=" * (LARGE // 6) + b">",
        b"<svg " + b"a=' '" * (LARGE // 5) + b">",
        b"<svg " + b"'\"" * (LARGE // 2) + b">",
        b"<svg" * (LARGE // 4),
        b"<!--" * (LARGE // 4),
        b"<!---->" * (LARGE // 7),
        b"<!doctype svg [" * (LARGE // 15),
        b"<!doctype svg>" * (LARGE // 14),
        b"<?xml?>" * (LARGE // 7),
        b" " * LARGE,
        b"\xff\xd8" + b"\xff" * LARGE,
        b"\xff\xd8" + b"\xff\x01" * (LARGE // 2),
        b"\xff\xd8" + b"\xff\xe0\0\x02" * (LARGE // 4),
    ],
    ids=lambda data: repr(data[:20]),
)
def test_every_header_is_read_quickly(data: bytes) -> None:
    started_at = time.thread_time()
    read_image(data)
    assert time.thread_time() - started_at < 0.5


REAL_IMAGES = (
    create_image("PNG"),
    create_image("JPEG"),
    create_image("JPEG", progressive=True, exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0"),
    create_image("GIF"),
    create_image("WEBP"),
    create_image("WEBP", lossless=True),
    create_image("WEBP", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0"),
    b'<?xml version="1.0"?><!-- x --><!DOCTYPE svg [<!ENTITY a "b">]>'
    b"""<svg width="40px" height='30' viewBox="0, 0 4e1 30"><g/></svg>""",
)
#: Edits of a file: the position, the number of bytes to delete, and the bytes to insert.
EDITS = st.lists(
    st.tuples(st.integers(0, 300), st.integers(0, 4), st.binary(max_size=8)), max_size=8
)


@settings(max_examples=500)
@given(st.sampled_from(REAL_IMAGES), EDITS, st.integers(0, 400))
@example(create_image("PNG"), [(16, 4, b"\xff\xff\xff\xff")], 400)
def test_the_size_of_any_file_is_positive_or_none(
    data: bytes, edits: list[tuple[int, int, bytes]], end: int
) -> None:
    for at, cut, inserted in edits:
        data = data[:at] + inserted + data[at + cut :]
    for edited in (data, data[:end]):
        info = read_image(edited)
        if info is not None:
            assert info.width is None or 1 <= info.width < 2**32
            assert info.height is None or 1 <= info.height < 2**32
            assert info.pixels == (info.width or 0) * (info.height or 0) or (
                info.extension == "svg" and info.pixels == 0
            )

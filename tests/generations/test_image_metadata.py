"""The removal of metadata without changes of pixels, and the refusal of decompression bombs."""

import contextlib
import io
import struct
import time
import zlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageChops, ImageCms, PngImagePlugin

from picture_queue.generations.image_info import read_image
from picture_queue.generations.image_metadata import (
    MAX_PROFILE_BYTES,
    CleanedImage,
    clean_image,
    read_orientation,
)

SECRET = "SECRET-48.8584N"
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def exif_with(orientation: int | None) -> Image.Exif:
    exif = Image.Exif()
    exif[0x010E] = SECRET  # the description of the picture
    if orientation is not None:
        exif[0x0112] = orientation
    return exif


def create_picture() -> Image.Image:
    gradient = Image.linear_gradient("L").resize((61, 43))
    return Image.merge("RGB", (gradient, ImageChops.invert(gradient), gradient.rotate(180)))


def create_file(format_: str, animated: bool = False, **options: Any) -> bytes:
    if animated:
        others = [create_picture().rotate(angle) for angle in (90, 180)]
        options |= {"save_all": True, "append_images": others, "duration": 50, "loop": 0}
    out = io.BytesIO()
    create_picture().save(out, format_, **options)
    return out.getvalue()


def png_texts() -> PngImagePlugin.PngInfo:
    texts = PngImagePlugin.PngInfo()
    texts.add_text("parameters", SECRET)
    texts.add_text("workflow", SECRET * 50, zip=True)
    texts.add_itxt("XML:com.adobe.xmp", f"<x>{SECRET}</x>")
    texts.add_itxt("zipped", SECRET * 50, zip=True)
    return texts


def metadata_of(format_: str, orientation: int | None) -> dict[str, Any]:
    exif = exif_with(orientation)
    if format_ == "PNG":
        return {"pnginfo": png_texts(), "exif": exif, "icc_profile": SRGB}
    if format_ == "GIF":
        return {"comment": SECRET.encode()}
    xmp = f"<x>{SECRET}</x>".encode()
    comment = {"comment": SECRET.encode()} if format_ == "JPEG" else {}
    return {"exif": exif, "xmp": xmp, "icc_profile": SRGB, **comment}


def cleaned_bytes(data: bytes, extension: str, strip: bool = True) -> tuple[bytes, CleanedImage]:
    cleaned = clean_image(data, extension, strip)
    out = b"".join(cleaned.chunks(data, 1000))
    assert len(out) == cleaned.size
    return out, cleaned


def frames_of(data: bytes) -> list[bytes]:
    image = Image.open(io.BytesIO(data))
    frames = []
    for n in range(getattr(image, "n_frames", 1)):
        image.seek(n)
        frames.append(image.convert("RGBA").tobytes())
    return frames


FILES = [
    ("PNG", "png", False, {}),
    ("PNG", "png", True, {}),
    ("JPEG", "jpg", False, {}),
    ("JPEG", "jpg", False, {"progressive": True}),
    ("WEBP", "webp", False, {}),
    ("WEBP", "webp", False, {"lossless": True}),
    ("WEBP", "webp", True, {}),
    ("GIF", "gif", False, {}),
    ("GIF", "gif", True, {}),
]


@pytest.mark.parametrize("orientation", [None, 1, 6])
@pytest.mark.parametrize(("format_", "extension", "animated", "options"), FILES)
def test_metadata_is_removed_and_pixels_profile_and_orientation_are_kept(
    format_: str, extension: str, animated: bool, options: dict[str, Any], orientation: int | None
) -> None:
    data = create_file(format_, animated, **metadata_of(format_, orientation), **options)
    out, cleaned = cleaned_bytes(data, extension)
    assert len(out) < len(data)
    assert SECRET.encode() not in out
    assert zlib.compress(SECRET.encode() * 50)[:20] not in out
    assert frames_of(out) == frames_of(data)
    assert cleaned.frames == (3 if animated else 1)
    before, after = Image.open(io.BytesIO(data)), Image.open(io.BytesIO(out))
    assert after.info.get("icc_profile") == before.info.get("icc_profile")
    kept = {} if orientation in (None, 1) or format_ == "GIF" else {0x0112: orientation}
    assert dict(after.getexif()) == kept
    assert cleaned.orientation == kept.get(0x0112, 1)
    assert read_image(out) == read_image(data)
    assert cleaned_bytes(out, extension)[0] == out  # another pass changes nothing


@pytest.mark.parametrize(("format_", "extension", "animated", "options"), FILES)
def test_without_strip_a_file_is_unchanged(
    format_: str, extension: str, animated: bool, options: dict[str, Any]
) -> None:
    data = create_file(format_, animated, **metadata_of(format_, 6), **options)
    assert cleaned_bytes(data, extension, strip=False)[0] == data


@pytest.mark.parametrize("extension", ["png", "jpg", "webp", "gif"])
def test_bytes_after_the_end_of_the_picture_are_removed(extension: str) -> None:
    data = create_file({"jpg": "JPEG"}.get(extension, extension.upper()))
    out, _ = cleaned_bytes(data + b"<script>alert(1)</script>PK\x03\x04", extension)
    assert out == data


def chunk(kind: bytes, content: bytes) -> bytes:
    body = kind + content
    return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))


def insert_chunks(data: bytes, *chunks: bytes) -> bytes:
    """Insert chunks after the header of a PNG."""
    return data[:33] + b"".join(chunks) + data[33:]


BOMB = zlib.compress(bytes(200_000_000), 9)  # 200 KB


@pytest.mark.parametrize("strip", [True, False])
@pytest.mark.parametrize(
    "bomb",
    [
        chunk(b"iCCP", b"a\0\0" + BOMB),
        chunk(b"iCCP", b"a\0\0" + bytes(MAX_PROFILE_BYTES + 1)),
        chunk(b"iCCP", b"a\0\0no zlib"),
        chunk(b"zTXt", b"a\0\0" + BOMB),
        chunk(b"iTXt", b"a\0\1\0en\0a\0" + BOMB),
    ],
    ids=["profile", "long profile", "broken profile", "text", "international text"],
)
def test_a_chunk_that_expands_beyond_a_limit_is_removed(bomb: bytes, strip: bool) -> None:
    data = create_file("PNG")
    started_at = time.thread_time()
    out, _ = cleaned_bytes(insert_chunks(data, bomb), "png", strip)
    assert time.thread_time() - started_at < 1
    assert out == data


def test_huge_profiles_of_other_formats_are_removed() -> None:
    data = create_file("JPEG")
    parts = b"".join(
        b"\xff\xe2" + struct.pack(">H", 65_535) + b"ICC_PROFILE\0" + bytes([n, 200]) + bytes(65_519)
        for n in range(1, 201)
    )
    assert cleaned_bytes(data[:20] + parts + data[20:], "jpg", False)[0] == data
    webp = create_file("WEBP", icc_profile=SRGB + bytes(MAX_PROFILE_BYTES))
    out, _ = cleaned_bytes(webp, "webp")
    assert len(out) < 5000
    assert frames_of(out) == frames_of(webp)
    assert "icc_profile" not in Image.open(io.BytesIO(out)).info


def test_the_declared_frames_of_an_animation_are_counted() -> None:
    many = insert_chunks(create_file("PNG"), *[chunk(b"fcTL", bytes(26))] * 5000)
    assert cleaned_bytes(many, "png")[1].frames == 5000
    frame = b",\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0"
    gif = b"GIF89a\xff\xff\xff\xff\0\0\0" + frame * 7000 + b";"
    assert cleaned_bytes(gif, "gif")[1].frames == 7000


@pytest.mark.parametrize(
    ("extension", "data"),
    [
        ("png", create_file("PNG")[:33] + chunk(b"IEND", b"")),
        ("png", insert_chunks(create_file("PNG"), *[chunk(b"tEXt", b"a\0b")] * 150_000)),
        ("jpg", create_file("JPEG")[:20] + b"\xff\xd9"),
        ("jpg", b"\xff\xd8" + b"\xff\xe0\0\x02" * 150_000),
        ("jpg", create_file("JPEG")[:-2] + b"\xff\xda\0\x08\x01\x01\0\0?\0\0" * 200 + b"\xff\xd9"),
        ("webp", b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0" + bytes(10)),
        ("gif", b"GIF89a\x01\0\x01\0\0\0\0;"),
        ("gif", b"GIF89a\x01\0"),
        ("gif", b"GIF89a\x01\0\x01\0\0\0\0!\xfe" + b"\x01a" * 1_500_000 + b"\0;"),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{len(value)} bytes",
)
def test_files_without_pixels_or_with_too_many_parts_are_refused(
    extension: str, data: bytes
) -> None:
    with pytest.raises(ValueError, match=r"no pixels|over \d+ (parts|scans|blocks)|its header"):
        clean_image(data, extension)


@pytest.mark.parametrize("extension", ["png", "jpg", "webp"])
def test_a_truncated_file_is_stored_in_part(extension: str) -> None:
    data = create_file({"jpg": "JPEG"}.get(extension, extension.upper()))
    data = data[: len(data) * 3 // 4]
    out, _ = cleaned_bytes(data, extension)
    assert out[12:] == data[12:]


#: The size of a file in bytes. A parser in quadratic time takes seconds or minutes for such files.
LARGE = 3_000_000


@pytest.mark.parametrize(
    ("extension", "data"),
    [
        ("jpg", b"\xff\xd8" + b"\xff" * LARGE + b"\0"),
        ("jpg", b"\xff\xd8\xff\xda\0\x02" + b"\xff\0" * (LARGE // 2)),
        ("jpg", b"\xff\xd8\xff\xda\0\x02" + b"\xff\x01" * (LARGE // 2)),
        ("png", create_file("PNG")[:8] + bytes(LARGE)),
        ("png", create_file("PNG")[:8] + chunk(b"IDAT", b"") * (LARGE // 12)),
        ("webp", b"RIFF\xff\xff\xff\0WEBP" + bytes(LARGE)),
        ("gif", b"GIF89a\x01\0\x01\0\0\0\0" + b"!\xfe\0" * (LARGE // 3)),
        ("gif", b"GIF89a\x01\0\x01\0\0\0\0!\xfe" + b"\x01a" * (LARGE // 2)),
    ],
    ids=lambda value: value if isinstance(value, str) else repr(value[:20]),
)
def test_every_file_is_cleaned_in_linear_time(extension: str, data: bytes) -> None:
    started_at = time.thread_time()
    with contextlib.suppress(ValueError):
        clean_image(data, extension)
    assert time.thread_time() - started_at < 1.5


@pytest.mark.parametrize(
    ("exif", "orientation"),
    [
        (b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x08\0\0", 8),
        (b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x03\0\0\0", 3),
        (b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x63\0\0", 1),
        (b"MM\0*\xff\xff\xff\xff", 1),
        (b"MM\0*\0\0\0\x08\xff\xff", 1),
        (b"MM", 1),
        (b"", 1),
        (b"nonsense", 1),
    ],
)
def test_the_orientation_is_read_from_any_exif(exif: bytes, orientation: int) -> None:
    assert read_orientation(exif) == orientation


REAL_FILES = [
    (extension, create_file(format_, animated, **metadata_of(format_, 6)))
    for format_, extension, animated, _ in FILES
]
#: Edits of a file: the position, the number of bytes to delete, and the bytes to insert.
EDITS = st.lists(
    st.tuples(st.integers(0, 4000), st.integers(0, 9), st.binary(max_size=9)), max_size=8
)


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(REAL_FILES), EDITS)
def test_any_damaged_file_is_refused_or_stored_in_part(
    file: tuple[str, bytes], edits: list[tuple[int, int, bytes]]
) -> None:
    extension, data = file
    for at, cut, inserted in edits:
        data = data[:at] + inserted + data[at + cut :]
    try:
        cleaned = clean_image(data, extension)
    except ValueError:
        return
    assert cleaned.frames >= 1
    assert 1 <= cleaned.orientation <= 8
    assert sum(map(len, cleaned.chunks(data))) == cleaned.size <= len(data) + 100

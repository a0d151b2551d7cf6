"""Thumbnails are made in a separate process, so that a picture cannot block or end the worker."""

import asyncio
import io
import logging
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from blurhash import decode
from PIL import Image, ImageCms

from picture_queue.generations import thumbnails as module
from picture_queue.generations.thumbnail_process import make_thumbnail
from picture_queue.generations.thumbnails import ThumbnailMaker


@pytest.fixture
async def maker() -> AsyncIterator[ThumbnailMaker]:
    maker = ThumbnailMaker(64)
    yield maker
    maker.close()


def create_file(
    format_: str, size: tuple[int, int] = (300, 200), mode: str = "RGB", **options: Any
) -> bytes:
    picture = Image.new("RGB", size, (220, 30, 30))
    picture.paste((30, 30, 220), (0, 0, size[0] // 2, size[1]))  # blue on the left
    out = io.BytesIO()
    picture.convert(mode).save(out, format_, **options)
    return out.getvalue()


def rotated() -> dict[str, Any]:
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: turned by a right angle
    return {"exif": exif}


@pytest.mark.parametrize(
    ("data", "size"),
    [
        (create_file("PNG"), (64, 43)),
        (create_file("JPEG"), (64, 43)),
        (create_file("JPEG", (3000, 2000)), (64, 43)),
        (create_file("WEBP"), (64, 43)),
        (create_file("GIF"), (64, 43)),
        (create_file("PNG", (20, 10)), (20, 10)),
        (create_file("PNG", (1, 900)), (1, 64)),
        (create_file("PNG", mode="RGBA"), (64, 43)),
        (create_file("PNG", mode="P"), (64, 43)),
        (create_file("JPEG", mode="CMYK"), (64, 43)),
        (create_file("JPEG", **rotated()), (43, 64)),
        (create_file("PNG", **rotated()), (43, 64)),
        (
            create_file("PNG", icc_profile=ImageCms.ImageCmsProfile(
                ImageCms.createProfile("sRGB")).tobytes()),
            (64, 43),
        ),
        (create_file("PNG", icc_profile=b"not a profile"), (64, 43)),
    ],
)  # fmt: skip
async def test_a_thumbnail_shows_the_picture(
    maker: ThumbnailMaker, data: bytes, size: tuple[int, int]
) -> None:
    made = await maker.make([data[:99], data[99:]], len(data))
    assert made is not None
    thumbnail = Image.open(io.BytesIO(made.data))
    assert (thumbnail.format, thumbnail.size) == ("WEBP", size)
    assert set(thumbnail.info).isdisjoint({"exif", "icc_profile", "xmp"})
    colours = thumbnail.convert("RGB")
    if min(size) > 10:
        first, last = colours.getpixel((2, 2)), colours.getpixel((size[0] - 3, size[1] - 3))
        assert first != last
    assert make_thumbnail(data, 64, 10_000_000) == (made.data, made.blurhash)
    rows = decode(made.blurhash, 8, 8)
    assert len(made.blurhash) == 28
    assert len(rows) == 8


@pytest.mark.parametrize("mode", ["I;16", "1", "L", "LA"])
async def test_pictures_without_colours_get_a_thumbnail(maker: ThumbnailMaker, mode: str) -> None:
    out = io.BytesIO()
    Image.linear_gradient("L").convert("I;16" if mode == "I;16" else mode).save(out, "PNG")
    made = await maker.make([out.getvalue()], len(out.getvalue()))
    assert made is not None
    assert Image.open(io.BytesIO(made.data)).size == (64, 64)
    assert make_thumbnail(out.getvalue(), 64, 10_000_000) == (made.data, made.blurhash)


def bomb(side: int) -> bytes:
    """Return a small PNG that decodes to 3 times ``side`` squared bytes."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    rows = zlib.compressobj(9)
    data = b"".join(rows.compress(bytes(1 + side * 3)) for _ in range(side)) + rows.flush()
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    end = chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + end


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"nonsense",
        create_file("PNG")[:150],
        create_file("BMP"),
        create_file("TIFF"),
        create_file("PNG")[:40] + bytes(500),
        bomb(8001),
    ],
    ids=lambda data: repr(data[:12]),
)
async def test_a_picture_that_cannot_be_decoded_gets_no_thumbnail_and_the_next_does(
    maker: ThumbnailMaker, data: bytes
) -> None:
    assert await maker.make([data], len(data)) is None
    good = create_file("PNG")
    assert await maker.make([good], len(good)) is not None


async def test_the_memory_of_the_process_is_limited(
    maker: ThumbnailMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MEMORY", 200 * 1024**2)
    data = bomb(7900)  # 187 MB of pixels
    assert await maker.make([data], len(data)) is None
    good = create_file("PNG")
    assert await maker.make([good], len(good)) is not None


async def test_a_picture_that_takes_too_long_gets_no_thumbnail(
    caplog: pytest.LogCaptureFixture,
) -> None:
    maker = ThumbnailMaker(64, timeout=2.0)
    try:
        good = create_file("PNG")
        assert await maker.make([good], len(good)) is not None
        started_at = time.monotonic()
        # The process waits for a last byte that is never sent, until its timeout of 2 seconds.
        assert await maker.make([good], len(good) + 1) is None
        assert 1.5 < time.monotonic() - started_at < 10
        assert await maker.make([good], len(good)) is not None
    finally:
        maker.close()


async def test_the_event_loop_is_not_blocked(maker: ThumbnailMaker) -> None:
    data = bomb(6000)
    longest_gap, last = 0.0, time.perf_counter()
    task = asyncio.ensure_future(maker.make([data], len(data)))
    while not task.done():
        await asyncio.sleep(0.001)
        longest_gap, last = max(longest_gap, time.perf_counter() - last), time.perf_counter()
    assert task.result() is not None
    assert longest_gap < 0.25  # 0.01 s on an idle machine; decoding in this process takes 0.5 s


async def test_a_killed_process_is_replaced(maker: ThumbnailMaker) -> None:
    good = create_file("PNG")
    assert await maker.make([good], len(good)) is not None
    (process,) = maker._processes
    process._process.kill()
    process._process.wait()
    assert await maker.make([good], len(good)) is not None


async def test_no_process_remains_after_close_and_the_maker_can_be_used_again(
    maker: ThumbnailMaker,
) -> None:
    good = create_file("PNG")
    assert await maker.make([good], len(good)) is not None
    processes = [process._process for process in maker._processes]
    maker.close()
    assert all(process.poll() is not None for process in processes)
    assert await maker.make([good], len(good)) is not None


async def test_the_process_gets_no_secrets(
    maker: ThumbnailMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REPLICATE_API_TOKEN", "r8_secret")
    monkeypatch.setenv("SUPABASE_SERVICE_ROLE_KEY", "secret")
    environment: dict[str, str] = {}
    start_process = subprocess.Popen

    def record_environment(*args: Any, **options: Any) -> Any:
        environment.update(options["env"])
        return start_process(*args, **options)

    monkeypatch.setattr(module.subprocess, "Popen", record_environment)
    good = create_file("PNG")
    assert await maker.make([good], len(good)) is not None
    assert "PYTHONPATH" in environment
    assert not any("secret" in value for value in environment.values())


async def test_the_process_ends_with_the_worker() -> None:
    program = """
import asyncio, os, sys
from picture_queue.generations.thumbnail_process import make_thumbnail
from picture_queue.generations.thumbnails import ThumbnailMaker
async def main():
    maker = ThumbnailMaker(64)
    data = open(sys.argv[1], "rb").read()
    assert await maker.make([data], len(data))
    print(*(process._process.pid for process in maker._processes), flush=True)
    os.kill(os.getpid(), 9)
asyncio.run(main())
"""
    image = Path(__file__).parents[2] / "docs" / "images" / "browser.webp"
    worker = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, str(image), stdout=subprocess.PIPE
    )
    out, _ = await worker.communicate()
    process = psutil.Process(int(out)) if psutil.pid_exists(int(out)) else None
    if process is not None:
        await asyncio.to_thread(psutil.wait_procs, [process], timeout=20)
        assert not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("missing", ["PIL", "blurhash"])
async def test_a_missing_package_is_logged_once(
    missing: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None if name == missing else object())
    maker = ThumbnailMaker()
    assert await maker.make([b"x"], 1) is None
    assert await maker.make([b"x"], 1) is None
    (record,) = [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert "picture-queue[thumbnails]" in record.getMessage()


@pytest.mark.parametrize("program", ["/no/such/python", "/bin/true", "/bin/cat"])
async def test_a_python_that_does_not_start_is_reported_once(
    program: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sys, "executable", program)
    maker = ThumbnailMaker()
    try:
        assert await maker.make([b"x"], 1) is None
        assert await maker.make([b"x"], 1) is None
    finally:
        maker.close()
    (record,) = [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert "stored without thumbnails" in record.getMessage()


async def test_size_0_turns_thumbnails_off(caplog: pytest.LogCaptureFixture) -> None:
    maker = ThumbnailMaker(0)
    assert await maker.make([create_file("PNG")], 1) is None
    assert not caplog.records
    assert not maker._processes

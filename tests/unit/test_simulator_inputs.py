"""Input pictures of the simulator: their sources, refused URLs, and the changes of each model."""

import base64
import io
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from PIL import Image

from picture_queue.local.simulator import SimulatorSettings, inputs
from picture_queue.local.simulator.edits import change
from picture_queue.local.simulator.scene import PictureSpec
from picture_queue.local.simulator.uploads import MAX_FILE_BYTES
from picture_queue.providers.replicate.catalog import models

from ..simulator import Clock, open_simulator

STORAGE = "http://127.0.0.1:54321"
UPSCALER = "nightmareai/real-esrgan"


def png(size: tuple[int, int] = (48, 32), mode: str = "RGB") -> bytes:
    """Return a blue picture with a red rectangle in the middle."""
    out = io.BytesIO()
    picture = Image.new(mode, size, (30, 60, 200))
    picture.paste((220, 60, 40), (16, 8, 32, 24))
    picture.save(out, "PNG")
    return out.getvalue()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def http(clock: Clock) -> AsyncIterator[httpx.AsyncClient]:
    settings = SimulatorSettings(storage_url=STORAGE, token="r8_test")
    async with open_simulator(settings, clock, {"authorization": "Bearer r8_test"}) as client:
        yield client


@pytest.fixture
def requested_urls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The URLs that the simulator requests; a fake download returns a picture for each."""
    urls: list[str] = []

    async def download(url: str) -> bytes | None:
        urls.append(url)
        return png()

    monkeypatch.setattr(inputs, "_download", download)
    return urls


async def upscale(http: httpx.AsyncClient, clock: Clock, url: str) -> tuple[int, int]:
    """Return the size of the picture that an upscaler creates from the picture at a URL."""
    body = {"version": models()[UPSCALER].version, "input": {"image": url, "scale": 2}}
    answer = await http.post("/v1/predictions", json=body)
    assert answer.status_code == 201, answer.text
    clock.now += 60
    ended = (await http.get(answer.json()["urls"]["get"])).json()
    with Image.open(io.BytesIO((await http.get(ended["output"])).content)) as picture:
        return picture.size


@pytest.mark.parametrize(
    "url",
    [
        f"{STORAGE}/storage/v1/object/sign/pictures/a.png?token=x",
        "http://localhost:54321/storage/v1/object/public/pictures/a.png",
    ],
)
async def test_a_picture_in_the_storage_of_the_stack_is_read(
    http: httpx.AsyncClient, clock: Clock, requested_urls: list[str], url: str
) -> None:
    assert await upscale(http, clock, url) == (96, 64)
    assert requested_urls == [url]


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com/storage/v1/object/public/a.png",
        "http://127.0.0.1:5432/storage/v1/object/public/a.png",
        "http://127.0.0.1:54321/auth/v1/admin/users",
        "http://127.0.0.1:54321/storage/v1/object/../../../_faults",
        "http://127.0.0.1:54321/storage/v1/object/%2e%2e/%2e%2e/bucket",
        "http://169.254.169.254/latest/meta-data",
        "file:///etc/passwd",
        "http://[",
        "http://127.0.0.1:99999/storage/v1/object/a.png",
        "not a URL",
    ],
)
async def test_a_url_outside_of_the_stacks_storage_is_not_requested(
    http: httpx.AsyncClient, clock: Clock, requested_urls: list[str], url: str
) -> None:
    assert await upscale(http, clock, url) == (1024, 1024), "the output is a drawing"
    assert requested_urls == []


async def test_data_uris_uploads_and_earlier_outputs_are_read(
    http: httpx.AsyncClient, clock: Clock
) -> None:
    uri = f"data:image/png;base64,{base64.b64encode(png()).decode()}"
    assert await upscale(http, clock, uri) == (96, 64)
    answer = await http.post("/v1/files", files={"content": ("a.png", png((20, 10)), "image/png")})
    assert answer.status_code == 201
    assert await upscale(http, clock, answer.json()["urls"]["get"]) == (40, 20)
    body = {"input": {"prompt": "a boat", "megapixels": "0.25"}}
    created = await http.post("/v1/models/black-forest-labs/flux-schnell/predictions", json=body)
    clock.now += 60
    earlier = (await http.get(created.json()["urls"]["get"])).json()["output"][0]
    assert await upscale(http, clock, earlier) == (1024, 1024)


@pytest.mark.parametrize("data", [b"", b"<svg/>", b"\x89PNG\r\n\x1a\n", png()[:60]])
def test_a_source_that_is_not_a_picture_is_not_changed(data: bytes) -> None:
    assert change(data, "upscale", PictureSpec("", 1), 2.0) is None


def test_a_source_with_too_many_pixels_is_not_changed() -> None:
    out = io.BytesIO()
    Image.new("1", (8000, 8000)).save(out, "PNG")
    assert change(out.getvalue(), "upscale", PictureSpec("", 1), 2.0) is None


def test_the_kind_of_the_model_chooses_the_change_of_the_picture() -> None:
    def changed(kind: str, spec: PictureSpec) -> Any:
        data = change(png(), kind, spec, 3.0)
        assert data is not None
        return data if spec.format == "svg" else Image.open(io.BytesIO(data)).convert("RGBA")

    spec = PictureSpec("a boat", 1)
    assert changed("upscale", spec).size == (144, 96)
    alpha = changed("background-removal", spec).getchannel("A")
    assert (alpha.getpixel((1, 1)), alpha.getpixel((24, 16))) == (0, 255)
    edited = changed("image-edit", spec)
    assert edited.size == (48, 32)
    assert edited.getpixel((1, 1))[:3] != (30, 60, 200)
    svg = changed("vector", PictureSpec("", 1, format="svg"))
    assert svg.startswith(b"<svg") and b"#dc3c28" in svg


@pytest.mark.parametrize(
    ("options", "status"),
    [
        ({"json": {"content": "x"}}, 422),
        ({"data": {"content": "text"}}, 422),
        ({"files": {"other": ("a.png", b"x")}}, 422),
        ({"files": {"content": ("a" * 300, b"x")}}, 422),
        ({"files": {"content": ("a", b"x")}, "data": {"metadata": "[1]"}}, 422),
        ({"files": {"content": ("a", b"x"), "more": ("b", b"x")}}, 400),
        ({"content": b"x", "headers": {"content-type": "multipart/form-data"}}, 400),
        ({"content": b"x", "headers": {"content-type": "multipart/form-data; boundary=a"}}, 400),
        ({"files": {"content": ("a", bytes(MAX_FILE_BYTES + 1))}}, 413),
        ({"files": {"content": ("a", bytes(MAX_FILE_BYTES + 100_000))}}, 413),
    ],
    ids=[
        *("JSON", "text as content", "no content", "long name", "metadata is a list"),
        *("two files", "no boundary", "empty form", "large file", "large body"),
    ],
)
async def test_an_invalid_upload_is_refused(
    http: httpx.AsyncClient, options: dict[str, Any], status: int
) -> None:
    answer = await http.post("/v1/files", **options)
    assert answer.status_code == status, answer.text
    assert (await http.get("/v1/files")).json()["results"] == []


async def test_uploads_expire_after_a_day_and_the_oldest_are_deleted_above_100_mb(
    http: httpx.AsyncClient, clock: Clock
) -> None:
    for number in range(6):
        files = {"content": (f"{number}.bin", bytes(MAX_FILE_BYTES))}
        assert (await http.post("/v1/files", files=files)).status_code == 201
    names = [file["name"] for file in (await http.get("/v1/files")).json()["results"]]
    assert names == ["5.bin", "4.bin", "3.bin", "2.bin", "1.bin"]
    clock.now += 86_401
    assert (await http.get("/v1/files")).json()["results"] == []

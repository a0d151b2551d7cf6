"""The check of uploaded files before a provider gets their URLs."""

import io
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from picture_queue.generations.input_files import sign_files
from picture_queue.providers.errors import InputRejected


def create_picture(format_: str) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (20, 20), "red").save(out, format_)
    return out.getvalue()


class _OneFileStore:
    """A store with one file, which every path names."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    async def read_file(self, path: str) -> bytes:
        return self._data

    async def sign_file(self, path: str, seconds: int) -> str:
        return f"http://storage/{path}"


async def sign(data: bytes) -> dict[str, Any]:
    begun: Any = SimpleNamespace(
        prediction=SimpleNamespace(input={"image": "storage:uploads/a"}),
        model=SimpleNamespace(file_inputs=frozenset({"image"})),
    )
    store: Any = _OneFileStore(data)
    return await sign_files(store, begun, seconds=60, max_pixels=1000)


@pytest.mark.parametrize("format_", ["PNG", "JPEG", "WEBP"])
async def test_an_uploaded_picture_is_signed(format_: str) -> None:
    assert await sign(create_picture(format_)) == {"image": "http://storage/uploads/a"}


@pytest.mark.parametrize(
    "data",
    [create_picture("GIF"), b'<svg width="9" height="9"/>', b"text"],
    ids=["gif", "svg", "text"],
)
async def test_an_upload_of_another_type_is_refused(data: bytes) -> None:
    with pytest.raises(InputRejected, match="is not a PNG, JPEG or WebP picture"):
        await sign(data)

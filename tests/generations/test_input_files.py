"""The check of uploaded files before a provider gets their URLs."""

import io
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from PIL import Image

from picture_queue.generations.input_files import name_files, sign_files
from picture_queue.providers.errors import InputRejected


def create_picture(format_: str) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (20, 20), "red").save(out, format_)
    return out.getvalue()


class _OneFileStore:
    """A store with one file, which every path names."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._copies: set[str] = set()

    async def read_file(self, path: str) -> bytes:
        return self._data

    async def upload(self, path: str, content: bytes, content_type: str) -> None:
        assert content == self._data and content_type.startswith("image/")
        self._copies.add(f"pictures/{path}")

    async def sign_file(self, path: str, seconds: int) -> str:
        assert path in self._copies or (path.startswith("pictures/") and "inputs" not in path)
        return f"http://storage/{path}"

    def file_url(self, path: str) -> str:
        return f"http://storage/{path}"


USER = UUID(int=1)
OTHER = UUID(int=2)
GENERATION = UUID(int=3)
GENERATION_FOLDER = f"{USER}/{GENERATION}"


async def sign_value(
    value: Any, data: bytes = b"", user: UUID | None = USER, operator_files: tuple[str, ...] = ()
) -> Any:
    begun: Any = SimpleNamespace(
        generation=SimpleNamespace(user_id=user, id=GENERATION),
        prediction=SimpleNamespace(input={"image": value, "text": value}),
        model=SimpleNamespace(file_inputs=frozenset({"image"})),
    )
    store: Any = _OneFileStore(data or create_picture("PNG"))
    signed = await sign_files(
        store, begun, seconds=60, max_pixels=1000, operator_files=operator_files
    )
    assert signed["text"] == value  # only declared inputs are signed
    assert signed == name_files(store, begun)  # the search for a lost prediction compares these
    return signed["image"]


async def sign(data: bytes) -> dict[str, Any]:
    return {"image": await sign_value(f"storage:uploads/{USER}/a", data)}


@pytest.mark.parametrize("format_", ["PNG", "JPEG", "WEBP"])
async def test_a_copy_of_an_uploaded_picture_is_signed(format_: str) -> None:
    copy = f"http://storage/pictures/{GENERATION_FOLDER}/inputs/{USER}/a"
    assert await sign(create_picture(format_)) == {"image": copy}


@pytest.mark.parametrize(
    "data",
    [create_picture("GIF"), b'<svg width="9" height="9"/>', b"text"],
    ids=["gif", "svg", "text"],
)
async def test_an_upload_of_another_type_is_refused(data: bytes) -> None:
    with pytest.raises(InputRejected, match="is not a PNG, JPEG or WebP picture"):
        await sign(data)


@pytest.mark.parametrize(
    "path",
    [
        f"secrets/{USER}/a.png",
        f"uploads/{USER}/../{OTHER}/a.png",
        f"uploads/{USER}/../../secrets/a.png",
        f"uploads/{USER}/./a.png",
        f"uploads/{USER}//a.png",
        f"uploads/{USER}/%2e%2e/a.png",
        f"uploads/{USER}/a.png?download",
        f"uploads/{USER}/a.png\n",
        f"uploads/{USER}/{'a' * 500}.png",
        "uploads/a.png",
        "",
    ],
)
@pytest.mark.parametrize("user", [USER, None])
async def test_only_plain_paths_of_the_two_buckets_are_signed(path: str, user: Any) -> None:
    for files in ((), ("image",)):
        with pytest.raises(InputRejected, match="is not a file of the buckets"):
            await sign_value(f"storage:{path}", user=user, operator_files=files)


@pytest.mark.parametrize("bucket", ["uploads", "pictures"])
async def test_files_of_other_users_are_not_signed(bucket: str) -> None:
    def signed(name: str, owner: object = USER) -> str:
        """Return the URL of a picture, or of the copy of an uploaded file."""
        copies = f"{owner}/{GENERATION}/inputs/" if bucket == "uploads" else ""
        return f"http://storage/pictures/{copies}{name}"

    own, foreign = f"{USER}/1/a.png", f"{OTHER}/1/a.png"
    file = f"storage:{bucket}/"
    for value in (file + foreign, [file + own, file + foreign]):
        with pytest.raises(InputRejected, match="does not belong to the user"):
            await sign_value(value)
    assert await sign_value(file + own) == signed(own)
    assert await sign_value([file + own, file + own]) == [signed(own)] * 2
    assert await sign_value(file + foreign, operator_files=("image",)) == signed(foreign)
    assert await sign_value(file + foreign, user=None) == signed(foreign, "shared")


async def test_files_inside_of_other_values_are_not_signed() -> None:
    nested = [[f"storage:pictures/{OTHER}/1/a.png"], {"a": f"storage:pictures/{OTHER}/1/a.png"}]
    assert await sign_value(nested) == nested

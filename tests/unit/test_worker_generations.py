"""Uploads: what is worth repeating, and the names of what is not."""

from types import SimpleNamespace
from typing import Any
from uuid import UUID

import httpx
import pytest
from storage3.exceptions import StorageApiError
from tenacity import wait_none

from picture_queue import Busy, ConnectionFailed, NotAllowed
from picture_queue._transport.api_errors import translate_error
from picture_queue.worker import generations
from picture_queue.worker.generations import ProjectStore


class Bucket:
    """A bucket that fails as it is told, then takes what it gets."""

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)
        self.uploads: list[tuple[str, bytes, dict[str, str]]] = []

    async def upload(self, path: str, data: bytes, options: dict[str, str]) -> None:
        self.uploads.append((path, data, options))
        if self.failures:
            raise self.failures.pop(0)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setitem(generations.RETRY_POLICY, "wait", wait_none())


def store_of(bucket: Bucket) -> ProjectStore:
    async def client() -> Any:
        return SimpleNamespace(storage=SimpleNamespace(from_=lambda name: bucket))

    project: Any = SimpleNamespace(
        client=client, translate_error=lambda error: translate_error(error, "http://x")
    )
    return ProjectStore(project, UUID(int=1), UUID(int=2))


@pytest.mark.parametrize(
    "failure",
    [
        httpx.ConnectError("refused"),
        httpx.ReadTimeout("slow"),
        StorageApiError("down", "x", 503),
        StorageApiError("slow down", "x", 429),
    ],
)
async def test_an_upload_is_repeated_over_the_same_path(failure):
    bucket = Bucket(failure, failure)
    await store_of(bucket).upload("u/g/1.png", b"png", "image/png")
    assert (
        bucket.uploads
        == [("u/g/1.png", b"png", {"content-type": "image/png", "upsert": "true"})] * 3
    )


@pytest.mark.parametrize(
    ("failure", "error"),
    [
        (httpx.ConnectError("refused"), ConnectionFailed),
        (StorageApiError("down", "x", 503), Busy),
    ],
)
async def test_repeating_an_upload_has_an_end(failure, error):
    bucket = Bucket(*[failure] * 99)
    with pytest.raises(error):
        await store_of(bucket).upload("u/g/1.png", b"png", "image/png")
    assert len(bucket.uploads) == 4


async def test_a_refused_upload_is_not_repeated():
    bucket = Bucket(StorageApiError("no", "x", 403))
    with pytest.raises(NotAllowed):
        await store_of(bucket).upload("u/g/1.png", b"png", "image/png")
    assert len(bucket.uploads) == 1

"""Calls to Supabase Storage: their deadlines, retries and errors."""

import asyncio
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from picture_queue import AsyncPictureQueue, PictureQueue, errors
from picture_queue.generations.image_metadata import CleanedImage
from picture_queue.generations.picture_file import PictureContent
from picture_queue.generations.store import GenerationStore, expect_storage
from picture_queue.records import Image
from tests.client.api import Answer, Api, hang, send_endlessly

IMAGE = Image(
    id=UUID(int=1),
    generation_id=UUID(int=2),
    n=1,
    path="some body/a#b?.png",
    mime_type="image/png",
    width=1,
    height=1,
    bytes=3,
    created_at=datetime(2026, 1, 1, tzinfo=UTC),
)
OBJECT_PATH = "object/pictures/some%20body/a%23b%3F.png"
SIGN_PATH = f"object/sign/{OBJECT_PATH.removeprefix('object/')}"


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    monkeypatch.setattr("picture_queue._transport.base._backoff", lambda state: 0.0)
    with Api().serving() as running:
        yield running


def storage_error(status: int) -> Answer:
    """Return an error response of Storage, which sends 400 for errors of the caller.

    The body has the status of the error.
    """
    body = {"statusCode": str(status), "error": "x", "message": "no"}
    return Answer(400 if status < 500 else status, json.dumps(body).encode())


def download(api: Api, timeout: float) -> bytes:
    with PictureQueue(api.url, "key", timeout=timeout) as pq:
        return pq.generations.download(IMAGE)


def download_async(api: Api, timeout: float) -> bytes:
    async def use() -> bytes:
        async with AsyncPictureQueue(api.url, "key", timeout=timeout) as pq:
            return await pq.generations.download(IMAGE)

    return asyncio.run(use())


def upload(api: Api, timeout: float) -> None:
    async def use() -> None:
        async with AsyncPictureQueue(api.url, "key", timeout=timeout) as pq:
            store = GenerationStore(pq._backend, UUID(int=1), UUID(int=2))
            await store.upload(IMAGE.path, b"png", "image/png")

    asyncio.run(use())


def sign(api: Api, timeout: float) -> str:
    with PictureQueue(api.url, "key", timeout=timeout) as pq:
        return pq.generations.url(IMAGE, expires_in=60)


SIGN_RESPONSE = json.dumps({"signedURL": f"/{SIGN_PATH}?token=t"}).encode()
#: Each call, its expected request, and the body of a successful response.
CALLS: list[tuple[Callable[[Api, float], Any], str, bytes]] = [
    (download, f"GET /storage/v1/{OBJECT_PATH}", b"png"),
    (download_async, f"GET /storage/v1/{OBJECT_PATH}", b"png"),
    (upload, f"POST /storage/v1/{OBJECT_PATH}", b"{}"),
    (sign, f"POST /storage/v1/{SIGN_PATH}", SIGN_RESPONSE),
]


@pytest.mark.parametrize(("call", "path", "body"), CALLS)
@pytest.mark.parametrize(
    "failure",
    [
        storage_error(503),
        storage_error(429),
        Answer(502, b"<html>"),
        Answer(write=lambda handler: handler.connection.shutdown(2)),
    ],
)
def test_a_call_that_failed_is_retried(api, call, path, body, failure):
    api.answers = [failure, failure, Answer(body=body)]
    result = call(api, 10)
    assert api.paths == [path] * 3
    if call is sign:
        assert result == f"{api.url}/storage/v1/{SIGN_PATH}?token=t"
    elif call is upload:
        headers, sent = api.received
        assert sent == b"png"
        assert (headers["content-type"], headers["x-upsert"]) == ("image/png", "true")
        assert headers["authorization"] == "Bearer key"
    else:
        assert result == b"png"


@pytest.mark.parametrize(("call", "path", "body"), CALLS)
def test_the_number_of_retries_is_limited(api, call, path, body):
    api.answers = [storage_error(503)] * 9
    with pytest.raises(errors.Busy, match="Storage refused: no"):
        call(api, 10)
    assert len(api.paths) == 4


@pytest.mark.parametrize(("call", "path", "body"), CALLS)
@pytest.mark.parametrize(
    ("status", "error"),
    [(403, errors.NotAllowed), (404, errors.NotFound), (413, errors.TooLarge)],
)
def test_a_refused_call_is_not_retried(api, call, path, body, status, error):
    api.answers = [storage_error(status)]
    with pytest.raises(error, match="Storage refused: no"):
        call(api, 10)
    assert len(api.paths) == 1


@pytest.mark.parametrize("call", [download, download_async, sign])
@pytest.mark.parametrize("write", [hang, send_endlessly])
def test_a_response_that_never_ends_is_abandoned_at_the_timeout(api, call, write):
    api.answers = [Answer(write=write)] * 9
    with pytest.raises(errors.ConnectionFailed, match=r"no answer in 0\.4 s"):
        call(api, 0.4)


def test_a_signed_url_of_an_unexpected_type_is_a_library_error(api):
    api.answers = [Answer(body=b"[]")]
    with pytest.raises(errors.UnreadableAnswer):
        sign(api, 10)


async def test_a_bucket_that_the_key_cannot_see_is_a_settings_error(api):
    api.answers = [storage_error(404)]
    async with AsyncPictureQueue(api.url, "key") as pq:
        with pytest.raises(errors.SettingsError, match="cannot read the bucket pictures"):
            await expect_storage(pq)
        assert api.paths == ["GET /storage/v1/bucket/pictures"]
        await expect_storage(pq)


IMAGE_WITH_THUMBNAIL = IMAGE.model_copy(update={"thumbnail_path": "a/1.thumbnail.webp"})


def test_the_picture_is_downloaded_if_it_has_no_thumbnail(api, tmp_path):
    api.answers = [Answer(body=b"small"), Answer(body=b"large"), Answer(body=b"small")]
    with PictureQueue(api.url, "key") as pq:
        assert pq.generations.download(IMAGE_WITH_THUMBNAIL, thumbnail=True) == b"small"
        assert pq.generations.download(IMAGE, thumbnail=True) == b"large"
        saved = pq.generations.save(IMAGE_WITH_THUMBNAIL, tmp_path / "a.webp", thumbnail=True)
    assert saved.read_bytes() == b"small"
    assert api.paths == [
        "GET /storage/v1/object/pictures/a/1.thumbnail.webp",
        f"GET /storage/v1/{OBJECT_PATH}",
        "GET /storage/v1/object/pictures/a/1.thumbnail.webp",
    ]


def test_urls_of_several_pictures_are_signed_in_one_call(api):
    signed = [
        {"path": "a/1.thumbnail.webp", "signedURL": "/object/sign/t?token=1", "error": None},
        {"path": IMAGE.path, "signedURL": None, "error": "Either the object does not exist"},
    ]
    api.answers = [Answer(body=json.dumps(signed).encode())]
    with PictureQueue(api.url, "key") as pq:
        urls = pq.generations.urls(
            [IMAGE_WITH_THUMBNAIL, IMAGE, IMAGE_WITH_THUMBNAIL],
            thumbnail=True,
            expires_in=60,
            download=True,
        )
        assert pq.generations.urls([]) == []
    first = f"{api.url}/storage/v1/object/sign/t?token=1&download="
    assert urls == [first, None, first]
    assert api.paths == ["POST /storage/v1/object/sign/pictures"]
    assert json.loads(api.received[1]) == {
        "paths": ["a/1.thumbnail.webp", IMAGE.path, "a/1.thumbnail.webp"],
        "expiresIn": 60,
    }


def test_a_url_can_ask_for_a_download(api):
    api.answers = [Answer(body=SIGN_RESPONSE)]
    with PictureQueue(api.url, "key") as pq:
        url = pq.generations.url(IMAGE, download=True)
    assert url == f"{api.url}/storage/v1/{SIGN_PATH}?token=t&download="


async def test_a_large_picture_is_sent_in_parts_and_again_after_a_failure(api):
    """The request declares its length, because Storage limits only the size of such requests."""
    data = bytes(range(256)) * 20_000
    content = PictureContent(data, CleanedImage([(0, 5_000_000), b"end"], 1, 1))
    api.answers = [storage_error(503), Answer(body=b"{}")]
    async with AsyncPictureQueue(api.url, "key") as pq:
        store = GenerationStore(pq._backend, UUID(int=1), UUID(int=2))
        await store.upload(IMAGE.path, content, "image/png")
    headers, sent = api.received
    assert sent == data[:5_000_000] + b"end"
    assert headers["content-length"] == "5000003"
    assert "transfer-encoding" not in headers
    assert len(api.paths) == 2

"""Pictures that users upload, and generations that use them."""

import asyncio
import tracemalloc
from collections.abc import Callable
from io import BytesIO
from typing import Any
from uuid import uuid4

import httpx
import pytest
from PIL import Image
from storage3.exceptions import StorageApiError

from picture_queue import JobStatus, Worker, WorkerSettings, errors
from picture_queue.generations.builtin import builtin_worker
from picture_queue.generations.settings import HandlerSettings
from picture_queue.settings import ReplicateSettings

#: A model whose input `image` is a picture.
UPSCALER = "nightmareai/real-esrgan"
SETTINGS = HandlerSettings(first_poll_interval=0.05, recheck_delay=0.1, max_pixels=2_000_000)


def picture(image_format: str = "png", size: tuple[int, int] = (20, 20)) -> bytes:
    data = BytesIO()
    Image.new("RGB", size, "red").save(data, image_format)
    return data.getvalue()


@pytest.fixture
def new_builtin_worker(stack: Any, service: Any) -> Callable[[], Worker]:
    """Return a function that creates a worker with the built-in handlers of generations."""

    def create() -> Worker:
        replicate = ReplicateSettings(stack.replicate_token, stack.replicate_url)
        settings = WorkerSettings(shutdown_grace=0, poll_interval=0.1)
        return builtin_worker(service, settings, replicate, SETTINGS)

    return create


@pytest.fixture
async def newest_input(stack: Any) -> Callable[[], Any]:
    """Return a function that reads the input of the newest prediction from the simulator."""

    async def read() -> dict[str, Any]:
        url = httpx.URL(stack.replicate_url).copy_with(raw_path=b"/_simulator/predictions")
        async with httpx.AsyncClient(headers={"apikey": stack.secret_key}, timeout=10) as http:
            return (await http.get(url)).json()[-1]["input"]

    return read


@pytest.mark.parametrize("image_format", ["png", "jpeg", "webp"])
async def test_a_user_can_upscale_an_uploaded_picture(
    ada, new_builtin_worker, newest_input, image_format
):
    file = await ada.pq.generations.upload(picture(image_format), user_id=ada.id)
    assert file.startswith(f"storage:uploads/{ada.id}/")
    started = await ada.pq.generations.start("", UPSCALER, {"image": file})
    async with new_builtin_worker():
        await ada.pq.jobs.result(started.job_id, timeout=30)
    url = (await newest_input())["image"]
    async with httpx.AsyncClient(timeout=10) as http:
        answer = await http.get(url)  # The URL is signed, so the provider needs no key.
    assert answer.content == picture(image_format)
    # The stored input has no signed URL, because the URL stays valid after the generation ends.
    assert (await ada.pq.generations.get(started.id)).input == {"image": file}


@pytest.mark.parametrize("is_deleted", [False, True])
async def test_the_provider_gets_the_checked_picture_if_the_user_replaces_the_file(
    ada, new_builtin_worker, newest_input, is_deleted
):
    file = await ada.pq.generations.upload(picture(), user_id=ada.id)
    started = await ada.pq.generations.start("", UPSCALER, {"image": file})
    async with new_builtin_worker():
        await ada.pq.jobs.result(started.job_id, timeout=30)
    bucket, path = ada.supabase.storage.from_("uploads"), file.removeprefix("storage:uploads/")
    png = {"content-type": "image/png"}
    if is_deleted:
        await bucket.remove([path])
        await bucket.upload(path, picture(size=(9, 9)), png)
    else:
        await bucket.update(path, picture(size=(9, 9)), png)
    async with httpx.AsyncClient(timeout=10) as http:
        answer = await http.get((await newest_input())["image"])
    assert answer.content == picture()
    # The user cannot replace the copy that the provider gets.
    copy = f"{ada.id}/{started.id}/inputs/{path}"
    with pytest.raises(StorageApiError):
        await ada.supabase.storage.from_("pictures").update(copy, picture(size=(9, 9)), png)


async def test_a_file_can_be_uploaded_from_a_path(ada, tmp_path):
    (tmp_path / "a.png").write_bytes(picture())
    for path in (tmp_path / "a.png", str(tmp_path / "a.png")):
        assert (await ada.pq.generations.upload(path, user_id=ada.id)).endswith(".png")


async def test_a_picture_of_an_earlier_generation_can_be_used(ada, new_builtin_worker):
    first = await ada.pq.generations.start("a boat", input={"megapixels": "0.25"})
    async with new_builtin_worker():
        await ada.pq.jobs.result(first.job_id, timeout=30)
        (image,) = (await ada.pq.generations.get(first.id)).images
        second = await ada.pq.generations.start(
            "", UPSCALER, {"image": f"storage:pictures/{image.path}", "scale": 2}
        )
        await ada.pq.jobs.result(second.job_id, timeout=30)


async def test_a_user_cannot_use_or_read_or_write_files_of_another_user(ada, bob):
    file = await ada.pq.generations.upload(picture(), user_id=ada.id)
    with pytest.raises(errors.InvalidInput, match="is not a file of the user"):
        await bob.pq.generations.start("", UPSCALER, {"image": file})
    with pytest.raises(errors.PictureQueueError):
        await bob.pq.generations.upload(picture(), user_id=ada.id)
    for call in (
        bob.supabase.storage.from_("uploads").download,
        bob.supabase.storage.from_("uploads").info,
    ):
        with pytest.raises(Exception, match=r"(?i)not.found|400"):
            await call(file.removeprefix("storage:uploads/"))
    assert await bob.supabase.storage.from_("uploads").list(str(ada.id)) == []


@pytest.mark.parametrize(
    "file",
    [
        "storage:uploads/{user}",
        "storage:uploads/{user}/../{other}/a.png",
        "storage:uploads/{user}/..",
        "storage:uploads//a.png",
        "storage:uploads/{user}/a%2fb.png",
        "storage:secrets/{user}/a.png",
        "storage:/uploads/{user}/a.png",
        "storage:uploads/{user}/" + "a" * 500,
        "http://example.com/a.png",
    ],
)
async def test_an_invalid_reference_is_refused(ada, file):
    file = file.format(user=ada.id, other=uuid4())
    with pytest.raises(errors.InvalidInput):
        await ada.pq.generations.start("", UPSCALER, {"image": file})


async def test_a_text_input_with_a_reference_to_a_file_of_another_user_is_refused(ada, bob):
    file = await ada.pq.generations.upload(picture(), user_id=ada.id)
    with pytest.raises(errors.InvalidInput, match="is not a file of the user"):
        await bob.pq.generations.start("a boat", "stability-ai/sdxl", {"negative_prompt": file})


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (None, "does not exist"),
        (picture(size=(2000, 1500)), "has 3000000 pixels"),
        (b"\x89PNG\r\n\x1a\nnonsense", "is not a PNG"),
    ],
)
async def test_a_missing_or_unusable_file_fails_the_generation_without_a_prediction(
    ada, new_builtin_worker, db, data, reason
):
    if data is None:
        file = f"storage:uploads/{ada.id}/missing.png"
    else:
        file = await ada.pq.generations.upload(data, user_id=ada.id)
    started = await ada.pq.generations.start("", UPSCALER, {"image": file})
    async with new_builtin_worker():
        with pytest.raises(errors.JobFailed):
            await ada.pq.jobs.result(started.job_id, timeout=30)
    generation = await ada.pq.generations.get(started.id)
    assert generation.status is JobStatus.FAILED
    assert generation.error is not None
    assert reason in generation.error
    # The row of the prediction was written, but the provider has created no prediction.
    query = "select prediction_id from picture_queue.prediction where generation_id = $1"
    assert [row["prediction_id"] for row in await db.fetch(query, started.id)] == [None]


@pytest.mark.parametrize("data", [b"", b"GIF89a", b"<svg/>", b"\xff\xd8\xff" * 4_000_000])
async def test_a_file_of_another_type_or_size_is_refused_before_the_upload(ada, data):
    with pytest.raises(errors.InvalidArgument, match="bytes"):
        await ada.pq.generations.upload(data, user_id=ada.id)


async def test_a_file_above_the_limit_is_refused_before_it_is_read(ada, tmp_path):
    path = tmp_path / "large.png"
    with path.open("wb") as file:
        file.write(picture())
        file.truncate(2**30)  # Extends the file to 1 GiB.
    tracemalloc.start()
    try:
        with pytest.raises(errors.InvalidArgument, match="more than 10485760 bytes"):
            await ada.pq.generations.upload(path, user_id=ada.id)
        assert tracemalloc.get_traced_memory()[1] < 2**26
    finally:
        tracemalloc.stop()


async def test_storage_refuses_large_files_and_other_types_without_the_client(ada):
    bucket = ada.supabase.storage.from_("uploads")
    for data, mime_type in ((b"<svg/>", "image/svg+xml"), (b"x" * 11_000_000, "image/png")):
        with pytest.raises(Exception, match=r"(?i)mime|large|exceeded"):
            await bucket.upload(f"{ada.id}/a.png", data, {"content-type": mime_type})


async def test_a_user_has_a_limited_number_of_uploaded_files(ada, bob, service):
    await service.settings.set(max_user_uploads=2)
    try:
        for _ in range(2):
            file = await ada.pq.generations.upload(picture(), user_id=ada.id)
        with pytest.raises(errors.PictureQueueError):
            await ada.pq.generations.upload(picture(), user_id=ada.id)
        await bob.pq.generations.upload(picture(), user_id=bob.id)
        await ada.supabase.storage.from_("uploads").remove([file.removeprefix("storage:uploads/")])
        await ada.pq.generations.upload(picture(), user_id=ada.id)
    finally:
        await service.settings.set(max_user_uploads=None)


@pytest.fixture
async def upload_limit(service):
    """Set the limit of uploaded files of a user to 2, and return it."""
    await service.settings.set(max_user_uploads=2)
    yield 2
    await service.settings.set(max_user_uploads=None)


async def test_signed_urls_store_no_more_files_than_the_limit(ada, stack, upload_limit):
    bucket, png = ada.supabase.storage.from_("uploads"), {"content-type": "image/png"}
    # Storage checks the policy only when it signs a URL, and then no file exists.
    signed = [
        await bucket.create_signed_upload_url(f"{ada.id}/{n}.png") for n in range(upload_limit + 3)
    ]
    uploads = await asyncio.gather(
        *(bucket.upload_to_signed_url(s["path"], s["token"], picture(), png) for s in signed),
        return_exceptions=True,
    )
    refusals = [upload for upload in uploads if isinstance(upload, StorageApiError)]
    assert [(r.status, "max_user_uploads" in r.message) for r in refusals] == [("403", True)] * 3
    files = await bucket.list(str(ada.id))
    assert len(files) == upload_limit
    # A user at the limit can rename a file.
    await bucket.move(f"{ada.id}/{files[0]['name']}", f"{ada.id}/renamed.png")
    with pytest.raises(StorageApiError):
        await bucket.copy(f"{ada.id}/renamed.png", f"{ada.id}/copied.png")
    # A signed URL becomes usable again when the user deletes a file.
    await bucket.remove([f"{ada.id}/renamed.png"])
    (unused,) = [s for s in signed if s["path"] == f"{ada.id}/{files[0]['name']}"]
    await bucket.upload_to_signed_url(unused["path"], unused["token"], picture(), png)


async def test_files_of_a_service_do_not_count_against_the_limit(ada, service, upload_limit):
    for _ in range(upload_limit + 1):
        await service.generations.upload(picture(), user_id=ada.id)

"""The storing of outputs: independent of each other, in a safe form and without metadata."""

import asyncio
import io
import re
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from picture_queue.errors import InvalidArgument, ServerError, TooLarge
from picture_queue.generations import picture_file
from picture_queue.generations.handler import image_handler
from picture_queue.generations.moderation import Moderation
from picture_queue.generations.picture_file import PictureFile
from picture_queue.generations.thumbnails import ThumbnailMaker
from picture_queue.providers import errors
from picture_queue.records import BegunPrediction
from picture_queue.worker import PermanentFailure, Retry, Snooze

from .world import (
    FAST,
    FakeDownloads,
    FakeJobContext,
    Generation,
    Store,
    UnusualClient,
    World,
    providers_of,
    raises_verdict,
)

NOT_A_PICTURE = b"<html>nothing here</html>"


def create_png(side: int = 30, **options: Any) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (side, side // 2 or 1), "red").save(out, "PNG", **options)
    return out.getvalue()


class Outputs:
    """A client whose downloads return or raise outputs that the test chooses.

    Args:
        world: The world of the test.
        outputs: The bytes or errors of successive downloads, by the number of the picture. The last
            one is repeated. Other pictures are PNG files.
    """

    def __init__(self, world: World, outputs: dict[int, list[Any]]) -> None:
        self._client = world.client
        self._outputs = outputs
        self._numbers: dict[str, int] = {}
        self.downloads: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    async def download_into(self, link: str, sink: Any) -> None:
        n = self._numbers.setdefault(link, len(self._numbers) + 1)
        self.downloads.append(n)
        chosen = self._outputs.get(n)
        output = (chosen.pop(0) if len(chosen) > 1 else chosen[0]) if chosen else create_png()
        if isinstance(output, Exception):
            raise output
        sink.clear()
        await sink.write(output)


def numbers(images: list[dict[str, Any]]) -> list[int]:
    return [image["n"] for image in images]


async def test_a_bad_picture_does_not_keep_the_others_from_being_stored(world: World) -> None:
    generation = world.generation(num_outputs=4)
    outputs = Outputs(world, {2: [NOT_A_PICTURE]})
    result = await world.run(generation, client=outputs)
    assert numbers(result["images"]) == list(world.db.images[generation.id]) == [1, 3, 4]
    assert [image["path"].rpartition("/")[2] for image in result["images"]] == [
        "1.png", "3.png", "4.png",
    ]  # fmt: skip
    missing = [{"n": 2, "reason": "The output is not a picture."}]
    assert result["missing_images"] == generation.missing_images == missing
    assert outputs.downloads.count(2) == 2  # a single bad answer is not final
    assert [outputs.downloads.count(n) for n in (1, 3, 4)] == [1, 1, 1]
    assert world.db.predictions[0].state == "succeeded"


async def test_a_picture_that_is_bad_once_is_stored(world: World) -> None:
    outputs = Outputs(world, {2: [NOT_A_PICTURE, create_png()]})
    result = await world.run(world.generation(num_outputs=2), client=outputs)
    assert numbers(result["images"]) == [1, 2]
    assert result["missing_images"] == []


@pytest.mark.parametrize("refused", [1, 2])
async def test_a_picture_that_is_bad_once_is_stored_beside_a_refused_picture(
    world: World, refused: int
) -> None:
    outputs = Outputs(world, {3 - refused: [errors.OutputExpired("404"), create_png()]})
    settings = replace(FAST, moderation=refuse_number(refused))
    result = await world.run(world.generation(num_outputs=2), settings=settings, client=outputs)
    assert numbers(result["images"]) == [3 - refused]
    assert result["missing_images"] == [{"n": refused, "reason": "no"}]


def refuse_number(n: int) -> Moderation:
    return Moderation(moderate_image=lambda picture: "no" if picture.n == n else None)


async def test_an_expired_picture_is_missing_if_others_are_stored(world: World) -> None:
    outputs = Outputs(world, {1: [errors.OutputExpired("gone")]})
    result = await world.run(world.generation(num_outputs=2), client=outputs)
    assert numbers(result["images"]) == [2]
    assert "deleted it before it could be fetched" in result["missing_images"][0]["reason"]


async def test_a_generation_without_any_good_picture_fails(world: World) -> None:
    outputs = Outputs(world, {1: [NOT_A_PICTURE], 2: [NOT_A_PICTURE]})
    generation = world.generation(num_outputs=2)
    with raises_verdict(PermanentFailure, errors.OutputRefused):
        await world.run(generation, client=outputs)
    assert world.db.predictions[0].state == "failed"
    assert world.db.images == {}


async def test_a_picture_that_cannot_be_downloaded_now_waits_and_the_others_are_stored(
    world: World,
) -> None:
    generation = world.generation(num_outputs=3)
    outage = errors.ServiceUnavailable("The host of the output answered 503")
    outputs = Outputs(world, {2: [outage, create_png()]})
    with raises_verdict(Snooze, errors.ServiceUnavailable):
        await world.run(generation, client=outputs)
    assert sorted(world.db.images[generation.id]) == [1, 3]
    result = await world.run(generation, client=outputs)
    assert numbers(result["images"]) == [1, 2, 3]
    assert outputs.downloads == [1, 2, 3, 2]  # the next attempt stores only what is missing
    assert len(await world.paid()) == 1


async def test_an_outage_of_one_picture_does_not_delay_the_others_for_ever(world: World) -> None:
    generation = world.generation(num_outputs=2)
    outputs = Outputs(world, {2: [errors.ServiceUnavailable("503")]})
    with raises_verdict(Snooze, errors.ServiceUnavailable):
        await world.run(generation, client=outputs)
    world.db.predictions[0].created_at = datetime.now(UTC) - timedelta(hours=2)
    result = await world.run(generation, client=outputs)
    assert (numbers(result["images"]), numbers(result["missing_images"])) == ([1], [2])


async def test_a_lasting_outage_of_all_pictures_uses_up_attempts(world: World) -> None:
    generation = world.generation()
    outputs = Outputs(world, {1: [errors.ServiceUnavailable("503")]})
    with raises_verdict(Snooze, errors.ServiceUnavailable):
        await world.run(generation, client=outputs)
    world.db.predictions[0].created_at = datetime.now(UTC) - timedelta(hours=2)
    with raises_verdict(Retry, errors.ServiceUnavailable):
        await world.run(generation, client=outputs)


@pytest.mark.parametrize("knows_count", [True, False])
async def test_stored_pictures_are_delivered_after_the_output_was_deleted(
    world: World, knows_count: bool
) -> None:
    generation = world.generation(num_outputs=4)
    outage = errors.ServiceUnavailable("503")
    outputs = Outputs(world, {1: [outage], 4: [outage]})
    with raises_verdict(Snooze, errors.ServiceUnavailable):
        await world.run(generation, client=outputs)
    metrics = {"image_count": 4} if knows_count else {}
    client = UnusualClient(
        world.client, status="succeeded", output=None, data_removed=True, metrics=metrics
    )
    result = await world.run(generation, client=client)
    assert numbers(result["images"]) == [2, 3]
    assert numbers(result["missing_images"]) == ([1, 4] if knows_count else [1])
    assert "deleted it before it could be fetched" in result["missing_images"][0]["reason"]
    assert result["missing_images"] == generation.missing_images
    assert [row.state for row in world.db.predictions] == ["succeeded"]


class _OtherClock(Store):
    """A store whose database has a clock two hours behind that of the worker."""

    async def begin(self) -> BegunPrediction:
        begun = await super().begin()
        created_at = begun.prediction.created_at - timedelta(hours=2)
        row = begun.prediction.model_copy(update={"created_at": created_at})
        return begun.model_copy(update={"prediction": row})


async def test_the_clock_of_the_worker_does_not_end_an_outage(world: World) -> None:
    store = _OtherClock(world.db, world.generation(num_outputs=2))
    client: Any = Outputs(world, {2: [errors.ServiceUnavailable("503")]})
    with raises_verdict(Snooze, errors.ServiceUnavailable):
        await image_handler(providers_of(client), lambda _: store, FAST)({}, FakeJobContext())


async def test_a_result_that_was_not_reported_still_names_what_is_missing(world: World) -> None:
    generation = world.generation(num_outputs=2)
    outputs = Outputs(world, {1: [NOT_A_PICTURE]})
    first = await world.run(generation, client=outputs)
    assert await world.run(generation, client=outputs) == first


class _Uploads(Store):
    """A store that refuses some uploads."""

    def __init__(self, world: World, generation: Generation, refuse: Callable[[str], Any]) -> None:
        super().__init__(world.db, generation)
        self._refuse = refuse

    async def upload(
        self, path: str, content: Any, content_type: str, timeout: float = 120
    ) -> None:
        if error := self._refuse(path):
            raise error
        await super().upload(path, content, content_type, timeout)


@pytest.mark.parametrize("error", [TooLarge("413"), InvalidArgument("415")])
async def test_a_picture_that_the_bucket_refuses_is_missing(world: World, error: Exception) -> None:
    generation = world.generation(num_outputs=2)
    store = _Uploads(world, generation, lambda path: error if path.endswith("/2.webp") else None)
    result = await image_handler(providers_of(world.client), lambda _: store, FAST)(
        {}, FakeJobContext()
    )
    assert numbers(result["images"]) == [1]
    reason = "The picture was made, but the storage refused it."
    assert result["missing_images"] == [{"n": 2, "reason": reason}]


async def test_a_thumbnail_is_stored_beside_the_picture(world: World) -> None:
    generation = world.generation(num_outputs=2)
    thumbnails = ThumbnailMaker(100)
    try:
        store = Store(world.db, generation)
        handler = image_handler(providers_of(world.client), lambda _: store, FAST, thumbnails)
        result = await handler({}, FakeJobContext())
    finally:
        thumbnails.close()
    for image in result["images"]:
        folder = f"{generation.user_id}/{generation.id}"
        assert image["thumbnail_path"] == f"{folder}/{image['n']}.thumbnail.webp"
        data, content_type = world.db.files[image["thumbnail_path"]]
        assert content_type == "image/webp"
        assert Image.open(io.BytesIO(data)).size == (100, 100)
        assert re.fullmatch(r"[\w#$%*+,\-.:;=?@\[\]^{|}~]{28}", image["blurhash"])
        original, _ = world.db.files[image["path"]]
        assert image["sha256"] == sha256(original).hexdigest()


async def test_a_thumbnail_that_cannot_be_stored_is_left_out(world: World) -> None:
    generation = world.generation()
    error = ServerError("no")
    store = _Uploads(world, generation, lambda path: error if "thumbnail" in path else None)
    thumbnails = ThumbnailMaker(100)
    try:
        result = await image_handler(providers_of(world.client), lambda _: store, FAST, thumbnails)(
            {}, FakeJobContext()
        )
    finally:
        thumbnails.close()
    (image,) = result["images"]
    assert (image["thumbnail_path"], image["blurhash"]) == (None, None)


class _SlowThumbnails:
    """A maker of thumbnails that reads the picture a while after the start."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    async def make(self, chunks: Any, size: int) -> None:
        await asyncio.sleep(0.1)
        self.sizes.append(sum(len(chunk) for chunk in chunks))


async def test_a_picture_stays_open_for_its_thumbnail_after_a_failed_upload(world: World) -> None:
    store = _Uploads(world, world.generation(), lambda path: TooLarge("413"))
    thumbnails: Any = _SlowThumbnails()
    handler = image_handler(providers_of(world.client), lambda _: store, FAST, thumbnails)
    with raises_verdict(PermanentFailure, errors.OutputRefused):
        await handler({}, FakeJobContext())
    assert len(thumbnails.sizes) == 2, "the picture is tried twice"
    assert min(thumbnails.sizes) > 0


def with_exif(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = orientation, "SECRET"
    return create_png(exif=exif)


async def test_metadata_is_removed_and_the_size_is_that_of_the_shown_picture(world: World) -> None:
    result = await world.run(world.generation(), client=FakeDownloads(world.client, with_exif(6)))
    (image,) = result["images"]
    data, _ = world.db.files[image["path"]]
    assert b"SECRET" not in data
    assert (image["width"], image["height"], image["bytes"]) == (15, 30, len(data))
    assert image["sha256"] == sha256(data).hexdigest()


async def test_metadata_is_kept_if_the_project_wants_it(world: World) -> None:
    world.db.strip_metadata = False
    original = with_exif(1)
    result = await world.run(world.generation(), client=FakeDownloads(world.client, original))
    assert world.db.files[result["images"][0]["path"]][0] == original


async def test_an_svg_is_stored_without_its_scripts(world: World) -> None:
    data = b'<svg width="40" height="30" onload="x()"><script>alert(1)</script><rect/></svg>'
    result = await world.run(world.generation(), client=FakeDownloads(world.client, data))
    (image,) = result["images"]
    stored, content_type = world.db.files[image["path"]]
    assert content_type == "image/svg+xml"
    assert (image["width"], image["height"], image["thumbnail_path"]) == (40, 30, None)
    assert b"script" not in stored
    assert b"onload" not in stored


async def test_an_svg_that_cannot_be_made_safe_is_refused(world: World) -> None:
    data = b'<!DOCTYPE svg [<!ENTITY a "b">]><svg>&a;</svg>'
    with raises_verdict(PermanentFailure, errors.OutputRefused) as raised:
        await world.run(world.generation(), client=FakeDownloads(world.client, data))
    assert "cannot be shown safely" in str(raised.verdict)
    assert world.db.files == {}


@pytest.mark.parametrize("frames", [1, 400])
async def test_the_pixels_of_all_frames_are_limited(world: World, frames: int) -> None:
    frame = b",\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0"
    data = b"GIF89a\xff\x3f\xff\x3f\0\0\0" + frame * frames + b";"  # 2^28 pixels a frame
    client = FakeDownloads(world.client, data)
    if frames == 1:
        result = await world.run(world.generation(), client=client)
        assert result["images"][0]["width"] == 16383
        return
    with raises_verdict(PermanentFailure, errors.OutputRefused):
        await world.run(world.generation(), client=client)


@pytest.mark.parametrize("size", [256, 999_999, 3_000_000])
async def test_a_large_picture_is_kept_in_a_file_and_read_again(size: int) -> None:
    data = bytes(range(256)) * (size // 256) + b"end"
    with PictureFile() as file:
        for _ in range(2):
            file.clear()
            for at in range(0, len(data), 10_000):
                await file.write(data[at : at + 10_000])
            assert bytes(file.read()[:]) == data
            assert file.parts()[10:20] == data[10:20]
            assert bytes(file.read()[:]) == data
        assert (file._file is None) == (size < 1_000_000)
        assert len(file._buffer) < 1_100_000
        temporary = file._file
    assert temporary is None or temporary.closed


async def test_without_a_temporary_directory_pictures_are_kept_in_memory(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse() -> None:
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setattr(picture_file.tempfile, "TemporaryFile", refuse)
    data = create_png() + bytes(3_000_000)
    result = await world.run(world.generation(), client=FakeDownloads(world.client, data))
    assert result["images"][0]["bytes"] == len(create_png())
    assert "pictures are kept in memory" in caplog.text


FULL = Path("/dev/full")


@pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")
async def test_a_full_disk_uses_up_no_attempt(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(picture_file.tempfile, "TemporaryFile", lambda: FULL.open("w+b"))
    data = create_png() + bytes(3_000_000)
    with raises_verdict(Snooze, errors.ServiceUnavailable) as raised:
        await world.run(world.generation(), client=FakeDownloads(world.client, data))
    assert "TMPDIR" in str(raised.cause)


class _LargeDownload:
    """A client whose download arrives in parts, and is never in memory as a whole."""

    def __init__(self, world: World, chunks: int) -> None:
        self._client = world.client
        self._chunks = chunks

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    async def download_into(self, link: str, sink: Any) -> None:
        sink.clear()
        head = create_png()[:33]
        await sink.write(head + (self._chunks * 65_536).to_bytes(4, "big") + b"IDAT")
        for _ in range(self._chunks):
            await sink.write(bytes(65_536))
        await sink.write(bytes(4) + create_png()[-12:])


class _Discard(Store):
    """A store that reads what is uploaded, and keeps nothing."""

    size = 0

    async def upload(
        self, path: str, content: Any, content_type: str, timeout: float = 120
    ) -> None:
        async for chunk in content:
            self.size += len(chunk)


async def test_a_large_picture_is_not_held_in_memory(world: World) -> None:
    generation = world.generation()
    store = _Discard(world.db, generation)
    client: Any = _LargeDownload(world, 320)  # 20 MB
    tracemalloc.start()
    try:
        result = await image_handler(providers_of(client), lambda _: store, FAST)(
            {}, FakeJobContext()
        )
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert result["images"][0]["bytes"] == store.size > 20_000_000
    assert peak < 8_000_000

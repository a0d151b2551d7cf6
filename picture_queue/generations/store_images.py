"""Download the pictures of a prediction and upload them to Storage."""

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from picture_queue._log import Log
from picture_queue.errors import InvalidArgument, PictureQueueError, TooLarge
from picture_queue.generations.image_info import ImageInfo, read_image
from picture_queue.generations.image_metadata import CleanedImage, clean_image
from picture_queue.generations.picture_file import PictureContent, PictureFile, TemporaryFileError
from picture_queue.generations.settings import HandlerSettings
from picture_queue.generations.store import GenerationStore, generation_folder
from picture_queue.generations.svg import UnsafeSvg, clean_svg
from picture_queue.generations.thumbnails import Thumbnail, ThumbnailMaker
from picture_queue.providers import errors
from picture_queue.providers.base import Prediction, Provider
from picture_queue.records import BegunPrediction, MissingImage, SavedImage

_log = Log(__name__)

_MAX_OUTPUTS = 100  # maximum number of pictures to store; a model may return any number
_THUMBNAIL_TIMEOUT = 30.0  # seconds to store a thumbnail, including retries


class StoredImages(NamedTuple):
    """The stored pictures of a generation, and those that could not be stored."""

    images: Sequence[SavedImage]
    missing: Sequence[MissingImage]


async def store_images(
    begun: BegunPrediction,
    prediction: Prediction,
    age: float,
    provider: Provider,
    store: GenerationStore,
    settings: HandlerSettings,
    thumbnails: ThumbnailMaker | None = None,
    uploads: "PendingUploads | None" = None,
) -> StoredImages:
    """Download the pictures and upload them to the owner's folder.

    A picture that is refused does not keep the others from being stored. A refused picture is
    downloaded once more; if it is refused again, it is a missing image. A repeated call stores only
    the pictures that no earlier call has stored. There may be fewer pictures than requested, since
    some models withhold individual pictures, and the moderation of the project may refuse some.

    Args:
        begun: The row of the prediction, with its generation.
        prediction: The succeeded prediction, as the provider returns it.
        age: Seconds since the creation of the row, by the clock of the database.
        provider: The provider of the prediction.
        store: The store to which the pictures are uploaded.
        settings: The settings of the handler.
        thumbnails: The maker of thumbnails; None: the pictures get none.
        uploads: The record of uploaded files whose rows are not saved yet. The caller saves the
            rows of the returned pictures. None: a new record, which the caller does not need.

    Returns:
        The pictures, numbered from 1 in the order of the output.

    Raises:
        ContentRefused: The moderation of the project refused all pictures.
        OutputExpired: The provider has deleted the output, and no picture is stored.
        OutputRefused: The output is empty, or contains no picture that can be stored.
        ServiceUnavailable: A picture cannot be downloaded now. The others are stored.
    """
    outputs = prediction.outputs[:_MAX_OUTPUTS]
    if prediction.output_deleted and not outputs:
        expired = errors.OutputExpired("The provider has deleted the output")
        if not begun.images:
            raise expired
        return _images_of_earlier_calls(begun, prediction, expired.owner_message)
    if not outputs:
        raise errors.OutputRefused(
            "The prediction succeeded without a picture",
            owner_message="The image service returned no picture.",
        )
    writer = _OutputWriter(
        begun, age, provider, store, settings, thumbnails, uploads or PendingUploads(store)
    )
    refused = await writer.store_missing(outputs)
    has_output_error = any(isinstance(error, errors.OutputError) for error in refused.values())
    if writer.images and has_output_error:
        # A picture is not given up after a single unexpected answer.
        _log.warning("generation %s: storing %d pictures again", begun.generation.id, len(refused))
        await asyncio.sleep(settings.recheck_delay)
        refused = await writer.store_missing(outputs)
    if not writer.images:
        # The caller stores the pictures again after an OutputError, but a refusal of the moderation
        # fails the generation. So an OutputError takes precedence.
        raise min(
            refused.values(),
            key=lambda error: (
                not isinstance(error, errors.OutputError),
                isinstance(error, errors.ContentRefused),
            ),
        )
    images = [writer.images[n] for n in sorted(writer.images)]
    missing = [
        MissingImage(n=n, reason=error.owner_message) for n, error in sorted(refused.items())
    ]
    return StoredImages(images, missing)


def _images_of_earlier_calls(
    begun: BegunPrediction, prediction: Prediction, reason: str
) -> StoredImages:
    """Return the pictures that earlier calls have stored; all others are missing."""
    images = sorted(begun.images, key=lambda image: image.n)
    image_count = prediction.metrics.get("image_count")
    made = min(image_count, _MAX_OUTPUTS) if isinstance(image_count, int) else 0
    stored_numbers = {image.n for image in images}
    numbers = range(1, max(made, *stored_numbers) + 1)
    return StoredImages(
        images, [MissingImage(n=n, reason=reason) for n in numbers if n not in stored_numbers]
    )


async def delete_files_without_row(store: GenerationStore, begun: BegunPrediction) -> None:
    """Delete the files that earlier attempts have uploaded, and whose rows they have not saved.

    Their workers died between the two calls. No row names such a file, so nobody would delete it
    before the generation is deleted.

    Raises:
        StaleLease: Another worker has the job, and its files must not be deleted.
    """
    files = await store.list_files(generation_folder(begun))
    if not files:
        return
    current = await store.begin(begun.prediction.id)
    unsaved = set(files) - current.saved_paths
    if unsaved:
        await store.delete_files(sorted(unsaved))


class PendingUploads:
    """The uploaded files of one attempt whose rows are not saved yet.

    Args:
        store: The store of the generation.
    """

    def __init__(self, store: GenerationStore) -> None:
        self._store = store
        self._paths: set[str] = set()
        self._complete: dict[int, SavedImage] = {}

    def begin(self, path: str) -> None:
        """Record a file before it is uploaded."""
        self._paths.add(path)

    def complete(self, image: SavedImage) -> None:
        """Record that all files of a picture are uploaded."""
        self._complete[image.n] = image

    def record_saved(self, images: Sequence[SavedImage]) -> None:
        """Record that the rows of pictures are saved."""
        for image in images:
            self._complete.pop(image.n, None)
            self._paths -= {image.path, image.thumbnail_path}

    async def resolve(self) -> None:
        """Save the rows of complete pictures, and delete all other files without a row."""
        if self._complete:
            images = list(self._complete.values())
            await self._store.save_images(images)
            self.record_saved(images)
        if self._paths:
            await self._store.delete_files(sorted(self._paths))
            self._paths.clear()


class _OutputWriter:
    """A writer of the outputs of one prediction to Storage.

    Attributes:
        images: The stored pictures by their number.
    """

    def __init__(
        self,
        begun: BegunPrediction,
        age: float,
        provider: Provider,
        store: GenerationStore,
        settings: HandlerSettings,
        thumbnails: ThumbnailMaker | None,
        uploads: PendingUploads,
    ) -> None:
        self._uploads = uploads
        self._provider = provider
        self._store = store
        self._begun = begun
        self._is_past_tolerance = age > settings.outage_tolerance
        self._settings = settings
        self._thumbnails = thumbnails
        self._slots = asyncio.Semaphore(settings.max_parallel)
        self._folder = generation_folder(begun)
        self.images = {image.n: image for image in begun.images}
        #: The errors of the pictures that the moderation refused, by the number of the picture.
        #: Such a picture is not downloaded again.
        self._moderated: dict[int, errors.ProviderError] = {}

    async def store_missing(self, outputs: Sequence[str]) -> dict[int, errors.ProviderError]:
        """Store the pictures that are not stored yet.

        Returns:
            The errors by the numbers of the refused pictures.

        Raises:
            Exception: A picture cannot be stored now. The rows of the others are written.
        """
        decided = self.images.keys() | self._moderated.keys()
        numbers = [n for n in range(1, len(outputs) + 1) if n not in decided]
        outcomes = await asyncio.gather(
            *(self._store_one(n, outputs[n - 1]) for n in numbers), return_exceptions=True
        )
        refused: dict[int, errors.ProviderError] = {}
        failures: list[BaseException] = []
        for n, outcome in zip(numbers, outcomes, strict=True):
            if isinstance(outcome, SavedImage):
                self.images[n] = outcome
            elif isinstance(outcome, errors.ProviderError) and self._is_final(outcome):
                is_moderated = isinstance(outcome, errors.ContentRefused)
                (self._moderated if is_moderated else refused)[n] = outcome
                _log.warning("generation %s: image %d: %s", self._begun.generation.id, n, outcome)
            else:
                failures.append(outcome)
        for failure in failures:
            if not isinstance(failure, Exception):
                raise failure
        if failures:
            if self.images:
                images = list(self.images.values())
                await self._store.save_images(images)
                self._uploads.record_saved(images)
            raise failures[0]
        return self._moderated | refused

    def _is_final(self, error: errors.ProviderError) -> bool:
        """Return whether a picture cannot be stored, or is given up to deliver the others."""
        is_outage = isinstance(error, errors.ServiceUnavailable)
        is_refused = isinstance(error, errors.OutputError | errors.ContentRefused)
        return is_refused or (is_outage and self._is_past_tolerance)

    async def _store_one(self, n: int, output: str) -> SavedImage:
        async with self._slots:
            with PictureFile() as file:
                try:
                    await self._provider.download_into(output, file)
                    info, content = await asyncio.to_thread(self._examine, n, file)
                    sha256 = await asyncio.to_thread(content.sha256)
                except TemporaryFileError as error:
                    raise errors.ServiceUnavailable(
                        "The worker cannot write a temporary file",
                        detail=str(error),
                        hint="Free space in the directory of temporary files, or set TMPDIR",
                    ) from error
                await self._moderate(n, content, info)
                path = f"{self._folder}/{n}.{info.extension}"
                # Both calls read the file, which is closed afterwards. So both are awaited, even if
                # one of them fails.
                thumbnail, uploaded = await asyncio.gather(
                    self._make_thumbnail(info, content),
                    self._upload(n, path, content, info),
                    return_exceptions=True,
                )
                if isinstance(uploaded, BaseException):
                    raise uploaded
                if isinstance(thumbnail, BaseException):
                    raise thumbnail
            thumbnail_path = await self._store_thumbnail(n, thumbnail)
        image = SavedImage(
            n=n,
            path=path,
            mime_type=info.mime_type,
            width=info.width,
            height=info.height,
            bytes=content.size,
            sha256=sha256,
            blurhash=thumbnail.blurhash if thumbnail and thumbnail_path else None,
            thumbnail_path=thumbnail_path,
        )
        self._uploads.complete(image)
        return image

    def _examine(self, n: int, file: PictureFile) -> tuple[ImageInfo, PictureContent]:
        """Check a picture, and return its type, its size and the bytes to store.

        Raises:
            OutputRefused: The file is not a picture, or exceeds a limit.
        """
        data, limit = file.read(), self._settings.max_pixels
        info = read_image(data)
        if info is None:
            raise _refusal("The output is not a picture.", f"image {n}")
        # Check the size first, since the following steps take longer for a larger picture.
        _expect_pixels(n, info, 1, limit)
        try:
            if info.extension == "svg":
                svg = clean_svg(bytes(data), limit)
                info = read_image(svg) or info
                return info, PictureContent(svg, CleanedImage([svg], 1, 1))
            cleaned = clean_image(data, info.extension, self._begun.strip_metadata)
        except UnsafeSvg as error:
            owner_message = "The picture was made, but it cannot be shown safely."
            raise _refusal(owner_message, f"image {n}: {error}") from None
        except ValueError as error:
            raise _refusal("The output is a broken picture.", f"image {n}: {error}") from None
        _expect_pixels(n, info, cleaned.frames, limit)
        if cleaned.orientation >= 5:  # it is shown turned by a right angle
            info = info._replace(width=info.height, height=info.width)
        return info, PictureContent(file.parts(), cleaned)

    async def _moderate(self, n: int, content: PictureContent, info: ImageInfo) -> None:
        """Let the moderation of the project check a picture.

        Raises:
            ContentRefused: The moderation refuses the picture.
        """
        moderation = self._settings.moderation
        if moderation is None or moderation.moderate_image is None:
            return
        data = await asyncio.to_thread(lambda: b"".join(content.chunks()))
        reason = await moderation.review_image(self._begun, n, data, info.mime_type)
        if reason is not None:
            raise errors.ContentRefused(
                "The moderation of the project refused the picture",
                owner_message=reason,
                detail=reason,
            )

    async def _upload(self, n: int, path: str, content: PictureContent, info: ImageInfo) -> None:
        self._uploads.begin(path)
        try:
            await self._store.upload(path, content, info.mime_type)
        except (TooLarge, InvalidArgument) as error:
            # The bucket may have its own maximum size, or a list of allowed types.
            owner_message = "The picture was made, but the storage refused it."
            raise _refusal(owner_message, f"image {n}: {error}") from error

    async def _make_thumbnail(self, info: ImageInfo, content: PictureContent) -> Thumbnail | None:
        if self._thumbnails is None or info.extension == "svg":
            return None
        return await self._thumbnails.make(content.chunks(), content.size)

    async def _store_thumbnail(self, n: int, thumbnail: Thumbnail | None) -> str | None:
        if thumbnail is None:
            return None
        path = f"{self._folder}/{n}.thumbnail.webp"
        self._uploads.begin(path)
        try:
            await self._store.upload(path, thumbnail.data, "image/webp", _THUMBNAIL_TIMEOUT)
        except PictureQueueError as error:
            _log.warning("generation %s: no thumbnail: %s", self._begun.generation.id, error)
            return None
        return path


def _expect_pixels(n: int, info: ImageInfo, frames: int, limit: int) -> None:
    if info.pixels * frames > limit:
        raise _refusal(
            "The picture was made, but it is too large to be shown.",
            f"image {n} has {info.width} x {info.height} pixels and {frames} frames,"
            f" the limit is {limit} pixels",
        )


def _refusal(owner_message: str, detail: str) -> errors.OutputRefused:
    return errors.OutputRefused("The output is refused", owner_message=owner_message, detail=detail)

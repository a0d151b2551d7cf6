"""Download the pictures of a prediction and upload them to Storage."""

import asyncio

from picture_queue.generations._tasks import run_all
from picture_queue.generations.image_info import read_image
from picture_queue.generations.settings import HandlerSettings
from picture_queue.generations.store import GenerationStore
from picture_queue.providers import errors
from picture_queue.providers.base import Prediction, Provider
from picture_queue.records import BegunPrediction, SavedImage

_MAX_OUTPUTS = 100  # maximum number of pictures to store; a model may return any number


async def store_images(
    provider: Provider,
    store: GenerationStore,
    begun: BegunPrediction,
    prediction: Prediction,
    settings: HandlerSettings,
) -> list[SavedImage]:
    """Download the pictures and upload them to the owner's folder.

    There may be fewer pictures than requested, since some models withhold individual
    pictures. A repeated call writes the same files again.

    Args:
        provider: The provider of the prediction.
        store: The store to which they are uploaded.
        begun: The row of the prediction, with its generation.
        prediction: The succeeded prediction, as the provider returns it.
        settings: The limits of pixels, and of pictures that are stored at the same time.

    Returns:
        The stored images, numbered from 1 in the order of the output.

    Raises:
        OutputExpired: The provider has deleted the output.
        OutputRefused: The output is empty, not a picture, or from a host that is not allowed.
        ServiceUnavailable: The output cannot be downloaded now.
    """
    outputs = prediction.outputs[:_MAX_OUTPUTS]
    if prediction.output_deleted and not outputs:
        raise errors.OutputExpired("The provider has deleted the output")
    if not outputs:
        raise errors.OutputRefused("The prediction succeeded without a picture")
    slots = asyncio.Semaphore(settings.max_parallel)
    folder = f"{begun.generation.user_id or 'shared'}/{begun.generation.id}"

    async def store_one(n: int, output: str) -> SavedImage:
        async with slots:
            data = await provider.download(output)
            info = await asyncio.to_thread(read_image, data)
            if info is None:
                raise errors.OutputRefused("The output is not a picture", detail=f"image {n}")
            if info.pixels > settings.max_pixels:
                raise errors.OutputRefused(
                    "The picture has too many pixels",
                    public="The picture was made, but it is too large to be shown.",
                    detail=f"image {n} has {info.width} x {info.height} pixels,"
                    f" the limit is {settings.max_pixels}",
                )
            path = f"{folder}/{n}.{info.extension}"
            await store.upload(path, data, info.mime_type)
        return SavedImage(
            n=n,
            path=path,
            mime_type=info.mime_type,
            width=info.width,
            height=info.height,
            bytes=len(data),
        )

    return await run_all(store_one(n, output) for n, output in enumerate(outputs, start=1))

"""Make pictures with a function of your own. Run own_provider.sql first, which offers its model."""

import asyncio
from zlib import crc32

from PIL import Image, ImageDraw

from picture_queue import AsyncPictureQueue, Worker, add_generations
from picture_queue.providers.errors import ContentRefused
from picture_queue.providers.function_call import ProgressReporter


def draw(
    prompt: str, width: int = 256, height: int = 256, *, progress: ProgressReporter
) -> Image.Image:
    """Draw a gradient. The parameters are the inputs of the model."""
    if "weapon" in prompt:
        raise ContentRefused("the prompt is not allowed")  # fails the generation for good
    red, green, blue = crc32(prompt.encode()).to_bytes(4, "big")[:3]
    picture = Image.new("RGB", (width, height))
    pen = ImageDraw.Draw(picture)
    for y in range(height):
        pen.line((0, y, width, y), fill=(red, green * y // height, blue))
        progress(100 * y / height, "drawing")  # also stops the function after a cancel
    return picture


worker = Worker()
add_generations(worker, providers={"pillow": draw})


async def main() -> None:
    """Run the worker, and start a generation as a browser would."""
    async with AsyncPictureQueue.from_env() as pq, worker:
        started = await pq.generations.start("a sunset", "my/gradient", input={"width": 320})
        await pq.jobs.result(started.job_id, timeout=30)
        picture = (await pq.generations.get(started.id)).images[0]
        assert (picture.width, picture.height, picture.mime_type) == (320, 256, "image/png")
        print(picture.path)


asyncio.run(main())

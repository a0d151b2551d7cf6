"""Generate a chain and a batch, and follow each as one. Run generation_batches.sql first."""

import asyncio

from PIL import Image, ImageOps

from picture_queue import AsyncPictureQueue, Worker, add_generations


def paint(prompt: str = "", image: str = "", seed: int = 0) -> Image.Image:
    """Make a picture of one colour, with a border if the model gets the address of a picture."""
    colour = (seed % 256, len(prompt) % 256, 128)
    return ImageOps.expand(Image.new("RGB", (32, 32), colour), border=8 if image else 0)


async def main() -> None:
    """Start both, and print the progress of each until all its generations have ended."""
    async with AsyncPictureQueue.from_env() as pq:
        worker = Worker(pq)
        add_generations(worker, pq, providers={"paint": paint})
        async with worker:
            chain = await pq.generations.start(
                "A red boat",
                "my/paint",
                then=[{"model_id": "my/enlarge"}, {"model_id": "my/cut-out"}],
            )
            assert chain.batch_id is not None
            async for state in pq.generations.watch_batch(chain.batch_id, timeout=60):
                print(f"{state.progress} %, {state.completed} of {state.total} steps")
            last = await pq.generations.get(chain.steps[-1].id)
            print(last.images[0].path)

            batch = await pq.generations.start_many(
                [
                    {"prompt": "A red boat", "model_id": "my/paint", "input": {"seed": seed}}
                    for seed in range(5)
                ]
            )
            async for state in pq.generations.watch_batch(batch.id, timeout=60):
                print(f"{state.progress} %, {state.status}")
            assert (state.status, state.completed) == ("completed", 5)


asyncio.run(main())

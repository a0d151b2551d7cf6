"""Print the newest pictures as a page: thumbnails that link to the pictures."""

from html import escape

from picture_queue import PictureQueue

with PictureQueue.from_env() as pq:
    generations = pq.generations.list(status="completed", limit=20)
    images = [
        (generation.prompt, image) for generation in generations for image in generation.images
    ]
    thumbnails = pq.generations.urls([image for _, image in images], thumbnail=True)
    pictures = pq.generations.urls([image for _, image in images])

for (prompt, image), thumbnail, picture in zip(images, thumbnails, pictures, strict=True):
    if thumbnail and picture:  # both are None if the picture was deleted
        print(
            f'<a href="{escape(picture)}"><img src="{escape(thumbnail)}" alt="{escape(prompt)}"'
            f' style="aspect-ratio: {image.width or 1} / {image.height or 1}"'
            f' data-blurhash="{escape(image.blurhash or "")}"></a>'
        )

"""Generate a picture, follow its progress and save it.

Needs a project: run `picture-queue local start`, then `eval "$(picture-queue local env)"`.
"""

from picture_queue import PictureQueue

with PictureQueue.from_env() as pq:
    generation = pq.generations.start("A beautiful sunset", "black-forest-labs/flux-schnell")
    for event in pq.generations.watch(generation.id, timeout=120):  # live over Realtime
        print(f"{event.status:<10} {event.progress:>3} %  {event.message or ''}  ({event.source})")
    image = pq.generations.get(generation.id).images[0]
    print("saved", pq.generations.save(image, "sunset" + image.path[image.path.rindex(".") :]))

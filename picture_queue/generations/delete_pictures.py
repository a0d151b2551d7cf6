"""The handler that deletes the files of deleted generations."""

import asyncio
from dataclasses import dataclass
from uuid import UUID

from picture_queue._async.client import AsyncPictureQueue
from picture_queue._async.picture_files import BUCKET
from picture_queue._json import encode
from picture_queue._rpc import Rpc
from picture_queue._rpc import generations as _rpc
from picture_queue._transport.backend import AsyncBackend
from picture_queue._transport.base import StorageCall, parse_answer
from picture_queue.errors import ConnectionFailed, PictureQueueError
from picture_queue.records import DeletedGeneration
from picture_queue.worker import JobContext, Worker

JOB_TYPE = "delete-pictures"
TIMEOUT = 300.0  # seconds for one attempt

_MAX_PARALLEL = 4  # generations whose files are deleted at the same time
_PAGE_SIZE = 1000  # files in one call; Storage lists and deletes at most 1000
_MAX_PAGES = 100  # pages of the files of one generation
_JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True, slots=True)
class DeletePictures:
    """The payload of a job: generations that are marked as deleted."""

    generation_ids: list[UUID]


def add_deletion(worker: Worker, client: AsyncPictureQueue | None) -> None:
    """Register the handler of ``delete-pictures``, unless the worker has one.

    Args:
        worker: A worker that is not running yet.
        client: The client of the worker's project, with the URL of the API; None: that of the
            worker.
    """
    if JOB_TYPE in worker.job_types:
        return

    @worker.handler(JOB_TYPE, timeout=TIMEOUT)
    async def delete_pictures(payload: DeletePictures, job: JobContext) -> dict[str, int]:
        job_client = client or worker._running_client
        assert job_client is not None  # noqa: S101 - the worker runs
        return await delete_files(job_client._backend, payload.generation_ids, job)


async def delete_files(
    backend: AsyncBackend, generation_ids: list[UUID], job: JobContext | None = None
) -> dict[str, int]:
    """Delete the files of deleted generations, and record each generation whose files are deleted.

    A repeated call continues where an earlier call ended. A generation that is not marked as
    deleted is skipped. If the files of one generation cannot be deleted, the files of the others
    are deleted all the same.

    Args:
        backend: The backend of the project.
        generation_ids: The ids of the generations.
        job: The job, to whose log failures are written.

    Returns:
        The numbers of generations and of files.

    Raises:
        PictureQueueError: The files of some generations could not be deleted.
    """
    slots = asyncio.Semaphore(_MAX_PARALLEL)

    async def delete_one(generation: DeletedGeneration) -> int | PictureQueueError:
        async with slots:
            try:
                count = await _delete_folder(backend, generation)
                await backend.call(_rpc.record_deleted_files([generation.generation_id]))
            except PictureQueueError as error:
                if job is not None:
                    job.log(f"generation {generation.generation_id}: {error}", "warning")
                return error
            return count

    deleted = await backend.call(_rpc.list_deleted_generations(generation_ids))
    results = await asyncio.gather(*map(delete_one, deleted))
    failures = [result for result in results if isinstance(result, PictureQueueError)]
    if failures:
        raise failures[0]
    return {"generations": len(results), "files": sum(r for r in results if isinstance(r, int))}


async def _delete_folder(backend: AsyncBackend, generation: DeletedGeneration) -> int:
    """Delete the files of a generation and return their number.

    The files of the folder are listed too, since a worker may have died after it stored a file and
    before it saved the row of the image. The files are listed again after the deletion, because
    Storage answers with success even if the key may not delete them.
    """
    paths = list(generation.paths)
    count = 0
    for _ in range(_MAX_PAGES):
        paths = (paths + await _list_files(backend, generation.folder))[:_PAGE_SIZE]
        if not paths:
            return count
        count += await _delete_paths(backend, list(dict.fromkeys(paths)))
        paths = []
    raise ConnectionFailed(
        "Storage does not delete the files of a generation",
        detail=f"files remain in {BUCKET}/{generation.folder}",
        hint="Check that the worker has a service key of this project",
    )


async def _list_files(backend: AsyncBackend, folder: str) -> list[str]:
    """Return the paths of the files of a folder and its subfolders, at most a page of each."""
    call = StorageCall(
        "POST", f"object/list/{BUCKET}", encode({"prefix": folder, "limit": _PAGE_SIZE}), _JSON
    )
    entries = parse_answer(Rpc("list_objects", {}, list), await backend.storage(call))
    paths: list[str] = []
    for entry in entries:
        path = f"{folder}/{entry['name']}"
        paths += [path] if entry["id"] else await _list_files(backend, path)
    return paths


async def _delete_paths(backend: AsyncBackend, paths: list[str]) -> int:
    call = StorageCall("DELETE", f"object/{BUCKET}", encode({"prefixes": paths}), _JSON)
    answer = await backend.storage(call)
    return parse_answer(Rpc("delete_objects", {}, len), answer)

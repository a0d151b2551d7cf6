"""The rows and files of a generation, over the project's API and under the lease of its job."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from picture_queue._async.client import AsyncPictureQueue
from picture_queue._async.generations import BUCKET
from picture_queue._rpc import predictions as _rpc
from picture_queue._transport.backend import AsyncBackend
from picture_queue._transport.base import StorageCall
from picture_queue.errors import NotFound, SettingsError
from picture_queue.records import BegunPrediction, FinalState, SavedImage

#: Seconds for a file to be stored, retries included.
_UPLOAD_TIMEOUT = 120.0


def expect_api(client: AsyncPictureQueue) -> None:
    """Check that a client knows the API through which pictures are stored.

    Raises:
        SettingsError: It knows the database only.
    """
    if client._project.api is None:
        raise SettingsError(
            "Pictures are stored through the project's API, and SUPABASE_URL is not set",
            hint="Set SUPABASE_URL and a service key beside PICTURE_QUEUE_DATABASE_URL",
        )


async def expect_storage(client: AsyncPictureQueue) -> None:
    """Check that pictures can be stored, before a job that makes one is claimed or written.

    Raises:
        SettingsError: The client knows no API, or its key cannot see the bucket.
        PictureQueueError: The API does not answer, or refuses the key.
    """
    expect_api(client)
    await client.version()  # says what is wrong with an address, a key, or a project without SQL
    try:
        await client._project.storage(StorageCall("GET", f"bucket/{BUCKET}"))
    except NotFound as error:
        raise SettingsError(
            f"Storage shows no bucket {BUCKET} to this key",
            hint="Set SUPABASE_URL and a service key of this project; "
            "picture-queue doctor checks both",
        ) from error


class GenerationStore:
    """The rows and files of one job's generation.

    Each method may be called again with the same arguments. All raise `StaleLease` once the lease
    has ended: the job belongs to another worker then, and nothing was changed.

    Args:
        backend: The project that holds rows and files.
        job_id: The job.
        lease_id: The lease it is claimed under.
    """

    def __init__(self, backend: AsyncBackend, job_id: UUID, lease_id: UUID) -> None:
        self._backend = backend
        self._job_id = job_id
        self._lease_id = lease_id

    async def begin(self) -> BegunPrediction:
        """Commit a row in state ``creating``, or return the row of an earlier attempt."""
        return await self._backend.call(_rpc.begin_prediction(self._job_id, self._lease_id))

    async def record(self, row_id: UUID, prediction_id: str) -> None:
        """Store the id of the prediction.

        Raises:
            Conflict: Another row owns that prediction.
        """
        await self._backend.call(
            _rpc.record_prediction(self._job_id, self._lease_id, row_id, prediction_id)
        )

    async def finish(
        self,
        row_id: UUID,
        state: FinalState,
        *,
        error: str | None = None,
        metrics: dict[str, Any] | None = None,
    ) -> None:
        """End the row; does nothing to a row that has ended.

        Args:
            row_id: The row.
            state: ``lost`` means that the outcome is unknown and nothing was found.
            error: For operators; never shown to the owner.
            metrics: As the provider sent them.
        """
        await self._backend.call(
            _rpc.finish_prediction(self._job_id, self._lease_id, row_id, state, error, metrics)
        )

    async def upload(self, path: str, data: bytes, content_type: str) -> None:
        """Write a file to the bucket ``pictures``, over one of that path."""
        headers = {
            "Content-Type": content_type,
            "Cache-Control": "max-age=3600",
            "x-upsert": "true",
        }
        call = StorageCall("POST", f"object/{BUCKET}/{path}", data, headers)
        await self._backend.storage(call, _UPLOAD_TIMEOUT)

    async def save_images(self, images: Sequence[SavedImage]) -> None:
        """Write the images of the generation."""
        await self._backend.call(_rpc.save_images(self._job_id, self._lease_id, images))

"""The rows of a generation, which are written under the lease of its job, and its files."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from picture_queue._async.client import AsyncPictureQueue
from picture_queue._async.picture_files import BUCKET, sign_url
from picture_queue._json import encode
from picture_queue._rpc import Rpc
from picture_queue._rpc import predictions as _rpc
from picture_queue._text import make_storable
from picture_queue._transport.backend import AsyncBackend
from picture_queue._transport.base import StorageCall, parse_answer
from picture_queue.errors import NotFound, SettingsError
from picture_queue.generations.picture_file import PictureContent
from picture_queue.records import BegunPrediction, FinalState, MissingImage, SavedImage

_MAX_ERROR = 8192  # characters of an error that the database stores
#: Seconds to store a file, including retries.
_UPLOAD_TIMEOUT = 120.0


def expect_api(client: AsyncPictureQueue) -> None:
    """Check that a client has the URL of the API through which pictures are stored.

    Raises:
        SettingsError: The client has only the URL of the database.
    """
    if client._backend.api is None:
        raise SettingsError(
            "Pictures are stored through the project's API, and SUPABASE_URL is not set",
            hint="Set SUPABASE_URL and a service key in addition to PICTURE_QUEUE_DATABASE_URL",
        )


async def expect_storage(client: AsyncPictureQueue) -> None:
    """Check that pictures can be stored, before a job that generates one is enqueued or claimed.

    Raises:
        SettingsError: The client has no URL of the API, or its key may not read the bucket.
        PictureQueueError: The API does not answer, or refuses the key.
    """
    expect_api(client)
    await client.version()  # its errors name a wrong URL, a wrong key, or missing SQL
    try:
        await client._backend.storage(StorageCall("GET", f"bucket/{BUCKET}"))
    except NotFound as error:
        raise SettingsError(
            f"This key cannot read the bucket {BUCKET} in Storage",
            hint="Set SUPABASE_URL and a service key of this project; "
            "picture-queue doctor checks both",
        ) from error


def generation_folder(begun: BegunPrediction) -> str:
    """Return the folder of the files of a generation in the bucket ``pictures``."""
    return f"{begun.generation.user_id or 'shared'}/{begun.generation.id}"


class GenerationStore:
    """The rows and files of the generation of one job.

    All methods are idempotent. After the end of the lease, the methods that read or write rows
    raise `StaleLease` and change nothing, since another worker may have the job. The methods that
    read or write files (`upload`, `read_file`, `sign_file`, `list_files`, `delete_files`) do not
    check the lease.

    Args:
        backend: The backend of the project.
        job_id: The id of the job.
        lease_id: The id of the lease under which the job was claimed.
    """

    def __init__(self, backend: AsyncBackend, job_id: UUID, lease_id: UUID) -> None:
        self._backend = backend
        self._job_id = job_id
        self._lease_id = lease_id

    async def begin(self, lost: UUID | None = None) -> BegunPrediction:
        """Commit a row in state ``creating``, or return the row of an earlier attempt.

        Args:
            lost: The id of a row of the generation whose prediction is searched for. This row is
                returned, with ``owned``, ``rows_without_id`` and ``equal_rows_without_id``, and no
                row is created.
        """
        return await self._backend.call(_rpc.begin_prediction(self._job_id, self._lease_id, lost))

    async def record(self, row_id: UUID, prediction_id: str) -> None:
        """Record the id of a prediction in its row.

        Raises:
            Conflict: Another row owns the prediction.
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
        """Write the final state of a row, unless the row already has one.

        Args:
            row_id: The id of the row.
            state: The final state; ``lost`` if the outcome is unknown and no prediction was found.
            error: The error for operators, which the owner never sees. Characters that the database
                cannot store are replaced.
            metrics: The metrics that the provider returned.
        """
        text = None if error is None else make_storable(error, _MAX_ERROR)
        await self._backend.call(
            _rpc.finish_prediction(self._job_id, self._lease_id, row_id, state, text, metrics)
        )

    async def upload(
        self,
        path: str,
        content: bytes | PictureContent,
        content_type: str,
        timeout: float = _UPLOAD_TIMEOUT,
    ) -> None:
        """Write a file to the bucket ``pictures``; replace an existing file with the same path.

        Args:
            path: The path of the file.
            content: The bytes. The bytes of a `PictureContent` are read while they are sent.
            content_type: The MIME type.
            timeout: Maximum seconds, including retries.
        """
        size = len(content) if isinstance(content, bytes) else content.size
        headers = {
            "Content-Type": content_type,
            "Content-Length": str(size),
            "Cache-Control": "private, no-cache",
            "x-upsert": "true",
        }
        call = StorageCall("POST", f"object/{BUCKET}/{path}", content, headers)
        await self._backend.storage(call, timeout)

    async def read_file(self, path: str) -> bytes:
        """Read a file of Storage; the path begins with its bucket.

        Raises:
            NotFound: There is no such file.
        """
        return await self._backend.storage(StorageCall("GET", f"object/{path}"))

    async def sign_file(self, path: str, seconds: int) -> str:
        """Return a URL with which anyone can read a file of Storage for some seconds.

        Raises:
            NotFound: There is no such file.
        """
        return await sign_url(self._backend, path, seconds)

    async def delete_files(self, paths: Sequence[str]) -> None:
        """Delete files of the bucket ``pictures``; files that do not exist are ignored."""
        headers = {"Content-Type": "application/json"}
        body = encode({"prefixes": list(paths)})
        await self._backend.storage(StorageCall("DELETE", f"object/{BUCKET}", body, headers))

    async def list_files(self, folder: str) -> list[str]:
        """Return the paths of up to 1,000 files of a folder of the bucket ``pictures``."""
        call = StorageCall(
            "POST",
            f"object/list/{BUCKET}",
            encode({"prefix": folder, "limit": 1000}),
            {"Content-Type": "application/json"},
        )
        entries = parse_answer(Rpc("list_objects", {}, list), await self._backend.storage(call))
        return [f"{folder}/{entry['name']}" for entry in entries if entry["id"]]

    def file_url(self, path: str) -> str:
        """Return the URL of `sign_file` without its query, which differs for each call."""
        return f"{self._backend.storage_url}/object/sign/{path}"

    async def save_images(
        self, images: Sequence[SavedImage], missing: Sequence[MissingImage] | None = None
    ) -> None:
        """Write the rows of images of the generation.

        Args:
            images: The images.
            missing: The pictures that were made and could not be stored; None: not known yet.
        """
        rpc = _rpc.save_images(self._job_id, self._lease_id, images, missing)
        await self._backend.call(rpc)

# Written by scripts/unasync.py from picture_queue/_async/generations.py: edit that file.

"""Generations: requests for pictures."""

import builtins
from collections.abc import Generator, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from uuid import UUID

from pydantic import JsonValue

from picture_queue._sync import picture_files
from picture_queue._files import replace_file
from picture_queue._realtime.sync_follow import Watcher, follow
from picture_queue._realtime.sync_follow_batch import follow_batch
from picture_queue._rpc import generations as _rpc
from picture_queue._transport.backend_sync import Backend
from picture_queue.options import GenerationRequest, GenerationStep
from picture_queue.records import (
    BatchCancelRequest,
    CancelRequest,
    Generation,
    GenerationBatch,
    Image,
    JobEvent,
    JobStatus,
    ModelKind,
    StartedBatch,
    StartedGeneration,
)


class Generations:
    """The generations of a project; with a user's token, only the generations of this user."""

    def __init__(self, backend: Backend, watcher: Watcher) -> None:
        self._backend = backend
        self._watcher = watcher

    def start(
        self,
        prompt: str,
        model_id: str | None = None,
        input: Mapping[str, JsonValue] | None = None,
        *,
        kind: ModelKind | str | None = None,
        scheduled_for: datetime | None = None,
        idempotency_key: str | None = None,
        user_id: UUID | str | None = None,
        priority: int | None = None,
        reuse: bool = False,
        then: Sequence[GenerationStep] = (),
    ) -> StartedGeneration:
        """Start a generation and return without waiting for its pictures.

        Args:
            prompt: A description of the picture; empty for models without a prompt.
            model_id: The id of a model that `models.list` returns; None: the default model of the
                project.
            input: Further inputs of the model, which the database validates. The rules of the
                project may add, lock or refuse values.
            kind: The kind of the generation, for a model that has several; it decides the job type.
                None: the main kind of the model.
            scheduled_for: The earliest time to start.
            idempotency_key: A repeated call with the same key returns the first generation.
            user_id: The owner, which only a service key may set; None: the signed-in user, or no
                owner if a service key makes the call.
            priority: A generation with a higher priority runs first; only a service key may set it.
            reuse: Return an equal generation of the same owner that has completed, if there is one,
                instead of starting another. Two generations are equal if they have the same model,
                version of the model, prompt and inputs.
            then: Up to 5 further steps. Each gets the first picture of the step before, and is a
                generation of its own. If a step fails, the later ones are cancelled and refunded.

        Returns:
            The ids of the generation and its job, and warnings about unknown inputs; of a chain
            also the batch id, for `get_batch` and `watch_batch`, and the further steps.

        Raises:
            UnknownModel: The project does not offer the model; the error has the reason.
            InvalidArgument: The model does not have this kind.
            InvalidInput: The prompt or an input is invalid; the error names the field and the
                value.
            NotAuthenticated: The client has neither a user's token nor a service key.
            LimitExceeded: The user has started too many generations, has not enough credits, or a
                budget is used up; ``retry_after`` of the error has the seconds to wait, if known.
        """
        rpc = _rpc.start_generation(
            prompt,
            model_id,
            input,
            kind=kind,
            scheduled_for=scheduled_for,
            idempotency_key=idempotency_key,
            user_id=user_id,
            priority=priority,
            reuse=reuse,
            then=then,
        )
        return self._backend.call(rpc)

    def start_many(
        self,
        requests: Iterable[GenerationRequest],
        *,
        batch_id: UUID | str | None = None,
        scheduled_for: datetime | None = None,
        user_id: UUID | str | None = None,
        priority: int | None = None,
    ) -> StartedBatch:
        """Start a batch of up to 100 generations, all or none, and return without waiting for them.

        Rates, budgets and credits of the user count all generations of the batch.

        Args:
            requests: The generations, each with a prompt and, if needed, a model, inputs and
                further steps.
            batch_id: An id that you generate. A repeated call with it returns the existing batch.
            scheduled_for: The earliest time to start.
            user_id: The owner, which only a service key may set; None: the signed-in user, if any.
            priority: Generations with a higher priority run first; only a service key may set it.

        Returns:
            The id of the batch, and the generations in the order of the requests.

        Raises:
            PictureQueueError: For the same reasons as in `start`; the error names the request, such
                as ``requests[3].prompt``.
        """
        rpc = _rpc.start_generations(
            requests,
            batch_id=batch_id,
            scheduled_for=scheduled_for,
            user_id=user_id,
            priority=priority,
        )
        return self._backend.call(rpc)

    def get_batch(self, batch_id: UUID | str) -> GenerationBatch:
        """Return a batch of generations, or a chain: counts, progress and status of the whole.

        Raises:
            BatchNotFound: No such batch, or it belongs to another user.
        """
        return self._backend.call(_rpc.generation_batch(batch_id))

    def watch_batch(
        self, batch_id: UUID | str, *, timeout: float | None = None
    ) -> Generator[GenerationBatch, None, None]:
        """Yield the states of a batch or chain until all its generations have ended.

        States between may be skipped, but not the last one. The progress never decreases, also if
        a generation is retried. If the batch does not move, its newest state is yielded again with
        the reason.

        Args:
            batch_id: The id of the batch.
            timeout: Seconds to wait for the end of the batch; None: no limit.

        Raises:
            InvalidArgument: The timeout is not a number of seconds, or below zero.
            BatchNotFound: No such batch, or it belongs to another user.
            WaitTimeout: The batch did not end in time; the error has the reason. The batch
                continues.
        """
        return follow_batch(self._watcher, batch_id, timeout)

    def cancel_batch(self, batch_id: UUID | str) -> BatchCancelRequest:
        """Cancel all generations of a batch or chain that have not ended.

        Returns:
            The numbers of its generations by state.

        Raises:
            BatchNotFound: No such batch, or it belongs to another user.
        """
        return self._backend.call(_rpc.cancel_generation_batch(batch_id))

    def get(self, generation_id: UUID | str) -> Generation:
        """Return a generation with its images.

        Raises:
            GenerationNotFound: No such generation, or it belongs to another user.
        """
        return self._backend.call(_rpc.get_generation(generation_id))

    def list(
        self,
        *,
        status: JobStatus | str | None = None,
        model_id: str | None = None,
        kind: ModelKind | str | None = None,
        favourite: bool | None = None,
        search: str | None = None,
        user_id: UUID | str | None = None,
        limit: int = 100,
        before: datetime | Generation | None = None,
    ) -> builtins.list[Generation]:
        """Return generations with their images.

        Args:
            status: State of the generations to return; None: any state.
            model_id: The id of their model.
            kind: Their kind, such as ``upscale``.
            favourite: True: only favourites; False: only others.
            search: Words that the prompt contains, in any order. Case does not matter.
            user_id: The owner, for a service key; None: all owners.
            limit: Maximum number of results, up to 1000.
            before: The last generation of the previous page; or a time, to list older generations.

        Returns:
            The generations, newest first.

        Raises:
            InvalidArgument: A filter is invalid; the error names it and its value.
        """
        rpc = _rpc.list_generations(
            status=status,
            model_id=model_id,
            kind=kind,
            favourite=favourite,
            search=search,
            user_id=user_id,
            limit=limit,
            before=before,
        )
        return self._backend.call(rpc)

    def set_favourite(self, generation_id: UUID | str, favourite: bool = True) -> Generation:
        """Mark a generation as a favourite, or unmark it.

        Args:
            generation_id: The id of the generation.
            favourite: False to unmark it.

        Returns:
            The generation.

        Raises:
            GenerationNotFound: No such generation, or it belongs to another user.
        """
        return self._backend.call(_rpc.set_favourite(generation_id, favourite))

    def delete(self, generation_id: UUID | str) -> None:
        """Delete a generation with its pictures.

        The generation is hidden at once. Later a worker deletes its files, and then its row.

        Raises:
            GenerationNotFound: No such generation, or it belongs to another user.
            JobRunning: The generation has not finished; cancel it first.
        """
        self._backend.call(_rpc.delete_generation(generation_id))

    def cancel(self, generation_id: UUID | str) -> CancelRequest:
        """Cancel a generation at once if it is pending; ask its worker to stop if it is running.

        Returns:
            The state of its job.

        Raises:
            GenerationNotFound: No such generation, or it belongs to another user.
            JobFinished: The generation has already completed or failed.
        """
        return self._backend.call(_rpc.cancel_generation(generation_id))

    def watch(
        self, generation_id: UUID | str, *, timeout: float | None = None
    ) -> Generator[JobEvent, None, None]:
        """Yield the states of the job of a generation until it has finished; see `Jobs.watch`.

        Args:
            generation_id: The id of the generation.
            timeout: Seconds to wait for the end of the generation; None: no limit.

        Raises:
            InvalidArgument: The timeout is not a number of seconds, or below zero.
            GenerationNotFound: No such generation, or it belongs to another user.
            WaitTimeout: The generation did not finish in time; the error has the reason. The
                generation continues.
        """
        return follow(self._watcher, _rpc.get_generation(generation_id), timeout)

    def download(self, image: Image, *, thumbnail: bool = False) -> bytes:
        """Download a picture.

        Args:
            image: The picture.
            thumbnail: True returns the thumbnail of the picture, or the picture itself if it has
                no thumbnail.

        Returns:
            The bytes of the picture.

        Raises:
            NotFound: The picture was deleted, or belongs to another user.
            ConnectionFailed: The download did not end within the ``timeout`` of the client.
        """
        return picture_files.download_picture(self._backend, image, thumbnail)

    def save(self, image: Image, path: str | Path, *, thumbnail: bool = False) -> Path:
        """Write a picture to a file. An existing file is replaced; a symlink is refused.

        Args:
            image: The picture.
            path: The path of the file.
            thumbnail: True writes its thumbnail, or the picture if it has none.

        Returns:
            The path of the file.

        Raises:
            NotFound: The picture was deleted, or belongs to another user.
            OSError: The file cannot be written, or the path is not a regular file.
        """
        target = Path(path)
        replace_file(target, self.download(image, thumbnail=thumbnail))
        return target

    def url(
        self,
        image: Image,
        *,
        thumbnail: bool = False,
        expires_in: int = 3600,
        download: bool = False,
    ) -> str:
        """Create a signed URL. Anyone who has it can read the picture until the URL expires.

        Args:
            image: The picture.
            thumbnail: True returns the URL of its thumbnail, or of the picture if it has none.
            expires_in: Seconds until the URL expires.
            download: True lets a browser save the file instead of showing it.

        Returns:
            The URL.

        Raises:
            NotFound: The picture was deleted, or belongs to another user.
        """
        path = f"{picture_files.BUCKET}/{picture_files.storage_path(image, thumbnail)}"
        return picture_files.sign_url(self._backend, path, expires_in, download)

    def urls(
        self,
        images: Sequence[Image],
        *,
        thumbnail: bool = False,
        expires_in: int = 3600,
        download: bool = False,
    ) -> builtins.list[str | None]:
        """Create signed URLs in one call.

        Args:
            images: The pictures.
            thumbnail: True returns the URLs of their thumbnails, or of the pictures without one.
            expires_in: Seconds until the URLs expire.
            download: True lets a browser save the files instead of showing them.

        Returns:
            The URLs in the order of the pictures; None for a picture that was deleted or belongs
            to another user.
        """
        paths = [picture_files.storage_path(image, thumbnail) for image in images]
        return picture_files.sign_urls(self._backend, paths, expires_in, download)

    def upload(self, picture: bytes | str | Path, *, user_id: UUID | str) -> str:
        """Upload a picture as the input of a generation, for example to edit or upscale it.

        Args:
            picture: A PNG, JPEG or WebP picture of up to 10 MiB: its bytes, or the path of a file.
            user_id: The owner; with a user's token, the id of this user.

        Returns:
            The value to pass for an input that is a file: ``storage:uploads/<user id>/<name>``.

        Raises:
            InvalidArgument: The file is not a PNG, JPEG or WebP picture, or is too large.
            NotAllowed: The token belongs to another user than ``user_id``.
        """
        return picture_files.upload_picture(self._backend, picture, user_id)

# Written by scripts/unasync.py from picture_queue/_async/generations.py: edit that file.

"""Generations: requests for pictures."""

import builtins
from collections.abc import Generator, Mapping
from datetime import datetime
from pathlib import Path
from uuid import UUID

from pydantic import JsonValue

from picture_queue._json import encode
from picture_queue._realtime.sync_follow import Watcher, follow
from picture_queue._rpc import Rpc
from picture_queue._rpc import generations as _rpc
from picture_queue._transport.backend_sync import Backend
from picture_queue._transport.base import StorageCall, parse_answer
from picture_queue.records import (
    CancelRequest,
    Generation,
    Image,
    JobEvent,
    JobStatus,
    StartedGeneration,
)

BUCKET = "pictures"


class Generations:
    """The generations of a project; with a user's token, only those of that user."""

    def __init__(self, backend: Backend, watcher: Watcher) -> None:
        self._backend = backend
        self._watcher = watcher

    def start(
        self,
        prompt: str,
        model_id: str | None = None,
        input: Mapping[str, JsonValue] | None = None,
        *,
        scheduled_for: datetime | None = None,
        idempotency_key: str | None = None,
        user_id: UUID | str | None = None,
        priority: int | None = None,
        reuse: bool = False,
    ) -> StartedGeneration:
        """Start a generation and return without waiting for its pictures.

        Args:
            prompt: A description of the picture; empty for models without a prompt.
            model_id: The id of a model that `models.list` returns; None: the default model of the
                project.
            input: Further inputs of the model, which the database validates.
            scheduled_for: The earliest time to start.
            idempotency_key: A repeated call with the same key returns the first generation.
            user_id: The owner, which only a service key may set; None: the signed-in user, if any.
            priority: A generation with a higher priority runs first; only a service key may set it.
            reuse: Return an equal generation of the same owner that has completed, if there is one,
                and start none. Equal are the model and its version, the prompt, and all inputs.

        Returns:
            The ids of the generation and its job.

        Raises:
            UnknownModel: The project does not offer the model.
            InvalidInput: The prompt or an input is invalid; the error names the field and the
                value.
            NotAuthenticated: The client has neither a user's token nor a service key.
        """
        rpc = _rpc.start_generation(
            prompt,
            model_id,
            input,
            scheduled_for=scheduled_for,
            idempotency_key=idempotency_key,
            user_id=user_id,
            priority=priority,
            reuse=reuse,
        )
        return self._backend.call(rpc)

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
            favourite: True: only favourites; False: only others.
            search: Words that the prompt has, in any order. Case does not matter.
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

        It is hidden at once. A worker then deletes the files, and the row is removed after them.

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

    def download(self, image: Image) -> bytes:
        """Download a picture.

        Returns:
            The bytes of the picture.

        Raises:
            NotFound: The picture was deleted, or belongs to another user.
            ConnectionFailed: The download did not end within the ``timeout`` of the client.
        """
        return self._backend.storage(StorageCall("GET", f"object/{BUCKET}/{image.path}"))

    def save(self, image: Image, path: str | Path) -> Path:
        """Write a picture to a file.

        Returns:
            The path of the file.

        Raises:
            NotFound: The picture was deleted, or belongs to another user.
        """
        target = Path(path)
        target.write_bytes(self.download(image))  # noqa: ASYNC240 - small, and local
        return target

    def url(self, image: Image, *, expires_in: int = 3600) -> str:
        """Create a signed URL. Anyone who has it can read the picture until the URL expires.

        Args:
            image: The picture.
            expires_in: Seconds until the URL expires.

        Returns:
            The URL.

        Raises:
            NotFound: The picture was deleted, or belongs to another user.
        """
        call = StorageCall(
            "POST",
            f"object/sign/{BUCKET}/{image.path}",
            encode({"expiresIn": expires_in}),
            {"Content-Type": "application/json"},
        )
        answer = self._backend.storage(call)
        path = parse_answer(Rpc("create_signed_url", {}, lambda data: data["signedURL"]), answer)
        return f"{self._backend.storage_url}{path}"

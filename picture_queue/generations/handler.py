"""The handler of the jobs of generations.

It obtains one prediction, waits until it has ended, and stores its pictures.
"""

import asyncio
from collections.abc import Callable, Collection, Coroutine, Mapping
from typing import Any, NoReturn

from picture_queue._log import Log
from picture_queue.errors import Busy, ConnectionFailed, StaleLease
from picture_queue.generations._tasks import finish_despite_cancel
from picture_queue.generations.poll_schedule import PollSchedule
from picture_queue.generations.predictions import PredictionManager
from picture_queue.generations.progress import GenerationProgress
from picture_queue.generations.settings import HandlerSettings
from picture_queue.generations.store import GenerationStore
from picture_queue.generations.store_images import (
    PendingUploads,
    StoredImages,
    delete_files_without_row,
    store_images,
)
from picture_queue.generations.thumbnails import ThumbnailMaker
from picture_queue.providers import errors
from picture_queue.providers.base import Prediction, Provider
from picture_queue.records import BegunPrediction, FinalState
from picture_queue.worker import (
    Cancel,
    JobContext,
    Park,
    PermanentFailure,
    RateLimited,
    Retry,
    Snooze,
)

_log = Log(__name__)

#: The job type of each kind of generation of Replicate, as in SQL.
JOB_TYPES = {
    "text-to-image": "generate-image",
    "image-variation": "vary-image",
    "image-edit": "edit-image",
    "upscale": "upscale-image",
    "background-removal": "remove-background",
    "vector": "vectorize-image",
}

#: The final state of a row by the status of its unsuccessful prediction; all others are "failed".
_FINAL_STATES: dict[str, FinalState] = {"canceled": "canceled", "aborted": "aborted"}

#: Seconds to store the pictures after a cancel. With the cleanup and ``cancel_timeout`` (10 by
#: default), this must be less than the 25 seconds that the worker waits for the handler.
_STORE_TIMEOUT = 10.0
_CLEANUP_TIMEOUT = 3.0  # seconds to save or delete the files of an attempt that is over

Handler = Callable[[dict[str, Any], JobContext], Coroutine[Any, Any, dict[str, Any]]]


def job_type_of(provider: str, kind: str = "text-to-image") -> str:
    """Return the job type of a kind of generation, as `_generation_job_type` in SQL does.

    Each provider has its own, so that a worker claims only jobs whose provider it has.
    """
    job_type = JOB_TYPES[kind]
    return job_type if provider == "replicate" else f"{job_type}:{provider}"


def pause_key(provider: str) -> str:
    """Return the limit key of a provider's jobs.

    It is paused if the provider throttles the account or is unreachable.
    """
    return f"provider:{provider}"


def image_handler(
    providers: Mapping[str, Provider],
    store_for: Callable[[JobContext], GenerationStore],
    settings: HandlerSettings | None = None,
    thumbnails: ThumbnailMaker | None = None,
) -> Handler:
    """Create the handler.

    Args:
        providers: The providers by name, for all jobs; the caller closes them.
        store_for: Function that returns the store of a job, bound to its lease.
        settings: The settings of the handler; None: the defaults.
        thumbnails: The maker of thumbnails, which the caller closes; None: pictures get none.

    Returns:
        The coroutine function ``generate_image(payload, job)``. Its result is
        ``{"images": [...], "missing_images": [...]}``. After an error of the provider it raises
        `RateLimited`, `Snooze`, `Retry` or `PermanentFailure`, which decides what the worker does
        with the job.
    """
    handler_settings = settings or HandlerSettings()

    async def generate_image(payload: dict[str, Any], job: JobContext) -> dict[str, Any]:
        store = store_for(job)
        files = payload.get("operator_files", ())  # the inputs whose files the rules have added
        return await _GenerationRun(
            providers, store, job, handler_settings, thumbnails, files
        ).run()

    return generate_image


class _InternalError(Exception):
    """An internal error, whose message for the owner reveals no details.

    The worker reads the attributes of this exception, and writes its cause to the log and the
    history of the job.
    """

    owner_message = "The picture could not be made, because of an internal error."

    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.retryable = getattr(cause, "retryable", True)
        self.retry_after = getattr(cause, "retry_after", None)


class _GenerationRun:
    """One attempt at one generation."""

    def __init__(
        self,
        providers: Mapping[str, Provider],
        store: GenerationStore,
        job: JobContext,
        settings: HandlerSettings,
        thumbnails: ThumbnailMaker | None,
        operator_files: Collection[str],
    ) -> None:
        self._store = store
        self._thumbnails = thumbnails
        self._job = job
        self._settings = settings
        self._progress = GenerationProgress(job)
        self._manager = PredictionManager(
            providers, store, self._progress, settings, operator_files
        )
        self._uploads = PendingUploads(store)
        self._has_cancelled = False  # True once this attempt has cancelled an overdue prediction

    async def run(self) -> dict[str, Any]:
        try:
            return await self._generate_and_clean_up()
        except asyncio.CancelledError:
            # If the worker releases the job at shutdown, the prediction continues, and the next
            # worker attaches to it.
            if self._job.cancel_requested:
                await self._cancel_prediction()
            await self._manager.abandon()
            raise
        except errors.ProviderError as error:
            failure = error
        except (Busy, ConnectionFailed) as error:
            failure = errors.ServiceUnavailable(
                "The project does not answer", detail=str(error), retry_after=error.retry_after
            )
            failure.__cause__ = error
        except StaleLease:
            await self._manager.abandon()
            raise
        except (Park, Cancel):
            raise
        except Exception as error:
            # Only the operator may see the text of this error. It may quote the database or the
            # operator's settings. The error of the project's own provider may quote anything.
            raise _InternalError(error) from error
        if self._job.cancel_requested:
            raise failure  # the worker reports the cancel
        raise await self._verdict_of(failure) from failure

    async def _verdict_of(self, error: errors.ProviderError) -> Exception:
        """Return the exception that decides what the worker does with the job after an error."""
        owner_message, wait = error.owner_message, error.retry_after
        key, uses_attempt = None, error.uses_attempt
        begun, prediction = self._manager.begun, self._manager.prediction
        if not uses_attempt:
            # The account is throttled or the provider is unreachable, so the provider's other jobs
            # would fail too, and are paused. Without a row, this worker lacks the provider, but
            # other workers may have it, so no other job is paused.
            key = pause_key(begun.prediction.provider) if begun else None
        elif begun is None and isinstance(error.__cause__, Busy | ConnectionFailed):
            uses_attempt = False  # the project does not answer, and no prediction was created
        elif begun is not None and isinstance(error, errors.ServiceUnavailable):
            # The prediction is paid for, so this job keeps it. Other jobs may succeed, so they are
            # not paused.
            uses_attempt = self._manager.age > self._settings.outage_tolerance
            if prediction is not None and prediction.status == "succeeded":
                owner_message = "The picture was made and waits to be stored."
        if uses_attempt:
            is_last = error.max_attempts is not None and self._job.attempt >= error.max_attempts
            retries = error.retryable and not is_last
            return Retry(wait, reason=owner_message) if retries else PermanentFailure(owner_message)
        await self._progress.show(0, owner_message)
        wait = self._settings.default_pause if wait is None else wait
        return RateLimited(wait, key, reason=error) if key else Snooze(wait, reason=error)

    async def _generate_and_clean_up(self) -> dict[str, Any]:
        """Generate the pictures; after an error, save the rows of stored pictures or delete them.

        The owner can read every file in the folder, but pays only for files with a row. So no file
        without a row may remain.
        """
        try:
            return await self._generate()
        except StaleLease:  # the next worker has the files
            raise
        except BaseException as error:
            has_earlier_files = self._job.attempt > 1 and not isinstance(error, Park)
            await self._clean_up(has_earlier_files, _CLEANUP_TIMEOUT)
            raise

    async def _clean_up(self, has_earlier_files: bool, timeout: float) -> None:
        """Save the rows of the pictures that this attempt has stored, or delete their files.

        Args:
            has_earlier_files: Whether an earlier attempt may have left files without a row, because
                its worker died. They are deleted.
            timeout: Maximum seconds.
        """
        begun = self._manager.begun
        try:
            async with asyncio.timeout(timeout):
                await self._uploads.resolve()
                if has_earlier_files and begun is not None:
                    await delete_files_without_row(self._store, begun)
        except Exception:
            # The worker must report the first error, which also decides about the retry.
            _log.warning("job %s: its files were not deleted", self._job.id, exc_info=True)

    async def _generate(self) -> dict[str, Any]:
        if self._job.cancel_requested:  # before this attempt
            await self._undo_earlier_attempt()
        begun, prediction = await self._manager.find_or_create()
        if prediction is None:  # an earlier attempt stored the pictures, but did not report it
            return _result(StoredImages(begun.images, begun.generation.missing_images))
        prediction = await self._wait_for_end(begun, prediction)
        if prediction.status != "succeeded":
            error = await self._fail(begun, prediction)
            await self._manager.cancel_duplicates(prediction)
            raise error
        # The prediction is paid for, and the owner can read the stored pictures. So a cancel that
        # arrives while the pictures are being stored comes too late. If storing takes too long, the
        # generation is cancelled, and its owner pays for the stored pictures.
        return await finish_despite_cancel(
            self._deliver(begun, prediction), self._time_to_store, keep_result=True
        )

    def _time_to_store(self) -> float:
        """Return the seconds to store the pictures after a cancellation of this task."""
        return _STORE_TIMEOUT if self._job.cancel_requested else 0.0  # 0: the worker stops

    async def _wait_for_end(self, begun: BegunPrediction, prediction: Prediction) -> Prediction:
        """Poll until the prediction has ended, and report progress; cancel it if it is overdue.

        Raises:
            Park: The prediction will take longer, so the job waits without a slot.
        """
        clock = asyncio.get_running_loop().time
        # The clock of the database gives the age, since that of the worker may be wrong.
        created = clock() - begun.age_seconds
        limit = self._manager.time_limit(begun) + self._settings.stop_margin
        schedule = PollSchedule(begun, self._manager.provider, self._settings)
        while not prediction.has_ended:
            age = clock() - created
            if age > limit:
                return await self._stop_overdue(begun, prediction)
            model = begun.model
            prints_percent = model.progress_in_logs == "percent"
            typical_seconds = None if prints_percent else model.typical_seconds
            await self._progress.show_prediction(prediction, age, typical_seconds)
            if schedule.should_park(age):
                # The next attempt does not know which rows this one has given up as lost.
                await self._manager.cancel_duplicates(prediction)
                raise Park(schedule.parked_interval(), f"prediction:{begun.prediction.id}")
            interval = schedule.next_interval(prediction, age)
            await self._manager.provider.wait(prediction.id, interval)
            try:
                prediction = await self._manager.attach(begun, prediction.id)
            except (errors.TooManyRequests, errors.ServiceUnavailable) as error:
                # The prediction continues, so it is polled again until `limit`.
                _log.info("job %s: the prediction could not be read: %s", self._job.id, error)
                schedule.slow_down(error.retry_after)
        return prediction

    async def _stop_overdue(self, begun: BegunPrediction, prediction: Prediction) -> Prediction:
        """Cancel an overdue prediction and return it; it may have succeeded in the meantime."""
        self._has_cancelled = True
        provider = self._manager.provider
        if provider.capabilities.cancel:
            prediction = await provider.cancel(prediction.id)
            self._manager.prediction = prediction
        if not prediction.has_ended:
            await self._manager.finish(begun, "canceled", "overdue")
            raise errors.DeadlinePassed("The prediction did not end", detail=prediction.id)
        return prediction

    async def _fail(self, begun: BegunPrediction, prediction: Prediction) -> errors.ProviderError:
        """Finish the row of an unsuccessful prediction; return the error to raise."""
        error: errors.ProviderError
        if prediction.status == "failed":
            error = self._manager.provider.classify(prediction)
        elif prediction.status == "aborted":
            error = errors.NotStarted("The prediction reached its deadline before its start")
        elif self._has_cancelled or prediction.reached_deadline:
            error = errors.DeadlinePassed("The prediction reached its deadline")
        else:
            error = errors.StoppedOutside("The prediction was cancelled at the provider")
        state = _FINAL_STATES.get(prediction.status, "failed")
        await self._manager.finish(begun, state, prediction.error or str(error))
        return error

    async def _deliver(self, begun: BegunPrediction, prediction: Prediction) -> dict[str, Any]:
        """Store the pictures, finish the row of their prediction, and return the job's result."""
        stored = await self._store_images(begun, prediction)
        await self._manager.finish(begun, "succeeded")
        await self._manager.cancel_duplicates(prediction)
        return _result(stored)

    async def _store_images(self, begun: BegunPrediction, prediction: Prediction) -> StoredImages:
        """Download and store the pictures and write their rows."""
        await self._progress.show(0, "storing the pictures")
        storage = (
            self._manager.provider,
            self._store,
            self._settings,
            self._thumbnails,
            self._uploads,
        )
        try:
            try:
                stored = await store_images(begun, prediction, self._manager.age, *storage)
            except errors.OutputError as error:
                # The prediction is paid for, so a single unexpected answer must not end it.
                _log.warning("job %s: downloading the output again: %s", self._job.id, error)
                await asyncio.sleep(self._settings.recheck_delay)
                prediction = await self._manager.attach(begun, prediction.id)
                stored = await store_images(begun, prediction, self._manager.age, *storage)
        except (errors.OutputError, errors.ContentRefused) as error:
            await self._manager.finish(begun, "failed", str(error))
            raise
        await self._store.save_images(stored.images, stored.missing)
        self._uploads.record_saved(stored.images)
        if self._job.attempt > 1:
            await self._clean_up(True, _CLEANUP_TIMEOUT)
        return stored

    async def _undo_earlier_attempt(self) -> NoReturn:
        """Cancel the prediction of an earlier attempt, after a cancel between two attempts.

        The earlier attempt has parked the job, or its worker has died.
        """
        if await self._manager.resume():
            # A cancelled job gets no further attempt once the row of its prediction is final. So
            # the files are deleted before this row gets its final state.
            await self._clean_up(True, self._settings.cancel_timeout)
            await self._cancel_prediction()
        raise Cancel

    async def _cancel_prediction(self) -> None:
        """Try to cancel the prediction of a cancelled job, within ``cancel_timeout``.

        The row gets the final state of the prediction, since a prediction that has succeeded in the
        meantime costs money.
        """
        begun = self._manager.begun
        if begun is None:
            return
        try:
            async with asyncio.timeout(self._settings.cancel_timeout):
                state = await self._manager.cancel(begun)
                await self._manager.finish(begun, state)
        except Exception:
            # The job is cancelled anyway, and the provider stops the prediction at its deadline.
            _log.warning("job %s: its prediction was not cancelled", self._job.id, exc_info=True)


def _result(stored: StoredImages) -> dict[str, Any]:
    return {
        "images": [image.model_dump(mode="json") for image in stored.images],
        "missing_images": [image.model_dump(mode="json") for image in stored.missing],
    }

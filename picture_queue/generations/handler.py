"""The handler of ``generate-image`` jobs.

It obtains one prediction, waits until it has ended, and stores its pictures.
"""

import asyncio
import random
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Any

from picture_queue._log import Log
from picture_queue.errors import Busy, ConnectionFailed, PictureQueueError, StaleLease
from picture_queue.generations.predictions import PredictionManager
from picture_queue.generations.progress import GenerationProgress
from picture_queue.generations.settings import HandlerSettings
from picture_queue.generations.store import GenerationStore
from picture_queue.generations.store_images import StoredImages, store_images
from picture_queue.generations.thumbnails import ThumbnailMaker
from picture_queue.providers.replicate import errors
from picture_queue.providers.replicate.client import ReplicateClient
from picture_queue.providers.replicate.prediction import Prediction
from picture_queue.records import BegunPrediction, FinalState
from picture_queue.worker import JobContext, PermanentFailure, RateLimited, Retry, Snooze

_log = Log(__name__)

JOB_TYPE = "generate-image"
#: The limit key of these jobs; it is paused if Replicate throttles the account or is unreachable.
PAUSE_KEY = f"type:{JOB_TYPE}"

_COLD_START = 60.0  # seconds in the status `starting` after which a prediction is polled slowly
_COLD_POLL_INTERVAL = 10.0  # seconds
#: The final state of a row by the status of its unsuccessful prediction; all others are "failed".
_FINAL_STATES: dict[str, FinalState] = {"canceled": "canceled", "aborted": "aborted"}

Handler = Callable[[dict[str, Any], JobContext], Coroutine[Any, Any, dict[str, Any]]]


def image_handler(
    client: ReplicateClient,
    store_for: Callable[[JobContext], GenerationStore],
    settings: HandlerSettings | None = None,
    thumbnails: ThumbnailMaker | None = None,
) -> Handler:
    """Create the handler.

    Args:
        client: The client of Replicate for all jobs; the caller closes it.
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
        return await _GenerationRun(client, store_for(job), job, handler_settings, thumbnails).run()

    return generate_image


class _InternalError(Exception):
    """A failure that is not the owner's, with a text for the owner.

    The worker reads its attributes, and writes its cause to the log and the history.
    """

    public = "The picture could not be made, because of an internal error."

    def __init__(self, cause: PictureQueueError) -> None:
        super().__init__(str(cause))
        self.retryable = getattr(cause, "retryable", True)
        self.retry_after = getattr(cause, "retry_after", None)


class _GenerationRun:
    """One attempt at one generation."""

    def __init__(
        self,
        client: ReplicateClient,
        store: GenerationStore,
        job: JobContext,
        settings: HandlerSettings,
        thumbnails: ThumbnailMaker | None,
    ) -> None:
        self._client = client
        self._thumbnails = thumbnails
        self._store = store
        self._job = job
        self._settings = settings
        self._progress = GenerationProgress(job)
        self._manager = PredictionManager(client, store, self._progress, settings)
        self._has_cancelled = False  # True once this attempt has cancelled an overdue prediction

    async def run(self) -> dict[str, Any]:
        try:
            return await self._generate()
        except asyncio.CancelledError:
            # If the worker releases the job at shutdown, the prediction continues, and the next
            # worker attaches to it.
            if self._job.cancel_requested:
                await self._cancel_prediction()
            raise
        except errors.ReplicateError as error:
            failure = error
        except (Busy, ConnectionFailed) as error:
            failure = errors.ServiceUnavailable(
                "The project does not answer", detail=str(error), retry_after=error.retry_after
            )
            failure.__cause__ = error
        except StaleLease:
            raise
        except PictureQueueError as error:
            # Its text may quote the database or the operator's settings: it is for the operator.
            raise _InternalError(error) from error
        if self._job.cancel_requested:
            raise failure  # the worker reports the cancel
        raise await self._verdict_of(failure) from failure

    async def _verdict_of(self, error: errors.ReplicateError) -> Exception:
        """Return the exception that decides what the worker does with the job after an error."""
        public, wait = error.public, error.retry_after
        key, counts = None, error.counts
        begun, prediction = self._manager.begun, self._manager.prediction
        if not counts:
            # The account is throttled or Replicate is unreachable, so other jobs would fail too.
            key = PAUSE_KEY
        elif begun is None and isinstance(error.__cause__, Busy | ConnectionFailed):
            counts = False  # nothing has begun, and the project is at fault
        elif begun is not None and isinstance(error, errors.ServiceUnavailable):
            # The prediction is paid for, so this job keeps it. Other jobs may succeed, so they are
            # not paused.
            age = datetime.now(UTC) - begun.prediction.created_at
            counts = age.total_seconds() > self._settings.outage_tolerance
            if prediction is not None and prediction.status == "succeeded":
                public = "The picture was made and waits to be stored."
        if counts:
            is_last = error.max_attempts is not None and self._job.attempt >= error.max_attempts
            retries = error.retryable and not is_last
            return Retry(wait, reason=public) if retries else PermanentFailure(public)
        await self._progress.show(0, public)
        wait = self._settings.default_pause if wait is None else wait
        return RateLimited(wait, key, reason=error) if key else Snooze(wait, reason=error)

    async def _generate(self) -> dict[str, Any]:
        begun, prediction = await self._manager.find_or_create()
        if prediction is None:  # an earlier attempt stored the pictures, but did not report it
            return _result(StoredImages(begun.images, begun.generation.missing_images))
        prediction = await self._wait_for_end(begun, prediction)
        if prediction.status != "succeeded":
            error = await self._fail(begun, prediction)
            await self._manager.cancel_duplicates(prediction)
            raise error
        stored = await self._store_images(begun, prediction)
        row = begun.prediction.id
        await self._store.finish(row, "succeeded", metrics=prediction.metrics)
        await self._manager.cancel_duplicates(prediction)
        return _result(stored)

    async def _wait_for_end(self, begun: BegunPrediction, prediction: Prediction) -> Prediction:
        """Poll until the prediction has ended, and report progress; cancel it if it is overdue."""
        clock = asyncio.get_running_loop().time
        started = clock()
        latest_end = started + self._manager.cancel_after(begun) + self._settings.stop_margin
        interval = self._first_poll_interval(begun)
        while not prediction.has_ended:
            if clock() > latest_end:
                return await self._stop_overdue(begun, prediction)
            await self._progress.show_prediction(prediction)
            is_cold = prediction.status == "starting" and clock() - started > _COLD_START
            await asyncio.sleep(_jittered(_COLD_POLL_INTERVAL if is_cold else interval))
            interval = min(interval * 1.2, self._settings.max_poll_interval)
            try:
                prediction = await self._manager.attach(begun, prediction.id)
            except (errors.TooManyRequests, errors.ServiceUnavailable) as error:
                # The prediction continues, so it is polled again until `latest_end`.
                _log.info("job %s: the prediction could not be read: %s", self._job.id, error)
        return prediction

    def _first_poll_interval(self, begun: BegunPrediction) -> float:
        if self._settings.first_poll_interval is not None:
            return self._settings.first_poll_interval
        return min(max((begun.model.typical_seconds or 4.0) / 8, 0.25), 1.0)

    async def _stop_overdue(self, begun: BegunPrediction, prediction: Prediction) -> Prediction:
        """Cancel an overdue prediction and return it; it may have succeeded in the meantime."""
        self._has_cancelled = True
        prediction = await self._client.cancel(prediction.id)
        if not prediction.has_ended:
            await self._store.finish(begun.prediction.id, "canceled", error="overdue")
            raise errors.DeadlinePassed("The prediction did not end", detail=prediction.id)
        return prediction

    async def _fail(self, begun: BegunPrediction, prediction: Prediction) -> errors.ReplicateError:
        """Finish the row of an unsuccessful prediction; return the error to raise."""
        error: errors.ReplicateError
        if prediction.status == "failed":
            error = errors.from_failure(prediction.error)
        elif prediction.status == "aborted" or self._has_cancelled or prediction.reached_deadline:
            error = errors.DeadlinePassed("The prediction reached its deadline")
        else:
            error = errors.StoppedOutside("The prediction was cancelled at Replicate")
        await self._store.finish(
            begun.prediction.id,
            _FINAL_STATES.get(prediction.status, "failed"),
            error=prediction.error or str(error),
            metrics=prediction.metrics,
        )
        return error

    async def _store_images(self, begun: BegunPrediction, prediction: Prediction) -> StoredImages:
        """Download and store the pictures and write their rows."""
        await self._progress.show(0, "storing the pictures")
        client, store, settings = self._client, self._store, self._settings
        thumbnails = self._thumbnails
        try:
            try:
                stored = await store_images(client, store, begun, prediction, settings, thumbnails)
            except errors.OutputError as error:
                # The prediction is paid for, so a single unexpected answer must not end it.
                _log.warning("job %s: downloading the output again: %s", self._job.id, error)
                await asyncio.sleep(self._settings.recheck_delay)
                prediction = await self._manager.attach(begun, prediction.id)
                stored = await store_images(client, store, begun, prediction, settings, thumbnails)
        except errors.OutputError as error:
            await self._store.finish(
                begun.prediction.id, "failed", error=str(error), metrics=prediction.metrics
            )
            raise
        await self._store.save_images(stored.images, stored.missing)
        return stored

    async def _cancel_prediction(self) -> None:
        """Try to cancel the prediction of a cancelled job, within ``cancel_timeout``."""
        begun = self._manager.begun
        if begun is None:
            return
        try:
            async with asyncio.timeout(self._settings.cancel_timeout):
                await self._manager.cancel(begun)
                await self._store.finish(begun.prediction.id, "canceled")
        except Exception:
            # The job is cancelled anyway, and Replicate stops the prediction at its deadline.
            _log.warning("job %s: its prediction was not cancelled", self._job.id, exc_info=True)


def _result(stored: StoredImages) -> dict[str, Any]:
    return {
        "images": [image.model_dump(mode="json") for image in stored.images],
        "missing_images": [image.model_dump(mode="json") for image in stored.missing],
    }


def _jittered(seconds: float) -> float:
    return seconds * random.uniform(0.8, 1.2)  # noqa: S311 - not for security

"""The handler of ``generate-image`` jobs: one prediction is paid for, however often a worker dies.

The recipe: commit a row, create the prediction, record its id, wait, fetch the pictures at once,
store them, end the row. Each step can be the last one of a worker. Whoever takes over looks at the
row: with an id it attaches to the prediction; without one the outcome of the create is unknown, and
it looks for the prediction at Replicate before it creates another.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol
from uuid import UUID

from picture_queue.errors import Busy, Conflict, ConnectionFailed, StaleLease
from picture_queue.replicate import errors, orphans
from picture_queue.replicate._tasks import to_its_end
from picture_queue.replicate.client import ReplicateClient
from picture_queue.replicate.keep import keep_pictures
from picture_queue.replicate.prediction import Prediction
from picture_queue.replicate.store import Begun, FinalState, GenerationStore, SavedImage

logger = logging.getLogger(__name__)

JOB_TYPE = "generate-image"
#: The limit key all these jobs run under.
PAUSE_KEY = f"type:{JOB_TYPE}"


class GenerationJob(Protocol):
    """The part of the job's context that the handler uses."""

    @property
    def id(self) -> UUID:
        """Id of the job."""
        ...

    @property
    def attempt(self) -> int:
        """Number of this attempt, from 1."""
        ...

    @property
    def cancel_requested(self) -> bool:
        """True if the job is being cancelled, not released at shutdown."""
        ...

    async def progress(self, percent: int, message: str | None = None) -> None:
        """Reports progress."""
        ...


@dataclass(frozen=True)
class HandlerSettings:
    """The waits of the handler. Times in seconds.

    Attributes:
        deadline: Time a prediction gets from its creation, queue and cold start included. Replicate
            stops it then, whatever became of us.
        margin: Time beyond the deadline before we stop it ourselves.
        first_look: Time to the first look at a prediction; None: an eighth of the model's typical
            time, within 0.25 and 1.
        longest_look: Longest time between two looks.
        grace: Time between the two looks for the prediction of a create whose answer was lost.
        undo: Time for taking back what a cancelled job began.
        pause: Time a job waits that Replicate throttles without saying how long, or that could not
            reach it.
        outage: Time from the begin of a prediction for which an outage of Replicate, of the host of
            its output, or of the project costs no attempt. Replicate keeps the output for an hour.
        parallel: Pictures fetched and stored at the same time.
    """

    deadline: float = 600.0
    margin: float = 30.0
    first_look: float | None = None
    longest_look: float = 5.0
    grace: float = 15.0
    undo: float = 10.0
    pause: float = 10.0
    outage: float = 3600.0
    parallel: int = 4


Handler = Callable[[dict[str, Any], GenerationJob], Coroutine[Any, Any, dict[str, Any]]]


def image_handler(
    client: ReplicateClient,
    store_for: Callable[[GenerationJob], GenerationStore],
    settings: HandlerSettings | None = None,
) -> Handler:
    """Makes the handler.

    Args:
        client: For all jobs; stays the caller's to close.
        store_for: Gives the store of a job, bound to its lease.
        settings: See `HandlerSettings`.

    Returns:
        ``async def generate_image(payload, job)``. Its result is ``{"images": [...]}``. It raises
        `ReplicateError`, whose ``public``, ``retryable``, ``counts``, ``retry_after`` and
        ``pause_key`` say what to report; a `CancelledError` means cancelled or released as the
        job's flags say.
    """
    chosen = settings or HandlerSettings()

    async def generate_image(payload: dict[str, Any], job: GenerationJob) -> dict[str, Any]:
        return await _Attempt(client, store_for(job), job, chosen).run()

    return generate_image


_ROUNDS = 3  # rows an attempt may begin before it leaves the rest to the next attempt
_COLD_START = 60.0  # seconds in `starting` after which looks become rare
_COLD_LOOK = 10.0
_STATES: dict[str, FinalState] = {"canceled": "canceled", "aborted": "aborted"}


class _Attempt:
    """One attempt of one job."""

    def __init__(
        self,
        client: ReplicateClient,
        store: GenerationStore,
        job: GenerationJob,
        settings: HandlerSettings,
    ) -> None:
        self._client = client
        self._store = store
        self._job = job
        self._settings = settings
        self._begun: Begun | None = None
        self._prediction: Prediction | None = None
        self._lost: list[Begun] = []
        self._is_overdue = False  # by our own clock, which stopped it
        self._shown: tuple[int, str] = (-1, "")

    async def run(self) -> dict[str, Any]:
        try:
            return await self._generate()
        except asyncio.CancelledError:
            # A release at shutdown leaves the prediction running: the next worker attaches.
            if self._job.cancel_requested:
                await self._undo()
            raise
        except (Busy, ConnectionFailed) as error:
            unavailable = errors.ServiceUnavailable(
                "The project does not answer", detail=str(error), retry_after=error.retry_after
            )
            raise await self._judged(unavailable) from error
        except errors.ReplicateError as error:
            raise await self._judged(error)  # noqa: B904 - it is the same

    async def _judged(self, error: errors.ReplicateError) -> errors.ReplicateError:
        """Decide whether the attempt counts, and for how long who has to wait."""
        if error.tries is not None and self._job.attempt >= error.tries:
            error.retryable = False
        if not error.counts:
            # The account is throttled or Replicate is out of reach: no other job would fare better.
            error.pause_key = PAUSE_KEY
        elif isinstance(error, errors.ServiceUnavailable) and self._begun is not None:
            # What was begun is paid for. Others may fare better, so they do not wait.
            age = datetime.now(UTC) - self._begun.prediction.created_at
            error.counts = age.total_seconds() > self._settings.outage
            if self._prediction is not None and self._prediction.status == "succeeded":
                error.public = "The picture was made and waits to be stored."
        if not error.counts:
            if error.retry_after is None:
                error.retry_after = self._settings.pause
            await self._show(0, error.public)
        return error

    async def _generate(self) -> dict[str, Any]:
        begun, prediction = await self._obtain()
        if prediction is None:  # saved by an attempt that died before it could say so
            return _result(begun.images)
        prediction = await self._ended(begun, prediction)
        if prediction.status != "succeeded":
            error = await self._failed(begun, prediction)
            await self._cancel_doubles(prediction)
            raise error
        images = await self._keep(begun, prediction)
        row = begun.prediction.id
        await self._store.finish(row, "succeeded", metrics=prediction.metrics)
        await self._cancel_doubles(prediction)
        return _result(images)

    # --- one prediction, and its id on record ---

    async def _obtain(self) -> tuple[Begun, Prediction | None]:
        """Attaches to the prediction of this generation, or creates it.

        Returns:
            The row, and the prediction; None where the row says that its images are saved.
        """
        for _ in range(_ROUNDS):
            begun = self._begun = await self._store.begin()
            row = begun.prediction
            if row.state == "succeeded":
                return begun, None
            if row.prediction_id is not None:
                return begun, await self._attach(begun, row.prediction_id)
            if not begun.resumed:
                await self._show(0, "waiting for the model")
                if prediction := await to_its_end(self._create(begun), self._settings.undo):
                    return begun, prediction
            if prediction := await self._search(begun):
                return begun, prediction
            logger.warning("job %s: the answer to a create was lost, beginning anew", self._job.id)
            await self._store.finish(row.id, "lost", error="No prediction was found")
            self._lost.append(begun)
        raise errors.OutcomeUnknown(f"The answers to {_ROUNDS} creates were lost")

    async def _attach(self, begun: Begun, prediction_id: str) -> Prediction:
        try:
            self._prediction = await self._client.get(prediction_id)
        except errors.NotFound as error:
            await self._store.finish(begun.prediction.id, "lost", error=str(error))
            raise errors.OutputExpired(
                "Replicate no longer has the prediction", detail=prediction_id
            ) from error
        return self._prediction

    async def _create(self, begun: Begun) -> Prediction | None:
        """Creates the prediction and records its id.

        Returns:
            None when the answer was lost, or when another row took the prediction for its own.
        """
        row, model = begun.prediction, begun.model
        if model.official is False and model.version is None:
            refusal = errors.Misconfigured(f"The catalogue has no version of {model.model_id}")
            await self._store.finish(row.id, "failed", error=str(refusal))
            raise refusal
        try:
            prediction = await self._client.create(
                model.model_id,
                row.input,
                version=None if model.official else model.version,
                cancel_after=self._cancel_after(begun),
            )
        except errors.OutcomeUnknown:
            return None
        except errors.ReplicateError as error:
            # Nothing was made: ending the row spares the next attempt a search.
            await self._store.finish(row.id, "failed", error=str(error))
            raise
        self._prediction = prediction  # ours to cancel from here on, recorded or not
        return prediction if await self._record(begun, prediction) else None

    async def _record(self, begun: Begun, prediction: Prediction) -> bool:
        """Makes a prediction the row's own; False when it is another row's."""
        try:
            await self._store.record(begun.prediction.id, prediction.id)
        except StaleLease:
            raise
        except Conflict:
            self._prediction = None
            return False
        self._prediction = prediction
        return True

    async def _search(self, begun: Begun) -> Prediction | None:
        """Looks twice for what a create may have made, and takes it over."""
        taken = set(begun.owned)
        for last in (False, True):
            for candidate in await self._candidates(begun, taken):
                if await self._record(begun, candidate):
                    return await self._attach(begun, candidate.id)
                taken.add(candidate.id)
            if not last:
                await self._show(0, "waiting for the image service")
                await asyncio.sleep(self._settings.grace)
        return None

    async def _candidates(self, begun: Begun, taken: set[str]) -> list[Prediction]:
        since = begun.prediction.created_at - orphans.CLOCK_SKEW
        listed = await self._client.created_after(since)
        return orphans.candidates(begun, listed, taken, self._cancel_after(begun))

    async def _cancel_doubles(self, kept: Prediction) -> None:
        """Cancels what a create made after all that was given up as lost.

        Only what its deadline proves to be ours: with equal inputs in several jobs, a stranger's
        prediction looks the same otherwise. What is not found costs no more than its deadline.
        """
        for lost in self._lost:
            try:
                await self._cancel_certain(lost, {*lost.owned, kept.id})
            except errors.ReplicateError:
                logger.warning("job %s: no look for doubles", self._job.id, exc_info=True)

    async def _cancel_certain(self, begun: Begun, taken: set[str]) -> None:
        asked = self._cancel_after(begun)
        for candidate in await self._candidates(begun, taken):
            if orphans.certain(candidate, asked):
                logger.info("job %s: cancelling %s", self._job.id, candidate.id)
                await self._client.cancel(candidate.id)

    def _cancel_after(self, begun: Begun) -> int:
        return orphans.cancel_after(begun.prediction, self._settings.deadline)

    # --- waiting ---

    async def _ended(self, begun: Begun, prediction: Prediction) -> Prediction:
        """Waits for the end, showing progress; own clock, own bound."""
        clock = asyncio.get_running_loop().time
        began = clock()
        bound = began + self._cancel_after(begun) + self._settings.margin
        pause = self._first_look(begun)
        while not prediction.terminal:
            if clock() > bound:
                return await self._stopped(begun, prediction)
            await self._show_progress(prediction)
            cold = prediction.status == "starting" and clock() - began > _COLD_START
            await asyncio.sleep(_jittered(_COLD_LOOK if cold else pause))
            pause = min(pause * 1.2, self._settings.longest_look)
            try:
                prediction = await self._attach(begun, prediction.id)
            except (errors.RateLimited, errors.ServiceUnavailable) as error:
                # It runs on without us; only the bound ends this.
                logger.info("job %s: no look at the prediction: %s", self._job.id, error)
        return prediction

    async def _stopped(self, begun: Begun, prediction: Prediction) -> Prediction:
        """Cancels a prediction that is overdue; it can have ended well in the meantime."""
        self._is_overdue = True
        prediction = await self._client.cancel(prediction.id)
        if not prediction.terminal:
            await self._store.finish(begun.prediction.id, "canceled", error="overdue")
            raise errors.DeadlinePassed("The prediction did not end", detail=prediction.id)
        return prediction

    def _first_look(self, begun: Begun) -> float:
        if self._settings.first_look is not None:
            return self._settings.first_look
        return min(max((begun.model.typical_seconds or 4.0) / 8, 0.25), 1.0)

    async def _show_progress(self, prediction: Prediction) -> None:
        if prediction.status not in ("starting", "processing"):
            logger.warning("unknown state %r of a prediction, waiting on", prediction.status)
        if prediction.status == "starting":
            await self._show(0, "waiting for the model")
        elif progress := prediction.progress:
            # The job is not at 100 before its pictures are stored.
            message = f"generating, step {progress.step} of {progress.steps}"
            await self._show(min(progress.percent, 99), message)
        else:
            await self._show(0, "generating")

    async def _show(self, percent: int, message: str) -> None:
        """Reports progress if it changed. It never goes down: some models have several bars."""
        now = (max(percent, self._shown[0]), message)
        if now != self._shown:
            self._shown = now
            await self._job.progress(*now)

    async def _failed(self, begun: Begun, prediction: Prediction) -> errors.ReplicateError:
        """Ends the row of a prediction without a result and gives the error to raise."""
        error: errors.ReplicateError
        if prediction.status == "failed":
            error = errors.from_failure(prediction.error)
        elif prediction.status == "aborted" or self._is_overdue or prediction.reached_deadline:
            error = errors.DeadlinePassed("The prediction reached its deadline")
        else:
            error = errors.StoppedOutside("Somebody cancelled the prediction at Replicate")
        await self._store.finish(
            begun.prediction.id,
            _STATES.get(prediction.status, "failed"),
            error=prediction.error or str(error),
            metrics=prediction.metrics,
        )
        return error

    async def _keep(self, begun: Begun, prediction: Prediction) -> list[SavedImage]:
        """Fetches and stores the pictures and writes their rows."""
        await self._show(0, "storing the pictures")
        try:
            images = await keep_pictures(
                self._client, self._store, begun, prediction, self._settings.parallel
            )
        except errors.OutputError as error:
            # No other look at this prediction will do better.
            await self._store.finish(
                begun.prediction.id, "failed", error=str(error), metrics=prediction.metrics
            )
            raise
        await self._store.save_images(images)
        return images

    # --- cancel ---

    async def _undo(self) -> None:
        """Stops what was begun, as far as that is possible in the time there is."""
        begun = self._begun
        if begun is None:
            return
        try:
            async with asyncio.timeout(self._settings.undo):
                await self._cancel_begun(begun)
                await self._store.finish(begun.prediction.id, "canceled")
        except Exception:
            # The job ends as cancelled all the same; the deadline ends the prediction.
            logger.warning("job %s: its prediction was not cancelled", self._job.id, exc_info=True)

    async def _cancel_begun(self, begun: Begun) -> None:
        known = self._prediction.id if self._prediction else begun.prediction.prediction_id
        if known is not None:
            await self._client.cancel(known)
        else:
            await self._cancel_certain(begun, set(begun.owned))


def _result(images: Iterable[SavedImage]) -> dict[str, Any]:
    return {"images": [image.model_dump(mode="json") for image in images]}


def _jittered(seconds: float) -> float:
    return seconds * random.uniform(0.8, 1.2)  # noqa: S311 - spreads load, hides nothing

"""One prediction for each generation, paid for once, even if workers crash.

A worker commits a row, creates the prediction, and records its id in the row. It may crash after
each step. The next worker reads the row. If the row has an id, the worker attaches to that
prediction. If it has none, the outcome of the create call is unknown, so the worker searches for
the prediction at Replicate before it creates another.
"""

import asyncio

from picture_queue._log import Log
from picture_queue.errors import Conflict, StaleLease
from picture_queue.generations import orphans
from picture_queue.generations._tasks import run_to_end
from picture_queue.generations.progress import GenerationProgress
from picture_queue.generations.settings import HandlerSettings
from picture_queue.generations.store import GenerationStore
from picture_queue.providers.replicate import errors
from picture_queue.providers.replicate.client import ReplicateClient
from picture_queue.providers.replicate.prediction import Prediction
from picture_queue.records import BegunPrediction

_log = Log(__name__)

_MAX_CREATES = 3  # lost answers to create calls after which the attempt of the job fails


class PredictionManager:
    """The prediction of one generation.

    Args:
        client: The client of the provider.
        store: The store of the generation's rows.
        progress: The progress that the owner sees.
        settings: The settings of the handler.

    Attributes:
        begun: The row; None until it is committed.
        prediction: The prediction as it was last read; None until it is known.
    """

    def __init__(
        self,
        client: ReplicateClient,
        store: GenerationStore,
        progress: GenerationProgress,
        settings: HandlerSettings,
    ) -> None:
        self._client = client
        self._store = store
        self._progress = progress
        self._settings = settings
        self._lost: list[BegunPrediction] = []
        self.begun: BegunPrediction | None = None
        self.prediction: Prediction | None = None

    async def find_or_create(self) -> tuple[BegunPrediction, Prediction | None]:
        """Attach to the prediction of this generation, or create it.

        Returns:
            The row and the prediction; None instead of the prediction if the images are saved.

        Raises:
            OutcomeUnknown: The answers to several create calls were lost.
        """
        for _ in range(_MAX_CREATES):
            begun = self.begun = await self._store.begin()
            row = begun.prediction
            if row.state == "succeeded":
                return begun, None
            if row.prediction_id is not None:
                return begun, await self.attach(begun, row.prediction_id)
            if not begun.resumed:
                await self._progress.show(0, "waiting for the model")
                timeout = self._settings.cancel_timeout
                if prediction := await run_to_end(self._create(begun), timeout):
                    return begun, prediction
            if prediction := await self._find_lost(begun):
                return begun, prediction
            _log.warning("prediction %s: the answer to the create call was lost; repeating", row.id)
            await self._store.finish(row.id, "lost", error="No prediction was found")
            self._lost.append(begun)
        raise errors.OutcomeUnknown(f"The answers to {_MAX_CREATES} create calls were lost")

    async def attach(self, begun: BegunPrediction, prediction_id: str) -> Prediction:
        """Read the prediction of a row.

        Raises:
            OutputExpired: Replicate no longer has the prediction.
        """
        try:
            prediction = await self._get(prediction_id)
        except errors.ResourceNotFound as error:
            await self._store.finish(begun.prediction.id, "lost", error=str(error))
            raise errors.OutputExpired(
                "Replicate no longer has the prediction", detail=prediction_id
            ) from error
        if prediction.id != prediction_id:
            raise errors.ServiceUnavailable(
                "Replicate returned another prediction",
                detail=f"{prediction.id} instead of {prediction_id}",
            )
        self.prediction = prediction
        return prediction

    async def _get(self, prediction_id: str) -> Prediction:
        try:
            return await self._client.get(prediction_id)
        except (errors.RequestRefused, errors.Unauthorized, errors.Forbidden) as error:
            # The prediction is paid for, so a single unexpected answer must not end it.
            _log.warning("prediction %s: reading it again after: %s", prediction_id, error)
        await asyncio.sleep(self._settings.recheck_delay)
        return await self._client.get(prediction_id)

    async def cancel(self, begun: BegunPrediction) -> None:
        """Cancel the prediction of a row, if it can be identified."""
        prediction_id = self.prediction.id if self.prediction else begun.prediction.prediction_id
        if prediction_id is not None:
            await self._client.cancel(prediction_id)
        else:
            await self._cancel_identified(begun, set(begun.owned))

    async def cancel_duplicates(self, kept: Prediction) -> None:
        """Cancel the predictions of rows that were given up as lost.

        Only predictions with the deadline of such a row are cancelled: a prediction of another job
        with the same input differs only in its deadline. Replicate stops a prediction that is not
        found here at its deadline.

        Args:
            kept: The prediction of this generation, which is not cancelled.
        """
        for lost in self._lost:
            try:
                await self._cancel_identified(lost, {*lost.owned, kept.id})
            except errors.ReplicateError:
                _log.warning(
                    "prediction %s: the search for duplicates failed",
                    lost.prediction.id,
                    exc_info=True,
                )

    def cancel_after(self, begun: BegunPrediction) -> int:
        """Return the seconds of the ``Cancel-After`` that a row requests."""
        return orphans.cancel_after(begun.prediction, self._settings.prediction_timeout)

    async def _create(self, begun: BegunPrediction) -> Prediction | None:
        """Create the prediction and record its id.

        Returns:
            The prediction; None if the answer was lost, or if another row owns the prediction.
        """
        row, model = begun.prediction, begun.model
        if model.official is False and model.version is None:
            failure = errors.Misconfigured(f"The catalogue has no version of {model.model_id}")
            await self._store.finish(row.id, "failed", error=str(failure))
            raise failure
        try:
            prediction = await self._client.create(
                model.model_id,
                row.input,
                version=None if model.official else model.version,
                cancel_after=self.cancel_after(begun),
            )
        except errors.OutcomeUnknown:
            return None
        except errors.ReplicateError as error:
            # No prediction was created. The row is finished, so that the next attempt does not
            # search for one.
            await self._store.finish(row.id, "failed", error=str(error))
            raise
        self.prediction = prediction  # so that `cancel` finds it, even if recording its id fails
        return prediction if await self._record(begun, prediction) else None

    async def _record(self, begun: BegunPrediction, prediction: Prediction) -> bool:
        """Record a prediction as that of a row; return False if another row owns it."""
        try:
            await self._store.record(begun.prediction.id, prediction.id)
        except StaleLease:
            raise
        except Conflict:
            self.prediction = None
            return False
        self.prediction = prediction
        return True

    async def _find_lost(self, begun: BegunPrediction) -> Prediction | None:
        """Search twice for the prediction that a lost create call may have created; record it."""
        taken = set(begun.owned)
        for is_last in (False, True):
            for candidate in await self._candidates(begun, taken):
                if await self._record(begun, candidate):
                    return await self.attach(begun, candidate.id)
                taken.add(candidate.id)
            if not is_last:
                await self._progress.show(0, "waiting for the image service")
                await asyncio.sleep(self._settings.recheck_delay)
        return None

    async def _candidates(self, begun: BegunPrediction, taken: set[str]) -> list[Prediction]:
        since = begun.prediction.created_at - orphans.CLOCK_SKEW
        listed = await self._client.created_after(since)
        return orphans.candidates(begun, listed, taken, self.cancel_after(begun))

    async def _cancel_identified(self, begun: BegunPrediction, taken: set[str]) -> None:
        seconds = self.cancel_after(begun)
        for candidate in await self._candidates(begun, taken):
            if orphans.has_requested_deadline(candidate, seconds):
                _log.info("prediction %s: cancelling %s", begun.prediction.id, candidate.id)
                await self._client.cancel(candidate.id)

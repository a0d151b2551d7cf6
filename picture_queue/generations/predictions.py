"""One prediction for a generation, paid for once, however often a worker dies.

The recipe: commit a row, create the prediction, record its id. Each step can be the last one of a
worker. The next worker reads the row: with an id it attaches to the prediction; without one the
outcome of the create is unknown, and it searches at Replicate before it creates another.
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

_ROUNDS = 3  # rows an attempt may begin before it leaves the rest to the next attempt


class PredictionManager:
    """The prediction of one generation.

    Args:
        client: The provider.
        store: The rows of the generation.
        progress: Told what the owner has to wait for.
        settings: Deadline and waits.

    Attributes:
        begun: The row; None before it was committed.
        prediction: The prediction, as it was last read; None while it is not known.
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

    async def obtain(self) -> tuple[BegunPrediction, Prediction | None]:
        """Attach to the prediction of this generation, or create it.

        Returns:
            The row, and the prediction; None where the row says that its images are saved.
        """
        for _ in range(_ROUNDS):
            begun = self.begun = await self._store.begin()
            row = begun.prediction
            if row.state == "succeeded":
                return begun, None
            if row.prediction_id is not None:
                return begun, await self.attach(begun, row.prediction_id)
            if not begun.resumed:
                await self._progress.show(0, "waiting for the model")
                if prediction := await run_to_end(self._create(begun), self._settings.undo):
                    return begun, prediction
            if prediction := await self._search(begun):
                return begun, prediction
            _log.warning("prediction %s: the answer to the create was lost, starting over", row.id)
            await self._store.finish(row.id, "lost", error="No prediction was found")
            self._lost.append(begun)
        raise errors.OutcomeUnknown(f"The answers to {_ROUNDS} creates were lost")

    async def attach(self, begun: BegunPrediction, prediction_id: str) -> Prediction:
        """Read the prediction.

        Raises:
            OutputExpired: Replicate no longer has it.
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
                "Replicate sent another prediction", detail=f"{prediction.id} for {prediction_id}"
            )
        self.prediction = prediction
        return prediction

    async def _get(self, prediction_id: str) -> Prediction:
        try:
            return await self._client.get(prediction_id)
        except (errors.RequestRefused, errors.Unauthorized, errors.Forbidden) as error:
            # It is paid for, so a single odd answer does not end it.
            _log.warning("prediction %s: asking again after: %s", prediction_id, error)
        await asyncio.sleep(self._settings.grace)
        return await self._client.get(prediction_id)

    async def cancel(self, begun: BegunPrediction) -> None:
        """Cancel the prediction of a row, if it can be told which one it is."""
        known = self.prediction.id if self.prediction else begun.prediction.prediction_id
        if known is not None:
            await self._client.cancel(known)
        else:
            await self._cancel_certain(begun, set(begun.owned))

    async def cancel_duplicates(self, kept: Prediction) -> None:
        """Cancel the predictions of creates that were given up as lost.

        Only those whose deadline proves them to be ours: with equal inputs in several jobs, the
        prediction of another job looks the same otherwise. One that is not found costs no more
        than its deadline.
        """
        for lost in self._lost:
            try:
                await self._cancel_certain(lost, {*lost.owned, kept.id})
            except errors.ReplicateError:
                _log.warning(
                    "prediction %s: the search for duplicates failed",
                    lost.prediction.id,
                    exc_info=True,
                )

    def cancel_after(self, begun: BegunPrediction) -> int:
        """Return the deadline that a row asks for, in seconds."""
        return orphans.cancel_after(begun.prediction, self._settings.deadline)

    async def _create(self, begun: BegunPrediction) -> Prediction | None:
        """Create the prediction and record its id.

        Returns:
            None when the answer was lost, or when another row owns the prediction.
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
                cancel_after=self.cancel_after(begun),
            )
        except errors.OutcomeUnknown:
            return None
        except errors.ReplicateError as error:
            # Nothing was made: ending the row spares the next attempt a search.
            await self._store.finish(row.id, "failed", error=str(error))
            raise
        self.prediction = prediction  # from here on a cancel reaches it, recorded or not
        return prediction if await self._record(begun, prediction) else None

    async def _record(self, begun: BegunPrediction, prediction: Prediction) -> bool:
        """Record a prediction as the row's own; return False if it is another row's."""
        try:
            await self._store.record(begun.prediction.id, prediction.id)
        except StaleLease:
            raise
        except Conflict:
            self.prediction = None
            return False
        self.prediction = prediction
        return True

    async def _search(self, begun: BegunPrediction) -> Prediction | None:
        """Search twice for the prediction that a create may have made, and record it."""
        taken = set(begun.owned)
        for is_last in (False, True):
            for candidate in await self._candidates(begun, taken):
                if await self._record(begun, candidate):
                    return await self.attach(begun, candidate.id)
                taken.add(candidate.id)
            if not is_last:
                await self._progress.show(0, "waiting for the image service")
                await asyncio.sleep(self._settings.grace)
        return None

    async def _candidates(self, begun: BegunPrediction, taken: set[str]) -> list[Prediction]:
        since = begun.prediction.created_at - orphans.CLOCK_SKEW
        listed = await self._client.created_after(since)
        return orphans.candidates(begun, listed, taken, self.cancel_after(begun))

    async def _cancel_certain(self, begun: BegunPrediction, taken: set[str]) -> None:
        asked = self.cancel_after(begun)
        for candidate in await self._candidates(begun, taken):
            if orphans.is_certain(candidate, asked):
                _log.info("prediction %s: cancelling %s", begun.prediction.id, candidate.id)
                await self._client.cancel(candidate.id)

"""One prediction for each generation, paid for once, even if workers crash.

A worker commits a row, creates the prediction, and records its id in the row. It may crash after
each step. The next worker reads the row. If the row has an id, the worker attaches to that
prediction. If it has none, the outcome of the create call is unknown, so the worker searches for
the prediction at the provider before it creates another. A provider whose capability ``recover`` is
``id`` cannot search. One whose capability is ``none`` has no prediction of an earlier process; the
generation then runs again.
"""

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import replace

from picture_queue._log import Log
from picture_queue.errors import Conflict, StaleLease
from picture_queue.generations._tasks import finish_despite_cancel
from picture_queue.generations.input_files import sign_files
from picture_queue.generations.lost_predictions import cancel_identified, find_candidates
from picture_queue.generations.progress import GenerationProgress
from picture_queue.generations.settings import HandlerSettings
from picture_queue.generations.store import GenerationStore
from picture_queue.providers import errors
from picture_queue.providers.base import Prediction, PredictionRequest, Provider
from picture_queue.records import BegunPrediction, FinalState

_log = Log(__name__)

_CANCEL_DELAY = 1.0  # maximum seconds until a cancel is repeated, or its prediction is read again
# Seconds for which the signed URL of an input is valid after the deadline of the prediction.
_URL_MARGIN = 600.0
_MAX_CREATES = 3  # lost answers to create calls after which the attempt of the job fails
_FINAL_STATES: tuple[FinalState, ...] = ("succeeded", "failed", "canceled", "aborted")


class PredictionManager:
    """The prediction of one generation.

    Args:
        providers: The providers of this worker by name.
        store: The store of the generation's rows.
        progress: The progress that the owner sees.
        settings: The settings of the handler.
        operator_files: The inputs whose files the operator's rules have added.

    Attributes:
        begun: The row; None until it is committed.
        prediction: The prediction as it was last read; None until it is known.
    """

    def __init__(
        self,
        providers: Mapping[str, Provider],
        store: GenerationStore,
        progress: GenerationProgress,
        settings: HandlerSettings,
        operator_files: Collection[str] = (),
    ) -> None:
        self._operator_files = operator_files
        self._providers = providers
        self._store = store
        self._progress = progress
        self._settings = settings
        self._lost: list[BegunPrediction] = []
        self._is_certain = True  # False if another program may have created the prediction
        self.begun: BegunPrediction | None = None
        self._created = 0.0
        self._provider: Provider | None = None
        self.prediction: Prediction | None = None

    @property
    def provider(self) -> Provider:
        """The provider of the row; there is none before the row is committed."""
        if self._provider is None:
            raise RuntimeError("the row has no provider yet")
        return self._provider

    @property
    def age(self) -> float:
        """Seconds since the creation of the row, independent of the wall clock of the worker."""
        return asyncio.get_running_loop().time() - self._created

    async def find_or_create(self) -> tuple[BegunPrediction, Prediction | None]:
        """Attach to the prediction of this generation, or create it.

        Returns:
            The row and the prediction; None instead of the prediction if the images are saved.

        Raises:
            ContentRefused: The moderation of the project refused the prompt.
            OutcomeUnknown: The answers to several create calls were lost.
            ProviderMissing: This worker does not have the provider of the model.
        """
        for _ in range(_MAX_CREATES):
            begun = await self._begin()
            row = begun.prediction
            if row.state == "succeeded":
                return begun, None
            if row.prediction_id is not None:
                if prediction := await self._attach_to_recorded(begun, row.prediction_id):
                    return begun, prediction
                continue
            if not begun.resumed:
                await self._moderate(begun)
                await self._progress.show(0, "waiting for the model")
                if prediction := await finish_despite_cancel(
                    self._create(begun), lambda: self._settings.cancel_timeout, keep_result=False
                ):
                    return begun, prediction
            if prediction := await self._find_lost(begun):
                return begun, prediction
            begun = await self._begin()
            if begun.prediction.prediction_id is not None:  # a webhook has recorded it
                if prediction := await self._attach_to_recorded(
                    begun, begun.prediction.prediction_id
                ):
                    return begun, prediction
                continue
            _log.warning("prediction %s: its outcome is unknown; creating another", row.id)
            await self._store.finish(row.id, "lost", error="No prediction was found")
            self._lost.append(begun)
        raise errors.OutcomeUnknown(f"The answers to {_MAX_CREATES} create calls were lost")

    async def _moderate(self, begun: BegunPrediction) -> None:
        """Moderate the prompt of a new row. If the prompt is refused, the row becomes final."""
        if self._settings.moderation is None:
            return
        try:
            await self._settings.moderation.check_prompt(begun)
        except Exception as error:
            await self._store.finish(begun.prediction.id, "failed", error=str(error))
            raise

    async def resume(self) -> BegunPrediction | None:
        """Return the row of an earlier attempt that may have a prediction, if there is one."""
        begun = await self._begin()
        if not begun.resumed:
            await self._store.finish(begun.prediction.id, "canceled")
        return begun if begun.resumed and begun.prediction.state != "succeeded" else None

    async def _begin(self) -> BegunPrediction:
        """Commit or resume the row, and choose its provider."""
        begun = await self._store.begin()
        row = begun.prediction
        self._provider = self._providers.get(row.provider)
        if self._provider is None and row.state != "succeeded":
            if not begun.resumed:
                await self._store.finish(row.id, "failed", error="The worker has no such provider")
            raise errors.ProviderMissing(
                f"This worker has no provider {row.provider!r}, which makes the pictures of "
                f"{begun.model.model_id}",
                hint="Start a worker that registers it with add_generations",
            )
        self.begun = begun
        # Time of the event loop, since the clock of the worker may be wrong.
        self._created = asyncio.get_running_loop().time() - begun.age_seconds
        return begun

    async def _attach_to_recorded(
        self, begun: BegunPrediction, prediction_id: str
    ) -> Prediction | None:
        """Read the recorded prediction of a row.

        Returns:
            The prediction; None if it ended with the process of another or an earlier worker. The
            row then has its final state.
        """
        if self.provider.capabilities.recover != "none":
            return await self.attach(begun, prediction_id)
        try:
            self.prediction = await self.provider.get(prediction_id)
        except errors.ResourceNotFound:
            _log.warning("prediction %s ended with its worker; it runs again", begun.prediction.id)
            await self._store.finish(begun.prediction.id, "lost", error="Its worker ended")
            return None
        return self.prediction

    async def attach(self, begun: BegunPrediction, prediction_id: str) -> Prediction:
        """Read the prediction of a row.

        Raises:
            OutputExpired: The provider no longer has the prediction.
            Interrupted: The prediction ended with its process.
        """
        try:
            prediction = await self._get(prediction_id)
        except errors.ResourceNotFound as error:
            await self._store.finish(begun.prediction.id, "lost", error=str(error))
            if self.provider.capabilities.recover == "none":
                raise errors.Interrupted("The prediction ended with its process") from error
            raise errors.OutputExpired(
                "The provider no longer has the prediction", detail=prediction_id
            ) from error
        if prediction.id != prediction_id:
            raise errors.ServiceUnavailable(
                "The provider returned another prediction",
                detail=f"{prediction.id} instead of {prediction_id}",
            )
        self.prediction = prediction
        return prediction

    async def _get(self, prediction_id: str) -> Prediction:
        try:
            return await self.provider.get(prediction_id)
        except (errors.RequestRefused, errors.Unauthorized, errors.Forbidden) as error:
            if self.provider.capabilities.recover == "none":
                raise
            # The prediction is paid for, so a single unexpected answer must not end it.
            _log.warning("prediction %s: reading it again after: %s", prediction_id, error)
        await asyncio.sleep(self._settings.recheck_delay)
        return await self.provider.get(prediction_id)

    async def abandon(self) -> None:
        """End the prediction of an attempt that is over, if only this process can use it."""
        if self._provider is None or self.prediction is None:
            return
        if self._provider.capabilities.recover == "none":
            # The next attempt then finds no prediction, and creates another.
            await self._provider.release(self.prediction.id)

    async def cancel(self, begun: BegunPrediction) -> FinalState:
        """Cancel the prediction of a row, if it can be identified, and wait for its end.

        Returns:
            The final state of the prediction; ``canceled`` if the state is not known.
        """
        prediction_id = self.prediction.id if self.prediction else begun.prediction.prediction_id
        if self.prediction is not None and self.prediction.has_ended:
            return _final_state(self.prediction)
        if not self.provider.capabilities.cancel or not self._is_certain:
            return "canceled"
        if prediction_id is None:
            prediction_id = await self._identify(begun)
            if prediction_id is None:
                return "canceled"
        try:
            prediction = await self._request_cancel(prediction_id)
        except errors.ResourceNotFound:
            if self.provider.capabilities.recover != "none":
                raise
            return "lost"  # it ended with the process of its worker
        while not prediction.has_ended:
            await self.provider.wait(
                prediction_id, min(self._settings.recheck_delay, _CANCEL_DELAY)
            )
            prediction = self.prediction = await self.provider.get(prediction_id)
        return _final_state(prediction)

    async def _identify(self, begun: BegunPrediction) -> str | None:
        """Record the prediction that only this row can have created; return its id.

        Without its id in a row, nobody would count its cost if it has succeeded.
        """
        if self.provider.capabilities.recover != "list":
            return None
        request, taken = self._request(begun), set(begun.owned)
        candidates = await find_candidates(
            self.provider, self._store, begun, request, taken, to_cancel=True
        )
        for lost in candidates:
            is_own = lost.is_certain and lost.has_equal_input
            if is_own and await self._record(begun, lost.prediction):
                return lost.prediction.id
        return None

    async def _request_cancel(self, prediction_id: str) -> Prediction:
        try:
            self.prediction = await self.provider.cancel(prediction_id)
        except (
            errors.RequestRefused,
            errors.Unauthorized,
            errors.Forbidden,
            errors.OutOfCredit,
        ) as error:
            # The prediction costs money until it ends, so a single unexpected answer is not final.
            _log.warning("prediction %s: cancelling it again after: %s", prediction_id, error)
            await asyncio.sleep(min(self._settings.recheck_delay, _CANCEL_DELAY))
            self.prediction = await self.provider.cancel(prediction_id)
        return self.prediction

    async def finish(
        self, begun: BegunPrediction, state: FinalState, error: str | None = None
    ) -> None:
        """Write the final state of a row, and let the provider free its prediction."""
        metrics = dict(self.prediction.metrics) if self.prediction else None
        await self._store.finish(begun.prediction.id, state, error=error, metrics=metrics)
        if self.prediction is not None:
            await self.provider.release(self.prediction.id)

    async def cancel_duplicates(self, kept: Prediction) -> None:
        """Cancel the predictions of rows that were given up as lost.

        Only predictions that such a row certainly created are cancelled. If this search does not
        find a prediction, the provider stops it at its deadline.

        Args:
            kept: The prediction of this generation, which is not cancelled.
        """
        for lost in self._lost:
            try:
                await self._cancel_identified(lost, {*lost.owned, kept.id})
            except errors.ProviderError:
                _log.warning(
                    "prediction %s: the search for duplicates failed",
                    lost.prediction.id,
                    exc_info=True,
                )

    def time_limit(self, begun: BegunPrediction) -> float:
        """Return the seconds after which the provider stops the prediction of a row."""
        return self.provider.time_limit(self._request(begun))

    def _request(self, begun: BegunPrediction) -> PredictionRequest:
        row, model = begun.prediction, begun.model
        return PredictionRequest(
            row_id=row.id,
            created_at=row.created_at,
            model_id=model.model_id,
            input=row.input,
            timeout=self._settings.prediction_timeout,
            version=model.version,
            official=model.official,
            file_inputs=model.file_inputs,
            reports_progress=model.progress_in_logs == "percent",
        )

    async def _create(self, begun: BegunPrediction) -> Prediction | None:
        """Create the prediction and record its id.

        Returns:
            The prediction; None if the answer was lost, or if another row owns the prediction.
        """
        request = self._request(begun)
        try:
            signed = await sign_files(
                self._store,
                begun,
                self.provider.time_limit(request) + _URL_MARGIN,
                self._settings.max_pixels,
                self._operator_files,
            )
        except Exception as error:
            await self._store.finish(begun.prediction.id, "failed", error=str(error))
            raise
        try:
            prediction = await self.provider.create(replace(request, input=signed))
        except errors.OutcomeUnknown:
            return None
        except errors.ProviderError as error:
            # No prediction was created. The row is finished, so that the next attempt does not
            # search for one.
            await self._store.finish(begun.prediction.id, "failed", error=str(error))
            raise
        self.prediction = prediction  # so that `cancel` finds it, even if recording its id fails
        return prediction if await self._record(begun, prediction) else None

    async def _record(self, begun: BegunPrediction, prediction: Prediction) -> bool:
        """Record the id of a prediction in a row; return False if another row has recorded it."""
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
        if self.provider.capabilities.recover != "list":
            return None
        # The call that created the row did not return the ids of other predictions.
        taken = set((await self._store.begin(begun.prediction.id)).owned)
        request = self._request(begun)
        for is_last in (False, True):
            for lost in await find_candidates(self.provider, self._store, begun, request, taken):
                if await self._record(begun, lost.prediction):
                    self._is_certain = lost.is_certain
                    return await self.attach(begun, lost.prediction.id)
                taken.add(lost.prediction.id)
            if not is_last:
                await self._progress.show(0, "waiting for the image service")
                await asyncio.sleep(self._settings.recheck_delay)
        return None

    async def _cancel_identified(self, begun: BegunPrediction, taken: set[str]) -> None:
        request = self._request(begun)
        await cancel_identified(self.provider, self._store, begun, request, taken)


def _final_state(prediction: Prediction) -> FinalState:
    return next((s for s in _FINAL_STATES if s == prediction.status), "failed")

"""The progress of a generation, as its owner sees it."""

from picture_queue._log import Log
from picture_queue.providers.replicate.prediction import Prediction
from picture_queue.worker.context import JobContext

_log = Log(__name__)


class GenerationProgress:
    """The progress of one job, reported if it changed.

    Args:
        job: The job.
    """

    def __init__(self, job: JobContext) -> None:
        self._job = job
        self._shown: tuple[int, str] = (-1, "")

    async def show(self, percent: int, message: str) -> None:
        """Report progress. It never goes down: some models have several bars."""
        now = (max(percent, self._shown[0]), message)
        if now != self._shown:
            self._shown = now
            await self._job.progress(*now)

    async def show_prediction(self, prediction: Prediction) -> None:
        """Report the progress of a prediction that has not ended."""
        if prediction.status not in ("starting", "processing"):
            _log.warning("unknown state %r of a prediction, waiting on", prediction.status)
        if prediction.status == "starting":
            await self.show(0, "waiting for the model")
        elif bar := prediction.progress:
            # The job is not at 100 before its pictures are stored.
            await self.show(min(bar.percent, 99), f"generating, step {bar.step} of {bar.steps}")
        else:
            await self.show(0, "generating")

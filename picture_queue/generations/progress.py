"""The progress that the owner of a generation sees."""

from picture_queue._log import Log
from picture_queue.providers.base import Prediction
from picture_queue.worker.context import JobContext

_log = Log(__name__)


class GenerationProgress:
    """The progress of one job. It is reported only when it changes.

    Args:
        job: The context of the job.
    """

    def __init__(self, job: JobContext) -> None:
        self._job = job
        # A job that was parked has progress already; it must not decrease.
        self._reported: tuple[int, str | None] = (job.job.progress, None)

    async def show(self, percent: int, message: str) -> None:
        """Report progress. The percentage never decreases, even if a model prints several bars."""
        progress = (max(percent, self._reported[0]), message)
        if progress != self._reported:
            self._reported = progress
            await self._job.progress(*progress)

    async def show_prediction(self, prediction: Prediction) -> None:
        """Report the progress of a prediction that has not ended."""
        if prediction.status not in ("starting", "processing"):
            _log.warning(
                "prediction %s has the unknown status %r; it counts as running",
                prediction.id,
                prediction.status,
            )
        if prediction.status == "starting":
            await self.show(0, "waiting for the model")
        elif progress := prediction.progress:
            # 100 % is reached only when the pictures are stored.
            await self.show(min(progress.percent, 99), progress.message or "generating")
        else:
            await self.show(0, "generating")

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
        # The job may have progress already, if it was parked. The progress must not decrease.
        self._reported: tuple[int, str | None] = (job.job.progress, None)

    async def show(self, percent: int, message: str) -> None:
        """Report progress. The percentage never decreases, even if a model prints several bars."""
        progress = (max(percent, self._reported[0]), message)
        if progress != self._reported:
            self._reported = progress
            await self._job.progress(*progress)

    async def show_prediction(
        self, prediction: Prediction, age: float, typical_seconds: float | None
    ) -> None:
        """Report the progress of a prediction that has not ended.

        Args:
            prediction: The prediction.
            age: Seconds since its creation.
            typical_seconds: Typical run time of the model. If the prediction does not report its
                progress, the percentage is estimated from this time, and the message says so.
        """
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
        elif typical_seconds:
            await self.show(estimate_percent(age, typical_seconds), "generating (estimated)")
        else:
            await self.show(0, "generating")


def estimate_percent(age: float, typical_seconds: float) -> int:
    """Return the likely progress in percent: 70 after the typical run time, never above 95."""
    return min(int(100 - 100 * 0.3 ** (age / typical_seconds)), 95)

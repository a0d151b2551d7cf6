"""One run of a function that makes pictures, and the errors of the function."""

import asyncio
from concurrent.futures import BrokenExecutor
from dataclasses import dataclass, field
from typing import Any

from picture_queue._text import clean_line, describe_error
from picture_queue.providers import base, errors
from picture_queue.providers.function_progress import Reporter


@dataclass(eq=False)
class Run:
    """One call of the function.

    Attributes:
        error: The error of a failed run.
        error_text: The text of the error, for operators.
        pictures: The pictures of a successful run.
        ended: Set when the run has ended.
        duration: Duration of the run in seconds.
        expiry: The timer that deletes the run; None until the run has ended.
    """

    id: str
    reporter: Reporter
    status: str = "starting"
    error: errors.ProviderError | None = None
    error_text: str | None = None
    pictures: list[bytes] = field(default_factory=list)
    reached_deadline: bool = False
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    duration: float = 0.0
    task: "asyncio.Task[None] | None" = None
    expiry: asyncio.TimerHandle | None = None

    def to_prediction(self) -> base.Prediction:
        """Return the run as a prediction."""
        status, progress = self.status, None
        if status == "starting":
            state = self.reporter.read()
            status = "processing" if state.has_started else "starting"
            progress = state.progress
        metrics: dict[str, Any] = {}
        if self.ended.is_set():
            metrics = {"predict_time": round(self.duration, 3), "image_count": len(self.pictures)}
        return base.Prediction(
            id=self.id,
            status=status,
            outputs=tuple(f"{self.id}/{index}" for index in range(len(self.pictures))),
            error=self.error_text,
            progress=progress,
            metrics=metrics,
            reached_deadline=self.reached_deadline,
        )


def to_provider_error(error: BaseException) -> errors.ProviderError:
    """Convert an exception of the function into an error of a provider."""
    if isinstance(error, errors.ProviderError):
        return error
    text = clean_line(describe_error(error))
    failure: errors.ProviderError
    # torch is not a dependency, so its OutOfMemoryError is recognised by name.
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        failure = errors.InputTooLarge("The function ran out of memory", detail=text)
    elif isinstance(error, BrokenExecutor):
        failure = errors.Interrupted("A process of the executor ended", detail=text)
    else:
        failure = errors.PredictionFailed("The function failed", detail=text)
        if getattr(error, "retryable", None) is False:
            failure.retryable = False
        owner_message = getattr(error, "owner_message", None)
        if isinstance(owner_message, str):
            failure.owner_message = clean_line(owner_message)
    failure.__cause__ = error
    return failure

"""The interface of a provider of pictures.

Generations use only this module and `errors`. A provider implements `Provider`; it is a client of
its service and does not import the queue.
"""

import asyncio
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, NamedTuple, NoReturn, Protocol
from uuid import UUID

from picture_queue.providers import errors

#: Final states of a prediction. Any other state counts as running, such as ``starting`` (it waits
#: for its start) and ``processing``. ``aborted``: it ended before its start.
FINAL_STATUSES = frozenset({"succeeded", "failed", "canceled", "aborted"})

Recover = Literal["list", "id", "none"]


@dataclass(frozen=True, slots=True)
class Capabilities:
    """The promises of a provider.

    Attributes:
        webhook: True if it reports the end of a prediction to a URL.
        cancel: True if it stops a prediction on request.
        progress: True if its predictions report their progress.
        recover: Means of another worker after a crash. ``list``: it attaches to a recorded
            prediction, and finds one whose id was not recorded, so a picture is paid for once.
            ``id``: it attaches to a recorded prediction. If the answer to its creation was lost,
            the prediction is created again. ``none``: predictions end with the process of the
            worker, so the generation runs again.
    """

    webhook: bool = False
    cancel: bool = False
    progress: bool = False
    recover: Recover = "none"


@dataclass(frozen=True, slots=True)
class PredictionRequest:
    """A request to create a prediction; a repeated call has an equal one, but for signed URLs.

    Attributes:
        row_id: The id of the committed row that the prediction belongs to.
        created_at: The time at which the row was created, by the clock of the database.
        model_id: The name of the model.
        input: The input of the model.
        timeout: Seconds after which the provider stops the prediction, even if no worker runs.
        version: The version of the model; None: the provider chooses it.
        official: True if the model is called by its name only, False if only by its version; None
            if that is not known or does not apply.
        file_inputs: The names of the inputs that are URLs of files. Those of Storage have a query
            that differs for each call. `Provider.find_lost` gets them without their query.
        reports_progress: True if the predictions of the model are known to report progress.
    """

    row_id: UUID
    created_at: datetime
    model_id: str
    input: Mapping[str, Any] = field(repr=False)
    timeout: float
    version: str | None = None
    official: bool | None = None
    file_inputs: frozenset[str] = frozenset()
    reports_progress: bool = False


class Progress(NamedTuple):
    """The progress of a prediction: 0 to 100, and the current step if it is known."""

    percent: int
    message: str | None = None


@dataclass(frozen=True, slots=True)
class Prediction:
    """A prediction as its provider returned it.

    Attributes:
        id: The provider's id of the prediction, at most 200 characters.
        status: The state; see `FINAL_STATUSES`.
        outputs: References of the pictures, which `Provider.download` accepts.
        error: The error of a failed prediction, for operators. It may contain the prompt.
        progress: The progress; None if it is not known.
        metrics: Numbers and texts about the run, which are stored with the prediction.
        reached_deadline: True if the provider stopped the prediction at the end of its timeout.
        output_deleted: True if the provider has deleted the pictures.
    """

    id: str
    status: str
    outputs: tuple[str, ...] = field(default=(), repr=False)
    error: str | None = field(default=None, repr=False)
    progress: Progress | None = None
    metrics: Mapping[str, Any] = field(default_factory=dict)
    reached_deadline: bool = False
    output_deleted: bool = False

    @property
    def has_ended(self) -> bool:
        """True if the prediction has ended."""
        return self.status in FINAL_STATUSES


class LostPrediction(NamedTuple):
    """A prediction that a create call with a lost answer may have created.

    Attributes:
        prediction: The prediction.
        is_certain: True if it has the mark of this request, such as a deadline. Only such a
            prediction is cancelled.
        may_be_of: Function that returns whether the request of another row, with an equal input,
            may have created it. By default each may have.
        has_equal_input: True if all inputs were compared and are equal; False if a file could not
            be compared, so that the prediction may show a picture of somebody else. Then
            ``is_certain`` must be true.
    """

    prediction: Prediction
    is_certain: bool
    may_be_of: Callable[[UUID], bool] = lambda _: True
    has_equal_input: bool = True


class OutputSink(Protocol):
    """The place to which a picture is written as it arrives."""

    async def write(self, chunk: bytes) -> None:
        """Append bytes."""
        ...

    def clear(self) -> None:
        """Delete what was written, since the download begins again."""
        ...


class MemorySink:
    """A sink that keeps the picture in memory."""

    def __init__(self) -> None:
        self.data = bytearray()

    async def write(self, chunk: bytes) -> None:
        """Append bytes."""
        self.data += chunk

    def clear(self) -> None:
        """Delete what was written."""
        self.data.clear()


class Provider(Protocol):
    """A provider of pictures, used by all jobs of a worker at the same time.

    Subclass it: methods with a body have a default. All methods run in the event loop of the
    worker and must not block it. They raise only `errors.ProviderError`; its class decides what
    happens to the job. A method repeats a call itself only if that is safe.

    Attributes:
        capabilities: The promises of the provider.
    """

    capabilities: Capabilities

    async def create(self, request: PredictionRequest) -> Prediction:
        """Create a prediction, without waiting for its end.

        Raises:
            OutcomeUnknown: The answer was lost; a prediction may exist.
            ProviderError: No prediction was created, for the reason that the class states.
        """
        ...

    async def get(self, prediction_id: str) -> Prediction:
        """Read a prediction.

        Raises:
            ResourceNotFound: The provider has no such prediction.
            ProviderError: The call failed for the reason that the class states.
        """
        ...

    async def download(self, output: str) -> bytes:
        """Read one picture.

        Args:
            output: An item of `Prediction.outputs`.

        Raises:
            OutputExpired: The picture was deleted.
            OutputRefused: The picture is too large, or its place is not allowed.
            ServiceUnavailable: The picture cannot be read now.
        """
        ...

    async def download_into(self, output: str, sink: OutputSink) -> None:
        """Write one picture to a sink, which is cleared first; see `download`.

        A provider whose pictures are large overrides this, so that none is held in memory.
        """
        data = await self.download(output)
        sink.clear()
        await sink.write(data)

    def classify(self, prediction: Prediction) -> errors.ProviderError:
        """Return the error of a prediction with the status ``failed``."""
        return errors.PredictionFailed("The prediction failed", detail=prediction.error)

    async def cancel(self, prediction_id: str) -> Prediction:
        """Request the end of a prediction; needs the capability ``cancel``.

        It has no effect on a prediction that has ended.

        Returns:
            The prediction as it is now. It may still succeed, so only a later read is final.

        Raises:
            ProviderError: The call failed for the reason that the class states.
        """
        _raise_unsupported(self, "cancel")

    async def find_lost(
        self, request: PredictionRequest, taken: Container[str]
    ) -> Sequence[LostPrediction]:
        """Find the predictions that a create call may have created whose answer was lost.

        Needs the capability ``recover = "list"``. A prediction with another input, or with another
        file, is not returned: its picture belongs to somebody else.

        Args:
            request: The request of the create call.
            taken: The ids of predictions that belong to other rows.

        Returns:
            The predictions, the most likely first.

        Raises:
            ProviderError: The call failed for the reason that the class states.
        """
        _raise_unsupported(self, "find_lost")

    async def verify_webhook(self, headers: Mapping[str, str], body: bytes) -> Prediction:
        """Return the prediction that a webhook reports; needs the capability ``webhook``.

        Raises:
            WebhookRefused: The signature or its time is invalid, or the body is unreadable.
        """
        _raise_unsupported(self, "verify_webhook")

    @property
    def sends_webhooks(self) -> bool:
        """True if the predictions that are created now will be reported to a URL."""
        return False

    def time_limit(self, request: PredictionRequest) -> float:
        """Return the seconds after which the provider stops the prediction of a request."""
        return request.timeout

    async def wait(self, prediction_id: str, seconds: float) -> None:
        """Wait before the next read: these seconds, or less if the end of the prediction is known.

        A provider that runs in the process of the worker returns at the end of the prediction.
        """
        await asyncio.sleep(seconds)

    async def release(self, prediction_id: str) -> None:
        """Free what this process holds for a prediction, and stop what runs here. Raises nothing.

        It is called once the row of the prediction is final, and if ``recover`` is ``none`` also
        when an attempt is given up.
        """
        return None

    async def aclose(self) -> None:
        """Close the connections, and end the predictions that end with this process."""
        return None


def _raise_unsupported(provider: Provider, method: str) -> NoReturn:
    raise NotImplementedError(f"{type(provider).__name__} has no {method}")

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

#: Final states of a prediction. Any other state counts as running, such as ``starting`` (the model
#: does not run yet) and ``processing``. ``aborted`` means that the prediction ended before its
#: start.
FINAL_STATUSES = frozenset({"succeeded", "failed", "canceled", "aborted"})

#: What another worker can do with a prediction after a crash; see `Capabilities`.
Recover = Literal["list", "id", "none"]


@dataclass(frozen=True, slots=True)
class Capabilities:
    """The capabilities of a provider.

    Attributes:
        webhook: True if the provider reports the end of a prediction to a URL.
        cancel: True if the provider stops a prediction on request.
        progress: True if the predictions report their progress.
        recover: The means of another worker after the crash of a worker. ``list``: the worker
            attaches to a recorded prediction, and finds a prediction whose id was not recorded, so
            a picture is paid for once. ``id``: the worker attaches to a recorded prediction. If the
            answer to a create call was lost, the worker creates the prediction again. ``none``:
            predictions end with the process of their worker, so the generation runs again.
    """

    webhook: bool = False
    cancel: bool = False
    progress: bool = False
    recover: Recover = "none"


@dataclass(frozen=True, slots=True)
class PredictionRequest:
    """A request to create a prediction.

    Each retry of a create call gets an equal request, except for the signed URLs in its input.

    Attributes:
        row_id: The id of the committed row that the prediction belongs to.
        created_at: The time at which the row was created, by the clock of the database.
        model_id: The name of the model.
        input: The input of the model.
        timeout: Seconds after which the provider stops the prediction, even if no worker runs.
        version: The version of the model; None: the provider chooses the version.
        official: True if the model is called by its name only, False if only by its version; None
            if that is not known or does not apply.
        file_inputs: The names of the inputs that are URLs of files. The URL of a file in Storage
            has a query that differs for each call. `Provider.find_lost` gets such URLs without
            their query.
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
        is_certain: True if the prediction has a property that only this request asked for, such as
            its deadline. Only such a prediction is cancelled.
        may_be_of: Function that gets the id of another row with an equal input, and returns whether
            the request of that row may have created the prediction. The default always returns
            True.
        has_equal_input: True if all inputs were compared and are equal; False if a file could not
            be compared, so that the prediction may show a picture of somebody else. If it is False,
            ``is_certain`` must be True.
    """

    prediction: Prediction
    is_certain: bool
    may_be_of: Callable[[UUID], bool] = lambda _: True
    has_equal_input: bool = True


class OutputSink(Protocol):
    """A buffer or file to which a picture is written while it is downloaded."""

    async def write(self, chunk: bytes) -> None:
        """Append bytes."""
        ...

    def clear(self) -> None:
        """Delete the bytes written so far, because the download begins again."""
        ...


class MemorySink:
    """A sink that keeps the picture in memory."""

    def __init__(self) -> None:
        self.data = bytearray()

    async def write(self, chunk: bytes) -> None:
        """Append bytes."""
        self.data += chunk

    def clear(self) -> None:
        """Delete the bytes written so far."""
        self.data.clear()


class Provider(Protocol):
    """A provider of pictures, used by all jobs of a worker at the same time.

    Implement a provider as a subclass, which inherits the defaults of the methods that have a body.
    All methods run in the event loop of the worker and must not block it. They raise only
    `errors.ProviderError`; the class of the error decides what happens to the job. A method retries
    a call to the service only if a second call is safe.

    Attributes:
        capabilities: The capabilities of the provider.
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
            OutputRefused: The picture is too large, or its location is not allowed.
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

        The request has no effect on a prediction that has ended.

        Returns:
            The prediction as it is now. It may still succeed, so only a later read is final.

        Raises:
            ProviderError: The call failed for the reason that the class states.
        """
        _raise_unsupported(self, "cancel")

    async def find_lost(
        self, request: PredictionRequest, taken: Container[str]
    ) -> Sequence[LostPrediction]:
        """Find the predictions that a create call with a lost answer may have created.

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
        """Wait before the next read of a prediction, at most the given seconds.

        A provider that runs in the process of the worker returns when the prediction has ended.
        """
        await asyncio.sleep(seconds)

    async def release(self, prediction_id: str) -> None:
        """Free the resources of a prediction in this process, and stop its run if it runs here.

        The method raises nothing. It is called when the row of the prediction has its final state.
        If ``recover`` is ``none``, it is also called when the attempt is over.
        """
        return None

    async def aclose(self) -> None:
        """Close the connections, and end the predictions that run in this process."""
        return None


def _raise_unsupported(provider: Provider, method: str) -> NoReturn:
    raise NotImplementedError(f"{type(provider).__name__} has no {method}")

"""The simulator's predictions, whose state is a function of the time.

No task changes a prediction in the background. A prediction has the times of its start and end, and
each request computes the state from them.
"""

import itertools
import secrets
import string
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from picture_queue.local.simulator.faults import Faults
from picture_queue.local.simulator.logs import log_text
from picture_queue.local.simulator.picture_spec import picture_spec
from picture_queue.local.simulator.plan import Plan, make_plan
from picture_queue.local.simulator.scene import PictureSpec
from picture_queue.local.simulator.times import iso_time
from picture_queue.local.simulator.versions import version_of
from picture_queue.providers.replicate.catalog import CatalogModel

RETENTION_SECONDS = 3600.0
_MAX_PREDICTIONS = 10_000  # beyond this number, the oldest are deleted


@dataclass(frozen=True)
class SimulatorSettings:
    """Settings of the simulator.

    Attributes:
        base_url: The URL of the simulator in links, such as ``http://127.0.0.1:54399``. None: links
            have the host of the request.
        speed: Factor by which predictions are faster than the real models.
        seconds: Duration of every prediction; None: the duration of the real model.
        storage_url: The URL of the API whose Storage may have input pictures. None: input pictures
            are read only from uploads, outputs and ``data:`` URIs.
        token: ``REPLICATE_API_TOKEN`` of the clients. Without a token, all requests are refused.
        admin_keys: API keys for the routes below ``/_simulator``. Empty: all requests to them are
            refused.
    """

    base_url: str | None = None
    speed: float = 1.0
    seconds: float | None = None
    storage_url: str | None = None
    token: str = field(default="", repr=False)
    admin_keys: tuple[str, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        if self.speed <= 0:
            raise ValueError("speed must be above 0")


@dataclass
class Prediction:
    """One prediction.

    Attributes:
        number: The position in the order of creation.
        created: Unix time of the request. The other times are Unix times too.
        deadline: The time at which ``Cancel-After`` stops the prediction.
        stopped: The time at which a cancel stopped the prediction.
        created_by: The token and the user agent of the request, for tests.
    """

    number: int
    model: CatalogModel
    input: dict[str, Any]
    plan: Plan
    created: float
    deadline: float | None
    created_by: dict[str, str]
    id: str = field(default_factory=lambda: _random_id())
    seed: int = 0
    stopped: float | None = None

    def __post_init__(self) -> None:
        seed = self.input.get("seed")
        self.seed = seed if isinstance(seed, int) else secrets.randbelow(2**16)

    @property
    def starts(self) -> float:
        """The time when the prediction starts."""
        return self.created + self.plan.queued

    @property
    def ends(self) -> float:
        """The time when the prediction ends unless it is stopped."""
        return self.starts + self.plan.running

    def ended_at(self, now: float) -> float | None:
        """Return the time when the prediction ended; None if it has not ended."""
        times = (self.ends, self.deadline, self.stopped)
        end = min(time for time in times if time is not None)
        return end if end <= now else None

    def status(self, now: float) -> str:
        """Return the status of the prediction."""
        ended = self.ended_at(now)
        if ended is None:
            return "processing" if now >= self.starts else "starting"
        if ended < self.starts:
            return "aborted"
        if ended < self.ends:
            return "canceled"
        return "failed" if self.plan.error else "succeeded"

    def is_removed(self, now: float) -> bool:
        """Return whether the input, the output and the logs have been removed."""
        ended = self.ended_at(now)
        return ended is not None and (self.plan.expires or now >= ended + RETENTION_SECONDS)

    def cancel(self, now: float) -> None:
        """Stop the prediction, unless it has ended."""
        if self.ended_at(now) is None:
            self.stopped = now

    @property
    def pictures(self) -> int:
        """The number of pictures that the client requested."""
        model, inputs = self.model, self.input
        if model.output != "uri[]" or model.max_outputs_param is None:
            return 1
        # `max_images` is an upper bound, which is used only if the model chooses the number.
        if model.max_outputs_param == "max_images" and inputs.get(_NUMBER_MODE) != "auto":
            return 1
        model_input = model.input(model.max_outputs_param)
        number = inputs.get(model.max_outputs_param, model_input.default if model_input else 1)
        return int(number or 1)

    @property
    def delivered(self) -> int:
        """The number of pictures in the output."""
        return max(0, self.pictures - self.plan.missing) if self.plan.has_output else 0

    @property
    def source(self) -> str | None:
        """The input picture of the prediction: a URL, or a ``data:`` URI."""
        for model_input in self.model.inputs:
            if model_input.format == "uri" and "mask" not in model_input.name:
                value = self.input.get(model_input.name)
                url = value[0] if isinstance(value, list) and value else value
                if isinstance(url, str):
                    return url
        return None

    def picture(self, number: int) -> PictureSpec:
        """Return the specification of picture `number`, from 0."""
        return picture_spec(self.model, self.input, self.seed, number)

    def as_json(self, now: float, base_url: str) -> dict[str, Any]:
        """Return the prediction object of Replicate's API."""
        status, ended, is_removed = self.status(now), self.ended_at(now), self.is_removed(now)
        has_output = status == "succeeded" and not is_removed and self.plan.has_output
        api = f"{base_url}/v1/predictions/{self.id}"
        body: dict[str, Any] = {
            "id": self.id,
            "model": self.model.id,
            "version": "hidden" if self.model.official else version_of(self.model),
            "input": {} if is_removed else self.input,
            "logs": "" if is_removed else self._logs(now),
            "output": self._output(base_url) if has_output else None,
            "data_removed": is_removed,
            "error": self.plan.error if status == "failed" else None,
            "status": status,
            "source": "api",
            "created_at": iso_time(self.created),
            "urls": {
                "get": api,
                "cancel": f"{api}/cancel",
                "web": f"{base_url}/p/{self.id}",
            },
        }
        if self.deadline is not None:
            body["deadline"] = iso_time(self.deadline)
        if now >= self.starts and status != "aborted":
            body["started_at"] = iso_time(self.starts)
        if ended is not None:
            body["completed_at"] = iso_time(ended)
        if ended is not None and status != "aborted":
            body["metrics"] = {
                "predict_time": round(ended - self.starts, 3),
                "total_time": round(ended - self.created, 3),
            }
        if status == "succeeded":
            body["metrics"]["image_count"] = self.delivered
        return body

    def _logs(self, now: float) -> str:
        if now < self.starts:
            return ""
        until = self.ended_at(now) or now
        completed = 1.0 if until >= self.ends else (until - self.starts) / self.plan.running
        return log_text(
            self.model,
            self.input,
            self.seed,
            self.pictures,
            completed,
            self.plan.running,
            self.plan.logs,
            self.delivered,
        )

    def _output(self, base_url: str) -> str | list[str] | None:
        links = [
            f"{base_url}/files/{self.id}/out-{number}.{self.picture(number).format}"
            for number in range(self.delivered)
        ]
        return links if self.model.output == "uri[]" else next(iter(links), None)


class Simulator:
    """All predictions and faults.

    Args:
        settings: See `SimulatorSettings`.
        clock: A function that returns the Unix time.
    """

    def __init__(self, settings: SimulatorSettings, clock: Callable[[], float] = time.time) -> None:
        self.settings = settings
        self.clock = clock
        self.faults = Faults()
        self.predictions: dict[str, Prediction] = {}
        self._numbers = itertools.count(1)

    def create(
        self,
        model: CatalogModel,
        inputs: dict[str, Any],
        cancel_after: float | None,
        created_by: dict[str, str],
    ) -> Prediction:
        """Create a prediction. The caller has validated the inputs."""
        now = self.clock()
        prediction = Prediction(
            number=next(self._numbers),
            model=model,
            input=inputs,
            plan=make_plan(model, self.settings.speed, self.settings.seconds, self.faults),
            created=now,
            deadline=None if cancel_after is None else now + cancel_after,
            created_by=created_by,
        )
        self.predictions[prediction.id] = prediction
        if len(self.predictions) > _MAX_PREDICTIONS:
            del self.predictions[next(iter(self.predictions))]
        return prediction

    def reset(self) -> None:
        """Delete all predictions and faults."""
        self.predictions.clear()
        self.faults.clear()


# With the value "auto", the model chooses the number of pictures.
_NUMBER_MODE = "sequential_image_generation"
_ALPHABET = string.ascii_lowercase + string.digits


def _random_id() -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(26))

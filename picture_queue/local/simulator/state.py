"""The simulator's predictions, whose state is a function of the time.

Nothing runs in the background. A prediction has the times of its start and end, and each request
computes its state.
"""

import hashlib
import itertools
import re
import secrets
import string
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from picture_queue.local.simulator.faults import Faults
from picture_queue.local.simulator.logs import log_text
from picture_queue.local.simulator.pictures import Format, PictureSpec
from picture_queue.providers.replicate.catalog import CatalogModel

RETENTION_SECONDS = 3600.0
_UNKNOWN_SECONDS = 5.0  # for models with an unknown running time
_QUEUE_SECONDS = 0.15
_MAX_PREDICTIONS = 10_000  # the oldest are deleted


@dataclass(frozen=True)
class SimulatorSettings:
    """Settings of the simulator.

    Attributes:
        base_url: The URL of the simulator in links, such as ``http://127.0.0.1:54399``; None: the
            URL of each request.
        speed: Factor by which predictions are faster than the real models.
        seconds: Duration of every prediction; None: the duration of the real model.
        token: ``REPLICATE_API_TOKEN`` of the clients; without a token, all requests are refused.
        switch_keys: Keys for the switches; without a key, all requests to them are refused.
    """

    base_url: str | None = None
    speed: float = 1.0
    seconds: float | None = None
    token: str = field(default="", repr=False)
    switch_keys: tuple[str, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        if self.speed <= 0:
            raise ValueError("speed must be above 0")


@dataclass(frozen=True)
class Plan:
    """The planned course of a prediction.

    Attributes:
        queued: Seconds before it starts.
        running: Seconds for which it runs.
        error: The error with which it fails; None if it succeeds.
        expires: Whether its output is removed as soon as it has ended.
    """

    queued: float
    running: float
    error: str | None = None
    expires: bool = False


@dataclass
class Prediction:
    """One prediction.

    Attributes:
        created: Unix time of the request. The other times are Unix times too.
        deadline: The time at which ``Cancel-After`` stops it.
        stopped: The time at which a cancel stopped it.
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
        asked = self.input.get("seed")
        self.seed = asked if isinstance(asked, int) else secrets.randbelow(2**16)

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
        ends = min(t for t in (self.ends, self.deadline, self.stopped) if t is not None)
        return ends if ends <= now else None

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
        """Return whether its input, output and logs have been removed."""
        ended = self.ended_at(now)
        return ended is not None and (self.plan.expires or now >= ended + RETENTION_SECONDS)

    def cancel(self, now: float) -> None:
        """Stop the prediction, unless it has ended."""
        if self.ended_at(now) is None:
            self.stopped = now

    @property
    def pictures(self) -> int:
        """The number of pictures."""
        model, given = self.model, self.input
        if model.output != "uri[]" or model.max_outputs_param is None:
            return 1
        # `max_images` is an upper bound, which is used only if the model chooses the number.
        if model.max_outputs_param == "max_images" and given.get(_CHOOSES_NUMBER) != "auto":
            return 1
        known = model.input(model.max_outputs_param)
        asked = given.get(model.max_outputs_param, known.default if known else 1)
        return int(asked or 1)

    def picture(self, number: int) -> PictureSpec:
        """Return the contents of picture ``number`` (from 0)."""
        width, height = _size(self.model, self.input)
        prompt = self.input.get("prompt")
        # Upscalers, for example, have no prompt: their picture depends on the whole input.
        words = prompt if isinstance(prompt, str) else repr(sorted(self.input.items()))
        digest = hashlib.sha256(f"{self.model.id} {self.seed} {number}".encode()).digest()
        quality = self.input.get("output_quality", 80)
        return PictureSpec(
            prompt=words,
            seed=int.from_bytes(digest[:6]),
            width=width,
            height=height,
            format=_format(self.model, self.input),
            quality=max(1, min(100, int(quality))) if isinstance(quality, (int, float)) else 80,
        )

    def as_json(self, now: float, base_url: str) -> dict[str, Any]:
        """Return the prediction object of the API."""
        status, ended, is_removed = self.status(now), self.ended_at(now), self.is_removed(now)
        api = f"{base_url}/v1/predictions/{self.id}"
        body: dict[str, Any] = {
            "id": self.id,
            "model": self.model.id,
            "version": "hidden" if self.model.official else self.model.version,
            "input": {} if is_removed else self.input,
            "logs": "" if is_removed else self._logs(now),
            "output": self._output(base_url) if status == "succeeded" and not is_removed else None,
            "data_removed": is_removed,
            "error": self.plan.error if status == "failed" else None,
            "status": status,
            "source": "api",
            "created_at": _iso(self.created),
            "urls": {
                "get": api,
                "cancel": f"{api}/cancel",
                "web": f"{base_url}/p/{self.id}",
            },
        }
        if self.deadline is not None:
            body["deadline"] = _iso(self.deadline)
        if now >= self.starts and status != "aborted":
            body["started_at"] = _iso(self.starts)
        if ended is not None:
            body["completed_at"] = _iso(ended)
        if ended is not None and status != "aborted":
            body["metrics"] = {
                "predict_time": round(ended - self.starts, 3),
                "total_time": round(ended - self.created, 3),
            }
        if status == "succeeded":
            body["metrics"]["image_count"] = self.pictures
        return body

    def _logs(self, now: float) -> str:
        if now < self.starts:
            return ""
        until = self.ended_at(now) or now
        done = 1.0 if until >= self.ends else (until - self.starts) / self.plan.running
        return log_text(self.model, self.input, self.seed, self.pictures, done, self.plan.running)

    def _output(self, base_url: str) -> str | list[str]:
        extension = _format(self.model, self.input)
        links = [
            f"{base_url}/files/{self.id}/out-{number}.{extension}"
            for number in range(self.pictures)
        ]
        return links if self.model.output == "uri[]" else links[0]


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
        given: dict[str, Any],
        cancel_after: float | None,
        created_by: dict[str, str],
    ) -> Prediction:
        """Create a prediction with a valid input."""
        now = self.clock()
        prediction = Prediction(
            number=next(self._numbers),
            model=model,
            input=given,
            plan=self._plan(model),
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

    def _plan(self, model: CatalogModel) -> Plan:
        speed = self.settings.speed
        running = self.settings.seconds
        if running is None:
            running = (model.typical_seconds or _UNKNOWN_SECONDS) / speed
        queued = _QUEUE_SECONDS / speed
        error: str | None = None
        if slow := self.faults.take("create", "slow"):
            extra = 30.0 if slow.seconds is None else slow.seconds
            queued, running = (
                (queued + extra, running) if slow.queued else (queued, running + extra)
            )
        if fault := self.faults.take("create", "fail", "nsfw"):
            nsfw = "NSFW content detected. Try running it again, or try a different prompt."
            error = nsfw if fault.kind == "nsfw" else fault.message
        expires = self.faults.take("create", "expired_output") is not None
        return Plan(queued, running, error, expires)


_CHOOSES_NUMBER = "sequential_image_generation"
_ALPHABET = string.ascii_lowercase + string.digits
_FORMATS: dict[str, Format] = {"png": "png", "webp": "webp", "jpg": "jpg", "jpeg": "jpg"}
_MEGAPIXEL = 1024 * 1024
_MIN_LENGTH, _MAX_LENGTH = 64, 2048
_BY_X = re.compile(r"(\d{2,5})\s*[x*]\s*(\d{2,5})")
_BY_COLON = re.compile(r"(\d{1,2}):(\d{1,2})")


def _random_id() -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(26))


def _iso(moment: float) -> str:
    stamp = datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds")
    return stamp.replace("+00:00", "Z")


def _format(model: CatalogModel, given: dict[str, Any]) -> Format:
    if model.kind == "vector" or model.id.endswith("-svg"):
        return "svg"
    known = model.input("output_format") or model.input("format")
    asked = given.get(known.name, known.default) if known else None
    return _FORMATS.get(str(asked).lower(), "png")


def _size(model: CatalogModel, given: dict[str, Any]) -> tuple[int, int]:
    """Return width and height in pixels, from the inputs that the model has for them."""
    asked = {known.name: known.default for known in model.inputs} | given
    ratio = str(asked.get("aspect_ratio") or "")
    if match := _BY_COLON.fullmatch(ratio):
        area = _MEGAPIXEL * (0.25 if str(asked.get("megapixels")) == "0.25" else 1.0)
        shape = int(match[1]) / max(1, int(match[2]))
        return _pixels((area * shape) ** 0.5), _pixels((area / shape) ** 0.5)
    if match := _BY_X.search(f"{asked.get('size')} {asked.get('resolution')} {ratio}"):
        return _pixels(int(match[1])), _pixels(int(match[2]))
    width, height = asked.get("width"), asked.get("height")
    if isinstance(width, (int, float)) and isinstance(height, (int, float)):
        return _pixels(width, 8), _pixels(height, 8)
    return 1024, 1024


def _pixels(length: float, step: int = 32) -> int:
    return max(_MIN_LENGTH, min(_MAX_LENGTH, round(length / step) * step))

"""The planned duration and end of a prediction, which faults can change."""

from dataclasses import dataclass

from picture_queue.local.simulator.faults import Faults, Kind, Logs
from picture_queue.providers.replicate.catalog import CatalogModel

_UNKNOWN_SECONDS = 5.0  # for models with an unknown running time
_QUEUE_SECONDS = 0.15
_NSFW = "NSFW content detected. Try running it again, or try a different prompt."


@dataclass(frozen=True)
class Plan:
    """The planned duration and end of a prediction.

    Attributes:
        queued: Seconds before the prediction starts.
        running: Seconds for which the prediction runs.
        error: The error with which the prediction fails; None if it succeeds.
        expires: Whether the output is removed as soon as the prediction has ended.
        has_output: Whether the prediction has an output if it succeeds.
        missing: Number of pictures that the output lacks.
        logs: Kind of the logs; None: the kind of the model.
        broken: The fault of one output file; None if all files are good.
        broken_number: Number of the broken file, from 0.
    """

    queued: float
    running: float
    error: str | None = None
    expires: bool = False
    has_output: bool = True
    missing: int = 0
    logs: Logs | None = None
    broken: Kind | None = None
    broken_number: int = 0


def make_plan(model: CatalogModel, speed: float, seconds: float | None, faults: Faults) -> Plan:
    """Plan a prediction, and use up the faults that apply to it.

    Args:
        model: The model.
        speed: Factor by which predictions are faster than the real models.
        seconds: Duration of every prediction; None: the duration of the real model.
        faults: The faults that are switched on.
    """
    queued = _QUEUE_SECONDS / speed
    running = (model.typical_seconds or _UNKNOWN_SECONDS) / speed if seconds is None else seconds
    slow = faults.take("create", "slow")
    if slow is not None:
        extra = 30.0 if slow.seconds is None else slow.seconds
        queued, running = (queued + extra, running) if slow.queued else (queued, running + extra)
    failure = faults.take("create", "fail", "nsfw")
    broken = faults.take("create", "bad_picture", "bomb", "wrong_type")
    return Plan(
        queued,
        running,
        error=None if failure is None else _NSFW if failure.kind == "nsfw" else failure.message,
        expires=faults.take("create", "expired_output") is not None,
        has_output=faults.take("create", "missing_output") is None,
        missing=0 if faults.take("create", "fewer_pictures") is None else 1,
        logs=None if slow is None else slow.logs,
        broken=None if broken is None else broken.kind,
        broken_number=0 if broken is None else broken.number,
    )

"""Models that a project offers."""

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from picture_queue.records.base import Record

#: What a model does. The kind of a generation decides the type of its job.
ModelKind = Literal[
    "text-to-image", "image-variation", "image-edit", "upscale", "background-removal", "vector"
]


class ProviderCapabilities(Record):
    """The capabilities of the provider of a model.

    Attributes:
        webhook: True if the provider reports the end of a prediction to a URL.
        cancel: True if the provider stops a prediction on request.
        progress: True if predictions report their progress.
        recover: The way in which another worker continues after a crash. ``list``: it finds the
            prediction, so a picture is paid for once. ``id``: as ``list``, unless the crash came
            before the id of the prediction was recorded. ``none``: the generation runs again.
    """

    webhook: bool = False
    cancel: bool = False
    progress: bool = False
    recover: Literal["list", "id", "none"] = "none"


class Model(Record):
    """A model of a project.

    Attributes:
        provider: Name of the provider that makes its pictures.
        kind: The main kind of its generations.
        also_kinds: The other kinds that it can make.
        inputs: Name, type, default, bounds and permitted values of each input.
        inputs_complete: False if the model may have further inputs, which are sent unchecked.
        rules: The rules of the project by input: ``lock`` (the only value), ``default``, ``cap``
            (the highest value) and ``refuse`` (True, or a list of values).
        output: ``uri`` for one file, ``uri[]`` for a list of files; None if it is not known.
        price_usd_per_image: The price of a picture; None if the model is not priced per picture, or
            if the price is not known.
        typical_seconds: The typical run time; None if it is not known.
        max_outputs_param: The input for the number of pictures; None if there is none.
        official: True if the provider runs the model by its name, False if by its ``version``; None
            if it is not known.
        enabled: False if the project has disabled the model.
        unavailable_reason: The reason why projects cannot offer the model; None if they can.
        changed_at: The time of the last change by `models.set`; None for a model that is as
            picture-queue ships it.
        capabilities: The capabilities of its provider; None until a worker with this provider has
            run.
        default: True for the model of generations that name no model.
    """

    model_id: str
    provider: str = "replicate"
    kind: str
    also_kinds: tuple[str, ...] = ()
    inputs: tuple[dict[str, Any], ...]
    inputs_complete: bool = True
    rules: dict[str, dict[str, Any]] = Field(default_factory=dict)
    output: str | None = None
    typical_seconds: float | None
    price_usd_per_image: float | None
    max_outputs_param: str | None = None
    progress_in_logs: str | None = None
    official: bool | None = None
    version: str | None = None
    enabled: bool = True
    unavailable_reason: str | None = None
    changed_at: datetime | None = None
    capabilities: ProviderCapabilities | None = None
    default: bool = False

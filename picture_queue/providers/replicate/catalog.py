"""The catalogue of image models that ships with the package (``models.json``).

It was collected from public model pages and schemas in 2025 and 2026, so it may be incomplete or
out of date. A field whose value is not known is null.
"""

import json
from collections.abc import Mapping
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict


class ModelInput(BaseModel):
    """One input of a model.

    Attributes:
        type: JSON type: ``string``, ``integer``, ``number``, ``boolean`` or ``array``.
        format: ``uri`` for a file, or for an array of files; None for other inputs.
        unknown: Names of the fields that are null because their value is not known.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    type: Literal["string", "integer", "number", "boolean", "array"]
    format: Literal["uri"] | None = None
    default: Any = None
    minimum: float | None = None
    maximum: float | None = None
    enum: tuple[Any, ...] | None = None
    required: bool = False
    description: str = ""
    unknown: tuple[str, ...] = ()


class CatalogModel(BaseModel):
    """One model.

    Attributes:
        id: Name of the model at Replicate, ``owner/name``.
        kind: Main purpose of the model, such as ``text-to-image`` or ``upscale``.
        also_kinds: Further purposes of the model.
        official: True if the model is called by its name, False if it is called by ``version``;
            None if that is not known.
        version: Hash of the last known version; used only if ``official`` is not True.
        typical_seconds: Run time of an example prediction on the page of the model, without queue
            time and cold start.
        price_usd_per_image: List price; None if the model is not priced per image, or if sources
            disagree.
        max_outputs_param: Name of the input for the number of pictures.
        inputs_complete: False if the model may have inputs that are not listed.
        output: Type of the output of the last known version, ``uri`` or ``uri[]``; other versions
            may differ.
        progress_in_logs: Format of the progress in the logs of the example prediction.
        unavailable_reason: The reason why projects cannot offer the model; None if they can.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    kind: str
    also_kinds: tuple[str, ...] = ()
    official: bool | None
    version: str | None
    typical_seconds: float | None
    price_usd_per_image: float | None
    max_outputs_param: str | None
    inputs: tuple[ModelInput, ...]
    inputs_complete: bool = True
    output: Literal["uri", "uri[]"] | None
    progress_in_logs: Literal["percent", "text", "empty"] | None
    unavailable_reason: str | None = None
    notes: str | None = None

    def input(self, name: str) -> ModelInput | None:
        """Return the input with a name; None if the model has no such input."""
        return next((field for field in self.inputs if field.name == name), None)


@cache
def models() -> Mapping[str, CatalogModel]:
    """Return all models of the catalogue by id, in the order of the file."""
    text = resources.files(__package__).joinpath("models.json").read_text("utf-8")
    catalogue = [CatalogModel.model_validate(entry) for entry in json.loads(text)]
    return MappingProxyType({model.id: model for model in catalogue})

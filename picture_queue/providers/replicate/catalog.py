"""The catalogue of image models that ships with the package (``models.json``), typed.

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
        format: ``uri`` marks a file (on an array: each item is one).
        unknown: Names of fields whose value is not known: their null does not mean "none".
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
        id: ``owner/name``.
        kind: Its main purpose, for example ``text-to-image`` or ``upscale``.
        official: True: called by model name. False: called by ``version``. None: not known.
        version: Hash of the last known version; used only if ``official`` is not True.
        typical_seconds: Run time of a stored example, without queue and cold start.
        price_usd_per_image: List price; None if it is not priced per image or sources disagree.
        max_outputs_param: The input that asks for more than one picture.
        output: ``uri`` or ``uri[]`` in the last known version; others may differ.
        progress_in_logs: The form of progress in the logs of a stored example.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    kind: str
    official: bool | None
    version: str | None
    typical_seconds: float | None
    price_usd_per_image: float | None
    max_outputs_param: str | None
    inputs: tuple[ModelInput, ...]
    output: Literal["uri", "uri[]"] | None
    progress_in_logs: Literal["percent", "text", "empty"] | None
    notes: str | None = None

    def input(self, name: str) -> ModelInput | None:
        """Return the input of that name, or None."""
        return next((field for field in self.inputs if field.name == name), None)


@cache
def models() -> Mapping[str, CatalogModel]:
    """Return all models of the catalogue by id, in the order of the file."""
    text = resources.files(__package__).joinpath("models.json").read_text("utf-8")
    listed = [CatalogModel.model_validate(entry) for entry in json.loads(text)]
    return MappingProxyType({model.id: model for model in listed})

"""The catalogue of image models that ships with the package (``models.json``), typed.

It is a start, not the truth: collected from public model pages and schemas in 2025 and 2026. A
field that was not seen is null.
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
        unknown: Names of the fields nobody has seen, so their null does not mean "none".
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
        kind: What it is mainly for, for example ``text-to-image`` or ``upscale``.
        official: True: called through the model endpoint. False: needs ``version``. None: not
            known.
        version: Hash of the last version seen, a pin only where ``official`` is not True.
        typical_seconds: Running time of a stored example, without queue and cold start.
        price_usd_per_image: List price, None where it is priced otherwise or sources disagree.
        max_outputs_param: The input that asks for more than one picture.
        output: ``uri`` or ``uri[]`` as last seen; a hint, the shape changes between versions.
        progress_in_logs: What a stored example had in its logs.
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
        """The input of that name, or None."""
        return next((field for field in self.inputs if field.name == name), None)


@cache
def models() -> Mapping[str, CatalogModel]:
    """All models of the catalogue by id, in the order of the file."""
    text = resources.files(__package__).joinpath("models.json").read_text("utf-8")
    listed = [CatalogModel.model_validate(entry) for entry in json.loads(text)]
    return MappingProxyType({model.id: model for model in listed})

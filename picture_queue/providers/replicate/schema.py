"""Read the inputs and the output of a model from its OpenAPI schema at Replicate.

The format is that of Cog (https://cog.run/http): the schema ``Input`` has a property for each
input, and ``Output`` describes the output. A choice is a reference to a schema with ``enum``.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from picture_queue.providers import errors
from picture_queue.providers.replicate.client import ReplicateClient

_COUNT_INPUTS = ("num_outputs", "number_of_images", "max_images", "num_images")
_TYPES = ("string", "integer", "number", "boolean", "array")
#: The fields of an input that are compared, and that the database stores.
_INPUT_FIELDS = ("type", "format", "required", "default", "minimum", "maximum", "enum")


class FetchedModel(BaseModel):
    """A model as the API of Replicate describes it.

    Attributes:
        id: Name of the model, ``owner/name``.
        official: True if Replicate runs the model by its name, False if it runs it by ``version``.
        version: Hash of the version; None for an official model.
        inputs: The inputs, as `AsyncModels.set` takes them.
        inputs_complete: False if some inputs are not listed, because their type cannot be checked.
        secrets: Names of the required inputs that are secrets, such as the key of another provider.
            A project cannot offer a model that has some, because inputs are stored.
        output: ``uri``, ``uri[]``, or None for any other type.
        max_outputs_param: Name of the input for the number of pictures.
    """

    model_config = ConfigDict(frozen=True)

    id: str
    official: bool
    version: str | None
    inputs: tuple[dict[str, Any], ...]
    inputs_complete: bool
    secrets: tuple[str, ...] = ()
    output: Literal["uri", "uri[]"] | None
    max_outputs_param: str | None

    def guess_kind(self) -> str | None:
        """Return ``text-to-image`` if the model needs a prompt and no file; otherwise None."""
        needs_file = any(entry.get("format") and entry.get("required") for entry in self.inputs)
        has_prompt = any(entry["name"] == "prompt" for entry in self.inputs)
        return "text-to-image" if has_prompt and not needs_file else None

    def changes_to(self, known: Mapping[str, Any] | None) -> dict[str, Any]:
        """Return the fields of this model that differ from the model of a project.

        Args:
            known: The model of the project, with the attributes of `Model`; None: the project does
                not have the model.
        """
        fields: dict[str, Any] = {
            "official": self.official,
            "version": self.version,
            "inputs": list(self.inputs),
            "inputs_complete": self.inputs_complete,
            "output": self.output,
            "max_outputs_param": self.max_outputs_param,
        }
        if known is None:
            return fields
        if self.official:  # the project has the version whose schema was read, which is not used
            fields["version"] = known.get("version")
        if _by_name(known["inputs"]) == _by_name(self.inputs):
            del fields["inputs"]
        return {name: value for name, value in fields.items() if value != known.get(name)}


async def fetch_model(
    client: ReplicateClient, model_id: str, version: str | None = None
) -> FetchedModel:
    """Read a model from the API.

    Args:
        client: The client of the API.
        model_id: Name of the model, ``owner/name``.
        version: Hash of the version; None: the latest version, or none for an official model.

    Raises:
        ResourceNotFound: There is no such model or version, or it is private.
        RequestRefused: The model has no version, or no schema.
        ProviderError: The call failed for the reason that the class states.
    """
    model = await client.get_model(model_id)
    described = (
        await client.get_model(model_id, version) if version else model.get("latest_version")
    )
    official = model.get("is_official") is True and version is None
    if not isinstance(described, dict) or not (official or isinstance(described.get("id"), str)):
        raise errors.RequestRefused("The model has no version", detail=model_id)
    schemas = _object(
        _object(_object(described.get("openapi_schema")).get("components")).get("schemas")
    )
    if not isinstance(schemas.get("Input"), dict):
        raise errors.RequestRefused("The model has no schema of its inputs", detail=model_id)
    inputs, complete, secrets = _read_inputs(schemas)
    return FetchedModel(
        id=model_id,
        official=official,
        version=None if official else described["id"],
        inputs=tuple(inputs),
        inputs_complete=complete,
        secrets=tuple(secrets),
        output=_read_output(schemas),
        max_outputs_param=next(
            (entry["name"] for entry in inputs if entry["name"] in _COUNT_INPUTS), None
        ),
    )


def describe_changes(known: Mapping[str, Any] | None, changes: Mapping[str, Any]) -> list[str]:
    """Return a line for each change of a model, such as ``input seed: maximum 10 → 20``.

    Args:
        known: The model of the project; None: the project does not have the model.
        changes: The fields that change.
    """
    before = dict(known or {})
    lines = [
        f"{name}: {_shown(before.get(name))} → {_shown(value)}"
        for name, value in changes.items()
        if name != "inputs" and (known is not None or value is not None)
    ]
    if "inputs" in changes:
        old, new = _by_name(before.get("inputs", ())), _by_name(changes["inputs"])
        lines += [f"input {name}: removed" for name in old if name not in new]
        for name, entry in new.items():
            if name not in old:
                fields = ", ".join(f"{field} {_shown(entry[field])}" for field in entry)
                lines.append(f"input {name}: added ({fields})")
            else:
                lines += [
                    f"input {name}: {field} {_shown(old[name].get(field))} → "
                    f"{_shown(entry.get(field))}"
                    for field in _INPUT_FIELDS
                    if old[name].get(field) != entry.get(field)
                ]
    return lines


def _by_name(inputs: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the inputs by name, without fields that have no effect."""
    return {
        entry["name"]: {
            field: entry[field]
            for field in _INPUT_FIELDS
            if entry.get(field) is not None and (field != "required" or entry[field])
        }
        for entry in inputs
    }


def _shown(value: Any) -> str:
    """Return a value as JSON of at most 200 characters, and ``none`` for None."""
    text = "none" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else text[:200] + "…"


def _read_inputs(schemas: Mapping[str, Any]) -> tuple[list[dict[str, Any]], bool, list[str]]:
    """Return the inputs, True if all were read, and the names of required secrets."""
    required = schemas["Input"].get("required")
    required_names = required if isinstance(required, list) else []
    inputs: list[dict[str, Any]] = []
    secrets: list[str] = []
    complete = True
    for name, property_ in _ordered(_object(schemas["Input"].get("properties"))):
        schema = _resolve(property_, schemas)
        if schema.get("format") == "password" or schema.get("x-cog-secret") is True:
            if name in required_names:
                secrets.append(name)
            continue
        entry = _read_input(name, schema, name in required_names, schemas)
        if entry is None:
            complete = False
        else:
            inputs.append(entry)
    return inputs, complete, secrets


def _ordered(properties: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the properties that are objects: the prompt, then the others by ``x-order``."""
    objects = [(name, value) for name, value in properties.items() if isinstance(value, dict)]
    return sorted(
        objects, key=lambda item: (item[0] != "prompt", _number(item[1].get("x-order"), 1e9))
    )


def _resolve(property_: Mapping[str, Any], schemas: Mapping[str, Any]) -> dict[str, Any]:
    """Return a property merged with the schemas that it refers to; its own fields win."""
    merged: dict[str, Any] = {}
    parts = [property_]
    for combination in ("allOf", "anyOf", "oneOf"):
        listed = property_.get(combination)
        parts += [o for o in listed if isinstance(o, dict)] if isinstance(listed, list) else []
    for part in reversed(parts):
        reference = part.get("$ref")
        if isinstance(reference, str):
            merged.update(_object(schemas.get(reference.rpartition("/")[2])))
        if part.get("type") != "null":
            merged.update(part)
    return merged


def _read_input(
    name: str, schema: Mapping[str, Any], required: bool, schemas: Mapping[str, Any]
) -> dict[str, Any] | None:
    """Return an input; None if its type cannot be checked."""
    enum = schema.get("enum") if isinstance(schema.get("enum"), list) else None
    type_ = schema.get("type") or (_type_of(enum[0]) if enum else None)
    if type_ not in _TYPES or len(name) > 100:
        return None
    entry: dict[str, Any] = {"name": name, "type": type_, "required": required}
    items = schema.get("items")
    is_list = type_ == "array"
    value_schema = _resolve(items, schemas) if is_list and isinstance(items, dict) else schema
    if value_schema.get("format") == "uri":
        entry["format"] = "uri"
    for field in ("minimum", "maximum"):
        if type_ in ("integer", "number") and _number(schema.get(field), None) is not None:
            entry[field] = schema[field]
    if enum is not None:
        entry["enum"] = enum
    default_type = _type_of(schema.get("default"))
    if default_type == type_ or (default_type, type_) == ("integer", "number"):
        entry["default"] = schema["default"]
    return entry


def _read_output(schemas: Mapping[str, Any]) -> Literal["uri", "uri[]"] | None:
    output = _resolve(_object(schemas.get("Output")), schemas)
    items = output.get("items")
    if output.get("type") == "array" and isinstance(items, dict):
        return "uri[]" if _resolve(items, schemas).get("format") == "uri" else None
    return "uri" if output.get("format") == "uri" else None


def _type_of(value: Any) -> str | None:
    if isinstance(value, bool):
        return "boolean"
    kinds = {str: "string", int: "integer", float: "number", list: "array"}
    return kinds.get(type(value))


def _number(value: Any, default: Any) -> Any:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else default


def _object(value: Any) -> dict[str, Any]:
    """Return the value if it is a JSON object; otherwise an empty object."""
    return value if isinstance(value, dict) else {}

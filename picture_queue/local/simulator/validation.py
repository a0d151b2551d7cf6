"""Validation of a model's input against the catalogue, with the error texts of Replicate."""

from typing import Any

from picture_queue.providers.replicate.catalog import CatalogModel, ModelInput

InvalidField = dict[str, str]


def find_errors(model: CatalogModel, inputs: dict[str, Any]) -> list[InvalidField]:
    """Return the errors of the inputs, in the format of ``invalid_fields``.

    Inputs that the catalogue does not have are accepted, since Replicate's documentation does not
    say how Replicate's API treats such inputs.
    """
    errors: list[InvalidField] = []
    for field in model.inputs:
        if field.name not in inputs:
            if field.required:
                errors.append(_error("required", "input", f"{field.name} is required"))
        elif error := _find_error(field, inputs[field.name]):
            errors.append(error)
    return errors


def _find_error(field: ModelInput, value: Any) -> InvalidField | None:
    name = f"input.{field.name}"
    if not _has_type(field.type, value):
        description = f"Invalid type. Expected: {field.type}, given: {_type_name(value)}"
        return _error("invalid_type", name, description)
    if field.enum is not None and value not in field.enum:
        choices = ", ".join(f'"{choice}"' for choice in field.enum)
        description = f"{field.name} must be one of the following: {choices}"
        return _error("enum", name, description)
    if field.minimum is not None and value < field.minimum:
        description = f"Must be greater than or equal to {field.minimum:g}"
        return _error("number_gte", name, description)
    if field.maximum is not None and value > field.maximum:
        description = f"Must be less than or equal to {field.maximum:g}"
        return _error("number_lte", name, description)
    return None


def _has_type(expected: str, value: Any) -> bool:
    if expected == "boolean":
        return isinstance(value, bool)
    if isinstance(value, bool):
        return False
    if expected == "integer":
        return isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    types: dict[str, tuple[type, ...]] = {
        "number": (int, float),
        "string": (str,),
        "array": (list,),
    }
    return isinstance(value, types[expected])


def _type_name(value: Any) -> str:
    names = {str: "string", bool: "boolean", int: "integer", float: "number", list: "array"}
    return "null" if value is None else names.get(type(value), "object")


def _error(kind: str, field: str, description: str) -> InvalidField:
    return {"type": kind, "field": field, "description": description}

"""Validation of a model's input against the catalogue, with the error texts of Replicate."""

from typing import Any

from picture_queue.providers.replicate.catalog import CatalogModel, ModelInput

Complaint = dict[str, str]


def complaints(model: CatalogModel, given: dict[str, Any]) -> list[Complaint]:
    """Return the errors of an input, in the form of ``invalid_fields``.

    Inputs that the catalogue does not have are accepted, since it is not documented how the real
    API treats them.
    """
    found: list[Complaint] = []
    for field in model.inputs:
        if field.name not in given:
            if field.required:
                found.append(_complaint("required", "input", f"{field.name} is required"))
        elif complaint := _find_error(field, given[field.name]):
            found.append(complaint)
    return found


def _find_error(field: ModelInput, value: Any) -> Complaint | None:
    name = f"input.{field.name}"
    if not _fits(field.type, value):
        words = f"Invalid type. Expected: {field.type}, given: {_type_name(value)}"
        return _complaint("invalid_type", name, words)
    if field.enum is not None and value not in field.enum:
        choices = ", ".join(f'"{choice}"' for choice in field.enum)
        words = f"{field.name} must be one of the following: {choices}"
        return _complaint("enum", name, words)
    if field.minimum is not None and value < field.minimum:
        words = f"Must be greater than or equal to {field.minimum:g}"
        return _complaint("number_gte", name, words)
    if field.maximum is not None and value > field.maximum:
        words = f"Must be less than or equal to {field.maximum:g}"
        return _complaint("number_lte", name, words)
    return None


def _fits(kind: str, value: Any) -> bool:
    if kind == "boolean":
        return isinstance(value, bool)
    if isinstance(value, bool):
        return False
    if kind == "integer":
        return isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    types: dict[str, tuple[type, ...]] = {
        "number": (int, float),
        "string": (str,),
        "array": (list,),
    }
    return isinstance(value, types[kind])


def _type_name(value: Any) -> str:
    names = {str: "string", bool: "boolean", int: "integer", float: "number", list: "array"}
    return "null" if value is None else names.get(type(value), "object")


def _complaint(kind: str, field: str, description: str) -> Complaint:
    return {"type": kind, "field": field, "description": description}

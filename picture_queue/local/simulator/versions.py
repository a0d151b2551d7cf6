"""The models of the catalogue and their versions, in the format of Replicate's API."""

import hashlib
import re
from typing import Any

from picture_queue.providers.replicate.catalog import CatalogModel, ModelInput, models

_CREATED_AT = "2025-01-01T00:00:00.000000Z"
_FILE = {"type": "string", "format": "uri"}


def find_model(owner: str, name: str) -> CatalogModel | None:
    """Return a model; None if the catalogue does not have it."""
    return models().get(f"{owner}/{name}")


def can_run_by_name(model: CatalogModel) -> bool:
    """Return whether a model can be called without a version.

    For some models, it is not known whether Replicate permits this. The simulator permits it.
    """
    return model.official is not False


def version_of(model: CatalogModel) -> str:
    """Return the version of a model; without one in the catalogue, a hash of the model's name."""
    return model.version or hashlib.sha256(f"version of {model.id}".encode()).hexdigest()


def find_version(version: str) -> CatalogModel | None:
    """Return the model of ``<64 hex>``, ``owner/name:<64 hex>`` or an official ``owner/name``."""
    if "/" in version and ":" not in version:
        model = models().get(version)
        return model if model is not None and can_run_by_name(model) else None
    name, _, pin = version.rpartition(":")
    # Official models hide their versions, and cannot be run by version.
    return next(
        (
            model
            for model in models().values()
            if version_of(model) == pin and not model.official and name in ("", model.id)
        ),
        None,
    )


def search(query: str) -> list[CatalogModel]:
    """Return the models whose name or kind has one of the words of a query."""
    words = re.findall(r"[a-z0-9]+", query.lower())
    return [
        model
        for model in models().values()
        if any(word in f"{model.id} {model.kind}".lower() for word in words)
    ]


def model_json(model: CatalogModel) -> dict[str, Any]:
    """Return the model object of Replicate's API."""
    owner, _, name = model.id.partition("/")
    return {
        "url": f"https://replicate.com/{model.id}",
        "owner": owner,
        "name": name,
        "description": f"A simulated model ({model.kind})",
        "visibility": "public",
        "is_official": bool(model.official),
        "github_url": None,
        "paper_url": None,
        "license_url": None,
        "run_count": 0,
        "cover_image_url": None,
        "default_example": None,
        "latest_version": version_json(model),
    }


def version_json(model: CatalogModel) -> dict[str, Any]:
    """Return the version object of Replicate's API."""
    schemas: dict[str, Any] = {
        "Input": {
            "type": "object",
            "properties": {field.name: _property(field) for field in model.inputs},
            "required": [field.name for field in model.inputs if field.required],
        }
    }
    if model.output is not None:
        schemas["Output"] = _FILE if model.output == "uri" else {"type": "array", "items": _FILE}
    return {
        "id": version_of(model),
        "created_at": _CREATED_AT,
        "cog_version": "0.16.0",
        "openapi_schema": {"components": {"schemas": schemas}},
    }


def _property(field: ModelInput) -> dict[str, Any]:
    """Return the JSON schema of an input."""
    values = field.model_dump(mode="json", exclude={"name", "required", "unknown"})
    schema = {key: value for key, value in values.items() if value is not None}
    if field.type == "array" and schema.pop("format", None):
        schema["items"] = _FILE
    return schema

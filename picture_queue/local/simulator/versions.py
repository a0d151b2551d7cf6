"""The models of the catalogue as Replicate shows them, and their versions."""

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

    Whether Replicate permits this is not known of some models; the simulator permits it.
    """
    return model.official is not False


def version_of(model: CatalogModel) -> str:
    """Return the version of a model; if the catalogue has none, one that stays the same."""
    return model.version or hashlib.sha256(f"version of {model.id}".encode()).hexdigest()


def find_version(version: str) -> CatalogModel | None:
    """Return the model of ``<64 hex>``, ``owner/name:<64 hex>`` or an official ``owner/name``."""
    if "/" in version and ":" not in version:
        model = models().get(version)
        return model if model is not None and can_run_by_name(model) else None
    name, _, pin = version.rpartition(":")
    # Official models hide their version and cannot be run by it.
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
    """Return the model object of the API."""
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
    """Return the version object of the API."""
    schemas: dict[str, Any] = {
        "Input": {
            "type": "object",
            "properties": {known.name: _property(known) for known in model.inputs},
            "required": [known.name for known in model.inputs if known.required],
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


def _property(known: ModelInput) -> dict[str, Any]:
    given = known.model_dump(mode="json", exclude={"name", "required", "unknown"})
    shown = {key: value for key, value in given.items() if value is not None}
    if known.type == "array" and shown.pop("format", None):
        shown["items"] = _FILE
    return shown

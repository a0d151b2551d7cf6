"""The routes of models, versions and hardware."""

import re

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from picture_queue.local import json_body
from picture_queue.local.simulator.requests import base_url
from picture_queue.local.simulator.responses import answer, not_found
from picture_queue.local.simulator.versions import (
    find_model,
    model_json,
    search,
    version_json,
    version_of,
)
from picture_queue.providers.replicate.catalog import CatalogModel, models

_PAGE_SIZE = 25
_MAX_QUERY_BYTES = 10_000
_HARDWARE = (
    ("cpu", "CPU"),
    ("gpu-t4", "Nvidia T4 GPU"),
    ("gpu-l40s", "Nvidia L40S GPU"),
    ("gpu-a100-large", "Nvidia A100 (80GB) GPU"),
    ("gpu-h100", "Nvidia H100 GPU"),
)


async def list_models(request: Request) -> Response:
    """``GET /models``."""
    cursor = request.query_params.get("cursor", "")
    first = int(cursor) if re.fullmatch("[0-9]{1,9}", cursor) else 0
    all_models = list(models().values())
    next_first = first + _PAGE_SIZE
    page = all_models[first:next_first]
    has_more = next_first < len(all_models)
    return answer(
        {
            "previous": None,
            "next": f"{base_url(request)}/v1/models?cursor={next_first}" if has_more else None,
            "results": [model_json(model) for model in page],
        }
    )


async def search_models(request: Request) -> Response:
    """``QUERY /models``; the body is the query as plain text."""
    query = await json_body.receive(request, _MAX_QUERY_BYTES)
    matching = search(query.decode(errors="replace"))[:_PAGE_SIZE]
    results = [model_json(model) for model in matching]
    return answer({"previous": None, "next": None, "results": results})


async def get_model(request: Request) -> Response:
    """``GET /models/{owner}/{name}``."""
    model = _model_of(request)
    return not_found() if model is None else answer(model_json(model))


async def list_versions(request: Request) -> Response:
    """``GET /models/{owner}/{name}/versions``; official models show no versions."""
    model = _model_of(request)
    if model is None:
        return not_found()
    results = [] if model.official else [version_json(model)]
    return answer({"previous": None, "next": None, "results": results})


async def get_version(request: Request) -> Response:
    """``GET /models/{owner}/{name}/versions/{id}``."""
    model = _model_of(request)
    if model is None or request.path_params["id"] != version_of(model):
        return not_found()
    return answer(version_json(model))


async def list_hardware(request: Request) -> Response:
    """``GET /hardware``."""
    return JSONResponse([{"name": name, "sku": sku} for sku, name in _HARDWARE])


def _model_of(request: Request) -> CatalogModel | None:
    return find_model(request.path_params["owner"], request.path_params["name"])

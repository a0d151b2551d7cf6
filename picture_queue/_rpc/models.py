"""Calls about models."""

from collections.abc import Mapping
from typing import Any

from picture_queue._rpc.base import Rpc, keep_none, omit_none, row_parser
from picture_queue.records import Model

_parse_models = row_parser(Model)


def list_models(kind: str | None = None, include_disabled: bool = False) -> Rpc[list[Model]]:
    filter_ = omit_none(kind=kind, include_disabled=include_disabled or None)
    return Rpc("list_models", {"filter": filter_} if filter_ else {}, _parse_models)


def set_model(model_id: str, changes: Mapping[str, Any]) -> Rpc[Model]:
    params = keep_none(model_id=model_id, changes=dict(changes))
    return Rpc("set_model", params, Model.model_validate)

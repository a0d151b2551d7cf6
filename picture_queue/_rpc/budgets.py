"""Calls about budgets."""

from collections.abc import Mapping
from typing import Any

from picture_queue._ids import new_id
from picture_queue._rpc.base import Rpc, list_page, parse_nothing, required
from picture_queue.records import Budget


def list_budgets(limit: int, after: str | None) -> Rpc[list[Budget]]:
    return list_page("list_budgets", Budget, limit, after)


def set_budget(key: str, changes: Mapping[str, Any]) -> Rpc[Budget]:
    return Rpc("set_budget", required(key=key, changes=changes), Budget.model_validate)


def delete_budget(key: str) -> Rpc[None]:
    return Rpc("delete_budget", required(key=key, request_id=new_id()), parse_nothing)

"""Calls about budgets."""

from collections.abc import Mapping
from typing import Any

from picture_queue._ids import new_id
from picture_queue._rpc.base import Rpc, keep_none, list_page, parse_nothing
from picture_queue.records import Budget


def list_budgets(limit: int, after: str | None) -> Rpc[list[Budget]]:
    return list_page("list_budgets", Budget, limit, after)


def set_budget(key: str, changes: Mapping[str, Any]) -> Rpc[Budget]:
    return Rpc("set_budget", keep_none(key=key, changes=changes), Budget.model_validate)


def delete_budget(key: str) -> Rpc[None]:
    return Rpc("delete_budget", keep_none(key=key, request_id=new_id()), parse_nothing)

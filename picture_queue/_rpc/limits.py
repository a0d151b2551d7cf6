"""Calls about limit keys: their limits and their pauses."""

from datetime import datetime

from picture_queue._ids import new_id
from picture_queue._rpc.base import Rpc, keep_none, list_page, omit_none, parse_nothing
from picture_queue.records import Limit, PausedKey


def list_limits(limit: int, after: str | None) -> Rpc[list[Limit]]:
    return list_page("list_limits", Limit, limit, after)


def set_limit(
    key: str, max_running: int | None, rate: int | None, period_seconds: float | None
) -> Rpc[Limit]:
    params = omit_none(key=key, max_running=max_running, rate=rate, period_seconds=period_seconds)
    return Rpc("set_limit", params, Limit.model_validate)


def delete_limit(key: str) -> Rpc[None]:
    return Rpc("delete_limit", keep_none(key=key, request_id=new_id()), parse_nothing)


def pause_key(key: str, resume_at: datetime | None) -> Rpc[PausedKey]:
    return Rpc("pause_key", omit_none(key=key, resume_at=resume_at), PausedKey.model_validate)


def resume_key(key: str) -> Rpc[PausedKey]:
    return Rpc("resume_key", keep_none(key=key), PausedKey.model_validate)

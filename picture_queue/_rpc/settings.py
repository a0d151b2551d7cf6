"""Calls about the settings of a project."""

from collections.abc import Mapping
from typing import Any

from picture_queue._rpc.base import Rpc, keep_none
from picture_queue.records import Setting


def get_settings() -> Rpc[Setting]:
    return Rpc("get_settings", {}, Setting.model_validate)


def set_setting(changes: Mapping[str, Any]) -> Rpc[Setting]:
    return Rpc("set_setting", keep_none(changes=changes), Setting.model_validate)

"""Calls about models."""

from picture_queue._rpc.base import Rpc, row_parser
from picture_queue.records import Model

_parse_models = row_parser(Model)


def list_models() -> Rpc[list[Model]]:
    return Rpc("list_models", {}, _parse_models)

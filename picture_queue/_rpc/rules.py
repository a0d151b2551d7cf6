"""Calls about rules over the inputs of generations."""

from pydantic import JsonValue

from picture_queue._ids import new_id
from picture_queue._rpc.base import Rpc, omit_none, parse_nothing, row_parser
from picture_queue.records import InputRule

_parse_rules = row_parser(InputRule)


def list_input_rules() -> Rpc[list[InputRule]]:
    return Rpc("list_input_rules", {}, _parse_rules)


def set_input_rule(
    model: str, input: str, action: str, value: JsonValue, plan: str | None
) -> Rpc[InputRule]:
    params = omit_none(model=model, input=input, action=action, value=value, plan=plan)
    return Rpc("set_input_rule", params, InputRule.model_validate)


def delete_input_rule(model: str, input: str, action: str, plan: str | None) -> Rpc[None]:
    params = omit_none(model=model, input=input, action=action, plan=plan, request_id=new_id())
    return Rpc("delete_input_rule", params, parse_nothing)

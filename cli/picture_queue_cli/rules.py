"""``picture-queue rules``: the operator's rules over the inputs of generations."""

import json
from typing import Annotated, Any

import typer

from picture_queue_cli.commands import Commands
from picture_queue_cli.options import JsonFlag
from picture_queue_cli.parsing import choice, expect_filled, parse_json
from picture_queue_cli.project import connect
from picture_queue_cli.render import info, one_line, out, plain, print_json, print_line, table

app = Commands(
    help="Lock, limit and refuse inputs of generations.",
    example="rules set 'black-forest-labs/*' num_outputs cap 2",
)

# A copy of the library's enumeration, whose import would slow down the start of every command.
ACTIONS = ("lock", "default", "cap", "refuse", "allow")

ModelPattern = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", callback=expect_filled, help="Name the model; * stands for any characters."
    ),
]
InputPattern = Annotated[
    str,
    typer.Argument(
        metavar="INPUT", callback=expect_filled, help="Name the input; * stands for any characters."
    ),
]
Action = Annotated[
    str,
    typer.Argument(
        metavar="ACTION", parser=choice(*ACTIONS), help=f"Name the action: {', '.join(ACTIONS)}."
    ),
]
Plan = Annotated[
    str | None,
    typer.Option(
        metavar="PLAN", callback=expect_filled, help="Apply the rule to users of this plan."
    ),
]


@app.command("list", example="rules list")
def list_rules(ctx: typer.Context, *, as_json: JsonFlag = False) -> None:
    """List the rules."""
    with connect(ctx) as pq:
        rules = pq.rules.list()
    if as_json:
        print_json([plain(rule) for rule in rules])
        return
    if not rules:
        info("There are no rules.")
        return
    listing = table("model", "input", "action", "value", "plan")
    for rule in rules:
        listing.add_row(
            one_line(rule.model),
            one_line(rule.input),
            rule.action,
            "" if rule.value is None else one_line(json.dumps(rule.value, ensure_ascii=False)),
            one_line(rule.plan or ""),
        )
    out().print(listing)


@app.command("set", example="rules set '*' num_outputs cap 2 --plan free")
def set_rule(
    ctx: typer.Context,
    model: ModelPattern,
    input_: InputPattern,
    action: Action,
    value: Annotated[
        str | None,
        typer.Argument(metavar="VALUE", help="Set the value, as JSON or text; a list for refuse."),
    ] = None,
    *,
    plan: Plan = None,
    as_json: JsonFlag = False,
) -> None:
    """Set a rule over an input.

    lock permits only VALUE. default is used if the input is left out. cap is
    the highest number, or the most entries or characters. refuse refuses the
    input, or a list of its values. allow disables less specific rules.
    """
    with connect(ctx) as pq:
        rule = pq.rules.set(model, input_, action, _parse_value(value), plan=plan)
    if as_json:
        print_json(plain(rule))
    else:
        value_text = "" if rule.value is None else f" {json.dumps(rule.value, ensure_ascii=False)}"
        print_line(one_line(f"{rule.model} {rule.input}: {rule.action}{value_text}"))


@app.command(example="rules delete '*' num_outputs cap")
def delete(
    ctx: typer.Context,
    model: ModelPattern,
    input_: InputPattern,
    action: Action,
    *,
    plan: Plan = None,
    as_json: JsonFlag = False,
) -> None:
    """Delete a rule."""
    with connect(ctx) as pq:
        pq.rules.delete(model, input_, action, plan=plan)
    if as_json:
        print_json(
            {"model": model, "input": input_, "action": action, "plan": plan, "deleted": True}
        )
    else:
        info("The rule was deleted.")


def _parse_value(text: str | None) -> Any:
    if text is None:
        return None
    try:
        return parse_json(text)
    except ValueError:
        return text

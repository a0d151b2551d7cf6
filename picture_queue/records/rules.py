"""Rules over the inputs of generations."""

from typing import Literal

from pydantic import JsonValue

from picture_queue.records.base import Record

#: The effect of a rule: ``lock`` permits one value, ``default`` is the value of an input that the
#: caller leaves out, ``cap`` is the highest value, ``refuse`` refuses the input or a list of its
#: values, and ``allow`` disables all less specific rules except defaults.
RuleAction = Literal["lock", "default", "cap", "refuse", "allow"]


class InputRule(Record):
    """A rule of the operator over an input of generations.

    Attributes:
        model: The model, or a pattern in which ``*`` stands for any characters.
        input: The input, or a pattern.
        value: The value; None for ``allow``, and for ``refuse`` without a list of values.
        plan: The plan of the users to whom the rule applies; None: all users.
    """

    model: str
    input: str
    action: str
    value: JsonValue = None
    plan: str | None = None

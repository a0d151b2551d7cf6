# Written by scripts/unasync.py from picture_queue/_async/rules.py: edit that file.

"""Rules over the inputs of generations."""

import builtins

from pydantic import JsonValue

from picture_queue._rpc import rules as _rpc
from picture_queue._transport.backend_sync import Backend
from picture_queue.records import InputRule, RuleAction


class Rules:
    """The operator's rules over the inputs of generations; every method needs a service key.

    If several rules with the same action match an input, the most specific one applies. A rule with
    a plan is more specific than a rule without a plan. After that, the more specific pattern of the
    model decides, and then the more specific pattern of the input.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def list(self) -> builtins.list[InputRule]:
        """Return the rules, sorted by model and input."""
        return self._backend.call(_rpc.list_input_rules())

    def set(
        self,
        model: str,
        input: str,
        action: RuleAction | str,
        value: JsonValue = None,
        *,
        plan: str | None = None,
    ) -> InputRule:
        """Set a rule. The rule applies to generations that are started from now on.

        Args:
            model: The model, or a pattern in which ``*`` stands for any characters.
            input: The name of the input, or a pattern.
            action: ``lock`` (permit only this value), ``default`` (use this value if the caller
                leaves the input out), ``cap`` (permit at most this number, or this many entries or
                characters), ``refuse`` (refuse the input, or a list of its values) or ``allow``
                (disable all less specific rules except defaults).
            value: The value of the rule.
            plan: The plan of the users to whom the rule applies; None: all users.

        Returns:
            The rule.

        Raises:
            InvalidArgument: A value is invalid, or does not fit a model that has the input.
        """
        return self._backend.call(_rpc.set_input_rule(model, input, action, value, plan))

    def delete(
        self, model: str, input: str, action: RuleAction | str, *, plan: str | None = None
    ) -> None:
        """Delete a rule.

        Raises:
            RuleNotFound: There is no such rule.
        """
        self._backend.call(_rpc.delete_input_rule(model, input, action, plan))

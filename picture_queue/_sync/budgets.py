# Written by scripts/unasync.py from picture_queue/_async/budgets.py: edit that file.

"""Budgets."""

import builtins
from typing import Unpack

from picture_queue._rpc import budgets as _rpc
from picture_queue._transport.backend_sync import Backend
from picture_queue.options import BudgetChanges
from picture_queue.records import Budget


class Budgets:
    """The budgets of the project, of plans and of users.

    A start that exceeds a budget is refused. Every method needs a service key.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def list(self, *, limit: int = 10_000, after: str | None = None) -> builtins.list[Budget]:
        """Return the budgets.

        Args:
            limit: Maximum number of results, up to 10,000.
            after: The key of the last budget of the previous page.
        """
        return self._backend.call(_rpc.list_budgets(limit, after))

    def set(self, key: str, **changes: Unpack[BudgetChanges]) -> Budget:
        """Create or change a budget. The change applies to generations started from now on.

        Args:
            key: ``project``, ``user:*`` (each user), ``plan:<name>`` (each user of a plan) or
                ``user:<id>``. For each field, the budget of the user takes precedence over the
                budget of the plan, and the budget of the plan over ``user:*``.
            **changes: The fields to change; see `BudgetChanges`. None removes the limit.

        Returns:
            The budget as it is now.

        Raises:
            InvalidArgument: A value is invalid; the error names the field and the value.
        """
        return self._backend.call(_rpc.set_budget(key, changes))

    def delete(self, key: str) -> None:
        """Delete a budget.

        Raises:
            BudgetNotFound: The key has no budget.
        """
        self._backend.call(_rpc.delete_budget(key))

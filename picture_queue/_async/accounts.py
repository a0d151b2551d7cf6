"""Accounts of users, and the ledger."""

import builtins
from uuid import UUID

from picture_queue._rpc import accounts as _rpc
from picture_queue._transport.backend import AsyncBackend
from picture_queue.records import Account, LedgerEntry


class AsyncAccounts:
    """The plans, the credits and the spending of users.

    With a user's token only `get` is possible; the other methods need a service key.
    """

    def __init__(self, backend: AsyncBackend) -> None:
        self._backend = backend

    async def get(self, user_id: UUID | str | None = None) -> Account:
        """Return the account of a user: credits, spending and limits.

        Args:
            user_id: The user, which a service key has to name; None: the signed-in user.

        Raises:
            InvalidArgument: A service key named no user.
            NotAllowed: The account belongs to another user.
        """
        return await self._backend.call(_rpc.get_account(user_id))

    async def list(
        self,
        *,
        plan: str | None = None,
        limit: int = 10_000,
        after: UUID | str | None = None,
    ) -> builtins.list[Account]:
        """Return the accounts of users who have started a generation, or have a plan or credits.

        Args:
            plan: The plan of the users to return; None: any plan or none.
            limit: Maximum number of results, up to 10,000.
            after: The user id of the last account of the previous page.
        """
        return await self._backend.call(_rpc.list_accounts(limit, after, plan))

    async def set(self, user_id: UUID | str, *, plan: str | None) -> Account:
        """Set the plan of a user; None: no plan.

        Returns:
            The account as it is now.

        Raises:
            InvalidArgument: The plan is not a name of letters, digits and ``_ . -``.
        """
        return await self._backend.call(_rpc.set_account(user_id, plan))

    async def grant(
        self,
        user_id: UUID | str,
        usd: float,
        *,
        idempotency_key: str | None = None,
        note: str | None = None,
    ) -> Account:
        """Add credits to the account of a user.

        Args:
            user_id: The user.
            usd: The amount, with up to 6 decimals. A negative amount takes back credits that the
                user has not spent.
            idempotency_key: A repeated call with the same key changes nothing; for example the id
                of the payment.
            note: A text for operators, shown in the ledger.

        Returns:
            The account as it is now.

        Raises:
            Conflict: The idempotency key belongs to a different grant, or the user has fewer
                credits left than a negative amount takes back.
        """
        return await self._backend.call(_rpc.grant_credits(user_id, usd, idempotency_key, note))

    async def ledger(
        self,
        *,
        user_id: UUID | str | None = None,
        generation_id: UUID | str | None = None,
        before_id: int | None = None,
        limit: int = 100,
    ) -> builtins.list[LedgerEntry]:
        """Return rows of the ledger, newest first.

        Args:
            user_id: The user whose rows to return; None: all users.
            generation_id: The generation whose rows to return; None: all generations.
            before_id: The id of the last row of the previous page.
            limit: Maximum number of results, up to 1000.
        """
        rpc = _rpc.list_ledger(
            user_id=user_id, generation_id=generation_id, before_id=before_id, limit=limit
        )
        return await self._backend.call(rpc)

"""Calls about accounts and the ledger."""

from uuid import UUID

from picture_queue._ids import new_id
from picture_queue._rpc.base import Rpc, keep_none, omit_none, row_parser
from picture_queue.records import Account, LedgerEntry

_parse_accounts = row_parser(Account)
_parse_ledger = row_parser(LedgerEntry)


def get_account(user_id: UUID | str | None) -> Rpc[Account]:
    return Rpc("get_account", omit_none(user_id=user_id), Account.model_validate)


def list_accounts(
    limit: int, after: UUID | str | None, plan: str | None = None
) -> Rpc[list[Account]]:
    filter_ = omit_none(limit=limit, after=after, plan=plan)
    return Rpc("list_accounts", {"filter": filter_}, _parse_accounts)


def set_account(user_id: UUID | str, plan: str | None) -> Rpc[Account]:
    return Rpc("set_account", keep_none(user_id=user_id, plan=plan), Account.model_validate)


def grant_credits(
    user_id: UUID | str, usd: float, idempotency_key: str | None, note: str | None
) -> Rpc[Account]:
    params = omit_none(
        user_id=user_id, usd=usd, idempotency_key=idempotency_key or str(new_id()), note=note
    )
    return Rpc("grant_credits", params, Account.model_validate)


def list_ledger(
    *,
    user_id: UUID | str | None = None,
    generation_id: UUID | str | None = None,
    before_id: int | None = None,
    limit: int = 100,
) -> Rpc[list[LedgerEntry]]:
    filter_ = omit_none(
        user_id=user_id, generation_id=generation_id, before_id=before_id, limit=limit
    )
    return Rpc("list_ledger", {"filter": filter_}, _parse_ledger)

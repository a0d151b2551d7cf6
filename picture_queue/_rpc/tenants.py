"""Calls about tenants."""

from picture_queue._rpc.base import Rpc, keep_none, list_page
from picture_queue.records import Tenant


def list_tenants(limit: int, after: str | None) -> Rpc[list[Tenant]]:
    return list_page("list_tenants", Tenant, limit, after)


def set_tenant(tenant: str, weight: float) -> Rpc[Tenant]:
    return Rpc("set_tenant", keep_none(tenant=tenant, weight=weight), Tenant.model_validate)

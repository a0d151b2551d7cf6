"""Tenants."""

import builtins

from picture_queue._rpc import tenants as _rpc
from picture_queue._transport.backend import AsyncBackend
from picture_queue.records import Tenant


class AsyncTenants:
    """The weights of tenants in queues with fair sharing. Every method needs a service key."""

    def __init__(self, backend: AsyncBackend) -> None:
        self._backend = backend

    async def list(self, *, limit: int = 10_000, after: str | None = None) -> builtins.list[Tenant]:
        """Return the tenants whose weight was set; all others have the weight 1.

        Args:
            limit: Maximum number of results, up to 10,000.
            after: The name of the last tenant of the previous page.
        """
        return await self._backend.call(_rpc.list_tenants(limit, after))

    async def set(self, tenant: str, weight: float) -> Tenant:
        """Set the weight of a tenant in fair sharing.

        A tenant of weight 3 starts three jobs for each job of a tenant of weight 1.

        Args:
            tenant: The ``tenant`` of the jobs; for jobs without one, the id of their owner.
            weight: The weight, 0.001 to 1000.

        Returns:
            The tenant.

        Raises:
            InvalidArgument: The tenant or the weight is invalid; the error names the value.
        """
        return await self._backend.call(_rpc.set_tenant(tenant, weight))

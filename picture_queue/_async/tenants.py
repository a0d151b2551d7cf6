"""The weights of tenants. All of it needs a service key."""

import builtins

from picture_queue._rpc import tenants as _rpc
from picture_queue._transport.backend import AsyncBackend
from picture_queue.records import Tenant


class AsyncTenants:
    """The weights of tenants in queues that share fairly."""

    def __init__(self, project: AsyncBackend) -> None:
        self._project = project

    async def list(self, *, limit: int = 10_000, after: str | None = None) -> builtins.list[Tenant]:
        """Return the tenants that have a weight of their own; the others have 1.

        Args:
            limit: At most so many, 10,000 at most.
            after: The name of the last tenant of the page before.
        """
        return await self._project.call(_rpc.list_tenants(limit, after))

    async def set(self, tenant: str, weight: float) -> Tenant:
        """Set the weight of a tenant: with 3 it gets three turns where one with 1 gets one.

        Args:
            tenant: As its jobs name it, or the id of the owner.
            weight: 0.001 to 1000.

        Returns:
            The tenant.

        Raises:
            InvalidArgument: Naming the value.
        """
        return await self._project.call(_rpc.set_tenant(tenant, weight))

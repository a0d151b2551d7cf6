"""Tenants."""

from picture_queue.records.base import Record


class Tenant(Record):
    """A tenant and its weight in queues with fair sharing."""

    tenant: str
    weight: float

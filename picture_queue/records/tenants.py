"""Tenants."""

from picture_queue.records.base import Record


class Tenant(Record):
    """The weight of a tenant where tenants share a queue."""

    tenant: str
    weight: float

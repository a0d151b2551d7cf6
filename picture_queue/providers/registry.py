"""The providers of a worker: the only module that knows their implementations.

The implementations are imported when they are used.
"""

from typing import Protocol

from picture_queue.providers.base import Provider

REPLICATE = "replicate"


class ReplicateAccount(Protocol):
    """The token and the URL of Replicate, such as `ReplicateSettings`."""

    @property
    def token(self) -> str: ...
    @property
    def base_url(self) -> str: ...
    @property
    def webhook_url(self) -> str | None: ...
    @property
    def webhook_secret(self) -> str | None: ...


def replicate(account: ReplicateAccount) -> Provider:
    """Create the provider that calls Replicate.

    Raises:
        ValueError: The URL, the token or the secret of the webhooks is invalid.
    """
    from picture_queue.providers.replicate.client import ReplicateClient
    from picture_queue.providers.replicate.provider import ReplicateProvider

    client = ReplicateClient(account.token, base_url=account.base_url)
    return ReplicateProvider(client, account.webhook_url, account.webhook_secret)

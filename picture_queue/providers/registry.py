"""The providers of a worker: the only module that knows their implementations.

Each implementation is imported when it is first used.
"""

import re
from collections.abc import Callable
from typing import Any, Protocol, TypeAlias, cast

from picture_queue._text import clean_line
from picture_queue.errors import InvalidArgument
from picture_queue.providers.base import Provider

REPLICATE = "replicate"
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")  # as in the constraint of picture_queue.model


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


#: What `add_generations` accepts as a provider.
ProviderLike: TypeAlias = Provider | ReplicateAccount | Callable[..., Any]


def resolve(name: str, value: ProviderLike) -> Provider:
    """Convert an argument of `add_generations` into a provider.

    Args:
        name: The name of the provider.
        value: A provider, an account of Replicate, or a function.

    Raises:
        InvalidArgument: The name or the value is invalid.
        ValueError: The URL or the token of Replicate is invalid.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidArgument(
            f"The name of the provider is {name!r}",
            hint="Use up to 32 lower-case letters, digits and _ -, as in the column provider",
        )
    if hasattr(value, "capabilities") and hasattr(value, "create"):
        return cast(Provider, value)
    if hasattr(value, "token") and hasattr(value, "base_url"):
        return replicate(cast(ReplicateAccount, value))
    if callable(value) and not isinstance(value, type):
        from picture_queue.providers.function import FunctionProvider

        return FunctionProvider(value)
    raise InvalidArgument(
        f"The provider {name!r} is {clean_line(repr(value), 100)}",
        hint="Pass a function that makes a picture, a Provider, or ReplicateSettings",
    )

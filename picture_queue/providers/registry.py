"""The providers of a worker: the only module that knows their implementations.

The implementations are imported when they are used.
"""

import re
from collections.abc import Callable
from typing import Any, Protocol, TypeAlias, cast

from picture_queue._text import clean_line
from picture_queue.errors import InvalidArgument
from picture_queue.providers.base import Provider

REPLICATE = "replicate"
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")  # as in the table of models


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


def resolve(name: str, given: ProviderLike) -> Provider:
    """Return the provider that a user gave: one, an account of Replicate, or a function.

    Raises:
        InvalidArgument: The name or the value is invalid.
        ValueError: The URL or the token of Replicate is invalid.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidArgument(
            f"The name of the provider is {name!r}",
            hint="Use up to 32 lower-case letters, digits and _ -, as in the column provider",
        )
    if hasattr(given, "capabilities") and hasattr(given, "create"):
        return cast(Provider, given)
    if hasattr(given, "token") and hasattr(given, "base_url"):
        return replicate(cast(ReplicateAccount, given))
    if callable(given) and not isinstance(given, type):
        from picture_queue.providers.function import FunctionProvider

        return FunctionProvider(given)
    raise InvalidArgument(
        f"The provider {name!r} is {clean_line(repr(given), 100)}",
        hint="Pass a function that makes a picture, a Provider, or ReplicateSettings",
    )

"""The TLS settings of a supabase client that the caller made."""

import ssl

import httpx


def find_ssl_context(http: httpx.AsyncClient | httpx.Client, url: str) -> ssl.SSLContext | None:
    """Return the TLS settings with which an httpx client calls a URL.

    They hold the trusted authorities and the client's certificate. Connections that this package
    opens besides those of the caller's client need the same.

    Returns:
        The settings; None if the client has a transport of another kind than those of httpx.
    """
    # httpx has no public way to read them. If a later version hides them, the result is None, and
    # the other connections use the default settings.
    transport = http._transport_for_url(httpx.URL(url))
    context = getattr(getattr(transport, "_pool", None), "_ssl_context", None)
    return context if isinstance(context, ssl.SSLContext) else None

"""Loopback hosts and URLs."""

from ipaddress import ip_address
from urllib.parse import urlsplit


def is_loopback(host: str) -> bool:
    """Return whether a host is a loopback address, or a name that always resolves to one."""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        # Browsers resolve these names to loopback without asking DNS.
        return host.lower() == "localhost" or host.lower().endswith(".localhost")


def is_loopback_url(url: str | None) -> bool:
    """Return whether the host of a URL is loopback; False if the text is not a URL."""
    try:
        return is_loopback(urlsplit(url or "").hostname or "")
    except ValueError:
        return False

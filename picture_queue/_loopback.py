"""Addresses of this machine."""

from ipaddress import ip_address
from urllib.parse import urlsplit


def is_loopback(host: str) -> bool:
    """Return whether a host name or address is this machine's own."""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        # Browsers never ask a name server for these.
        return host.lower() == "localhost" or host.lower().endswith(".localhost")


def is_loopback_url(url: str | None) -> bool:
    """Return whether an address is on this machine; False for what is no address."""
    try:
        return is_loopback(urlsplit(url or "").hostname or "")
    except ValueError:
        return False

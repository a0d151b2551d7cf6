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


def direct_mounts(url: str | None) -> dict[str, None]:
    """Return the `mounts` with which an httpx client calls a loopback URL without a proxy.

    For other URLs they are empty. A proxy would get the key and cannot reach the loopback interface
    of this machine. `trust_env=False` would also ignore SSL_CERT_FILE.
    """
    return dict.fromkeys(("all://", "http://", "https://")) if is_loopback_url(url) else {}

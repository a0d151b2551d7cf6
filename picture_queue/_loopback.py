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
    """Return the argument `mounts` of an httpx client that calls a loopback URL without a proxy.

    The mounts are empty for other URLs. A proxy cannot reach the loopback interface of this
    machine, and would see the key in the request. `trust_env=False` would bypass the proxy too, but
    would also ignore SSL_CERT_FILE.
    """
    return dict.fromkeys(("all://", "http://", "https://")) if is_loopback_url(url) else {}

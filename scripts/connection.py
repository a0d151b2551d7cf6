"""Connections of the programs of Postgres, such as psql and pg_dump."""

import os
from urllib.parse import unquote, urlsplit, urlunsplit


def split_password(url: str) -> tuple[str, dict[str, str]]:
    """Return an address without its password, and an environment with the password.

    Other users of the machine can see the arguments of a program in `ps`, but not its environment.
    """
    parts = urlsplit(url)
    netloc = f"{parts.username}@{parts.netloc.rpartition('@')[2]}"
    address = urlunsplit(parts._replace(netloc=netloc))
    return address, {**os.environ, "PGPASSWORD": unquote(parts.password or "")}

"""Connections of the programs of Postgres, such as psql and pg_dump."""

import os
from urllib.parse import unquote, urlsplit, urlunsplit


def split_password(url: str) -> tuple[str, dict[str, str]]:
    """Return an address without its password, and the environment of a program that needs it.

    Other users of the machine see the arguments of a program in `ps`, but not its environment.
    """
    parts = urlsplit(url)
    place = f"{parts.username}@{parts.netloc.rpartition('@')[2]}"
    address = urlunsplit(parts._replace(netloc=place))
    return address, {**os.environ, "PGPASSWORD": unquote(parts.password or "")}

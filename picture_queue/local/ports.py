"""Free TCP ports on loopback, and the names of Unix sockets."""

import errno
import os
import random
import socket
from pathlib import Path

from picture_queue.errors import LocalStackError, PortTaken

HOST = "127.0.0.1"
DEFAULT_API_PORT = 54321  # where `supabase start` serves its API
# Below the ephemeral ports of outgoing connections, so that none of them takes a port between our
# check and the start of the program that listens there.
_FREE_RANGE = range(15000, 32000)
_TRIES = 200


def listen(port: int) -> socket.socket:
    """Listen on a port.

    Args:
        port: The port; 0 takes a free one.

    Raises:
        PortTaken: Another program uses the port.
        LocalStackError: The port cannot be used for another reason.
    """
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((HOST, port))
        listener.listen(128)
    except (OSError, OverflowError) as error:
        listener.close()
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            raise port_taken(port) from error
        raise LocalStackError(f"Port {port} cannot be used: {error}") from error
    return listener


def port_taken(port: int) -> PortTaken:
    """Return the error for a port that another program uses."""
    return PortTaken(
        f"Port {port} is taken by another program",
        hint="Stop that program, or choose another port with --port.",
    )


def listen_near(wanted: int) -> socket.socket:
    """Listen on the wanted port if it is free, else on any free port; 0: any."""
    try:
        return listen(wanted)
    except LocalStackError:
        return listen(0)


def free_port(wanted: int = 0) -> int:
    """Return a free port, for a program that opens it itself.

    Args:
        wanted: The port to prefer; 0 for any.

    Raises:
        LocalStackError: No free port was found.
    """
    picks = random.sample(_FREE_RANGE, _TRIES)
    for port in ([wanted] if wanted else []) + picks:
        try:
            listen(port).close()
        except LocalStackError:
            continue
        return port
    raise LocalStackError(f"There is no free port among {_TRIES} tried")


def socket_name(path: Path) -> str:
    """Return the shorter of the absolute and relative path of a Unix socket.

    Operating systems limit the path to 103 to 107 bytes.
    """
    return min(str(path), os.path.relpath(path), key=len)

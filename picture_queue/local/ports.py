"""Free TCP ports on loopback, and the names of Unix sockets."""

import errno
import os
import random
import socket
from pathlib import Path

from picture_queue.errors import LocalStackError, PortTaken

HOST = "127.0.0.1"
DEFAULT_API_PORT = 54321  # where `supabase start` serves its API
# Below the range that outgoing connections take their ports from, so that one of those cannot
# take a port between our look and the start of the program that listens there.
_FREE_RANGE = range(15000, 32000)
_TRIES = 200


def listen(port: int) -> socket.socket:
    """Take a port for this process.

    Args:
        port: Which; 0 takes a free one.

    Raises:
        PortTaken: Another program has it.
        LocalStackError: It cannot be used.
    """
    taken = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind((HOST, port))
        taken.listen(128)
    except (OSError, OverflowError) as error:
        taken.close()
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            raise port_taken(port) from error
        raise LocalStackError(f"Port {port} cannot be used: {error}") from error
    return taken


def port_taken(port: int) -> PortTaken:
    """Make the error for a port that another program has."""
    return PortTaken(
        f"Port {port} is taken by another program",
        hint="Stop that program, or choose another port with --port.",
    )


def listen_near(wanted: int) -> socket.socket:
    """Take a port for this process: the wanted one if it is free, else any; 0 is any."""
    try:
        return listen(wanted)
    except LocalStackError:
        return listen(0)


def free_port(wanted: int = 0) -> int:
    """Return a port nobody listens on, for a program that opens it itself.

    Args:
        wanted: Chosen if it is free; 0 for any.

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
    """Return the shortest name of a Unix socket from here: systems take 103 to 107 bytes."""
    return min(str(path), os.path.relpath(path), key=len)

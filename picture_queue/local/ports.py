"""Free TCP ports on loopback, and the names of Unix sockets."""

import contextlib
import errno
import os
import random
import socket
from collections.abc import Sequence
from pathlib import Path

import psutil

from picture_queue.errors import LocalStackError, PortTaken
from picture_queue.local.datadir import DataDir

HOST = "127.0.0.1"
# Browsers call ::1 first for `localhost`. A program that listened there would get the keys.
HOST_6 = "::1"
DEFAULT_API_PORT = 54321  # where `supabase start` serves its API
# These ports are below the ephemeral ports. So no outgoing connection takes a port between the
# check in `free_port` and the start of the program that listens on it.
_FREE_RANGE = range(15000, 32000)
_MAX_TRIES = 200


def listen(port: int) -> list[socket.socket]:
    """Listen on a port of every loopback address.

    Args:
        port: The port; 0 takes a free one.

    Raises:
        PortTaken: Another program uses the port.
        LocalStackError: The port cannot be used for another reason.
    """
    # A port that is free on one address may be taken on the other.
    for _ in range(0 if port else _MAX_TRIES):
        with contextlib.suppress(PortTaken):
            return _listen(port)
    return _listen(port)


def _listen(port: int) -> list[socket.socket]:
    with contextlib.ExitStack() as stack:
        listeners: list[socket.socket] = []
        for family, host in ((socket.AF_INET, HOST), (socket.AF_INET6, HOST_6)):
            listener = _bind(family, host, port)
            if listener is not None:
                listeners.append(stack.enter_context(listener))
                port = port_of(listeners)
        stack.pop_all()  # after a success, leave the sockets open
        return listeners


def _bind(family: socket.AddressFamily, host: str, port: int) -> socket.socket | None:
    """Listen on a port of an address; return None for IPv6 on a machine without IPv6."""
    try:
        listener = socket.socket(family, socket.SOCK_STREAM)
    except OSError:
        if family == socket.AF_INET6:
            return None
        raise
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(128)
    except (OSError, OverflowError) as error:
        listener.close()
        number = error.errno if isinstance(error, OSError) else None
        if number == errno.EADDRINUSE:
            raise port_taken(port) from error
        if number == errno.EADDRNOTAVAIL and family == socket.AF_INET6:
            return None
        raise LocalStackError(f"Port {port} cannot be used: {error}") from error
    return listener


def expect_listening(pid: int, port: int) -> None:
    """Check that a program listens on a port of every loopback address.

    Raises:
        PortTaken: The program does not listen on the port of each address. Another program may use
            the port there.
    """
    listeners = listen(0)
    # Expect the addresses that are found for sockets of this process, because some kernels do not
    # list all connections.
    expected = _find_addresses(os.getpid(), port_of(listeners))
    for listener in listeners:
        listener.close()
    if not expected <= _find_addresses(pid, port):
        raise port_taken(port)


def _find_addresses(pid: int, port: int) -> set[str]:
    """Return the addresses of a process's sockets that listen on a port."""
    connections = psutil.Process(pid).net_connections("tcp")
    return {
        connection.laddr.ip
        for connection in connections
        if (connection.status, connection.laddr.port) == (psutil.CONN_LISTEN, port)
    }


def port_of(listeners: Sequence[socket.socket]) -> int:
    """Return the port of listening sockets."""
    port: int = listeners[0].getsockname()[1]
    return port


def port_taken(port: int) -> PortTaken:
    """Return the error for a port that another program or stack has."""
    stack = _find_stack(port)
    if stack is None:
        message = f"Port {port} is taken by another program"
        return PortTaken(message, hint="Stop that program, or choose another port with --port.")
    return PortTaken(
        f"Port {port} is taken by the stack in {stack.path}",
        hint=f"Stop it with {stack.command('stop')}, or choose another port with --port.",
    )


def _find_stack(port: int) -> DataDir | None:
    """Return the data directory of this user's stack that uses a port; the stack may be killed."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError, LocalStackError):
            # The daemon and the worker have the listening sockets, and run in the data directory.
            data = DataDir(Path(process.cwd()))
            # This process may be a daemon that has just opened the port on the other address.
            is_self = process.pid == os.getpid()
            if is_self or process not in [*data.find_programs(), data.find_daemon()]:
                continue
            connections = process.net_connections("tcp")
            if any(
                connection.status == psutil.CONN_LISTEN and connection.laddr.port == port
                for connection in connections
            ):
                return data
    return None


def listen_near(preferred: int) -> list[socket.socket]:
    """Listen on the preferred port if it is free, otherwise on any free port; 0: any port."""
    try:
        return listen(preferred)
    except LocalStackError:
        return listen(0)


def free_port(preferred: int = 0) -> int:
    """Return a free port, for a program that opens the port itself.

    Args:
        preferred: The port to return if it is free; 0: any port.

    Raises:
        LocalStackError: No free port was found.
    """
    samples = random.sample(_FREE_RANGE, _MAX_TRIES)
    for port in ([preferred] if preferred else []) + samples:
        try:
            for listener in listen(port):
                listener.close()
        except LocalStackError:
            continue
        return port
    raise LocalStackError(f"There is no free port among {_MAX_TRIES} tried")


def socket_name(path: Path) -> str:
    """Return the shorter of the absolute and relative path of a Unix socket.

    macOS limits the path to 103 bytes, Linux to 107.
    """
    return min(str(path), os.path.relpath(path), key=len)

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
# Below the ephemeral ports of outgoing connections, so that none of them takes a port between our
# check and the start of the program that listens there.
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
    with contextlib.ExitStack() as opened:
        listeners: list[socket.socket] = []
        for family, host in ((socket.AF_INET, HOST), (socket.AF_INET6, HOST_6)):
            listener = _bind(family, host, port)
            if listener is not None:
                listeners.append(opened.enter_context(listener))
                port = port_of(listeners)
        opened.pop_all()
        return listeners


def _bind(family: socket.AddressFamily, host: str, port: int) -> socket.socket | None:
    """Listen on a port of an address; return None if it is IPv6 and this machine has none."""
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
        PortTaken: The program does not listen there. Another program may use one of the ports.
    """
    listeners = listen(0)
    # Compare with listeners of this process, because some kernels do not list all connections.
    wanted = _find_addresses(os.getpid(), port_of(listeners))
    for listener in listeners:
        listener.close()
    if not wanted <= _find_addresses(pid, port):
        raise port_taken(port)


def _find_addresses(pid: int, port: int) -> set[str]:
    """Return the addresses on whose port a process listens."""
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
    """Return the data directory of the stack of this user that uses a port, running or killed."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError, LocalStackError):
            # The daemon and the worker have the listening sockets; they run in the data directory.
            data = DataDir(Path(process.cwd()))
            own = process.pid == os.getpid()  # this process has just opened another address
            if own or process not in [*data.programs(), data.daemon()]:
                continue
            connections = process.net_connections("tcp")
            if any(
                connection.status == psutil.CONN_LISTEN and connection.laddr.port == port
                for connection in connections
            ):
                return data
    return None


def listen_near(wanted: int) -> list[socket.socket]:
    """Listen on the wanted port if it is free, otherwise on any free port; 0: any port."""
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
    picks = random.sample(_FREE_RANGE, _MAX_TRIES)
    for port in ([wanted] if wanted else []) + picks:
        try:
            for listener in listen(port):
                listener.close()
        except LocalStackError:
            continue
        return port
    raise LocalStackError(f"There is no free port among {_MAX_TRIES} tried")


def socket_name(path: Path) -> str:
    """Return the shorter of the absolute and relative path of a Unix socket.

    Operating systems limit the path to 103 to 107 bytes.
    """
    return min(str(path), os.path.relpath(path), key=len)

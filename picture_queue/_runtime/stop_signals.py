"""Handlers of SIGTERM and SIGINT for all listeners of a process, which are its workers.

An event loop has one handler for each signal, and a new one replaces it. Here each listener adds a
callback, and the last one to leave restores the previous handlers.
"""

import asyncio
import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

_NUMBERS = (signal.SIGTERM, signal.SIGINT)
#: Number of signals that go to the listeners; the next one goes to the previous handler.
_MAX_HANDLED = 2

_Listener = tuple[asyncio.AbstractEventLoop, Callable[[], None]]

_listeners: list[_Listener] = []
_previous: dict[int, Any] = {}  # the handlers before ours
_users = 0  # listeners of the main thread
_received = 0  # signals since the handlers were installed
_process = 0  # the process id that installed them


@contextlib.contextmanager
def on_stop_signal(callback: Callable[[], None]) -> Iterator[None]:
    """Call a function in the running event loop for each SIGTERM and SIGINT.

    Only listeners of the main thread install the handlers, since Python permits it only there. One
    of another thread gets signals while there is one in the main thread.

    Args:
        callback: The function to call for the first two signals. The third goes to the previous
            handler, which ends the process unless the user has installed another one.
    """
    listener = (asyncio.get_running_loop(), callback)
    in_main = threading.current_thread() is threading.main_thread()
    _listeners.append(listener)
    if in_main:
        _install()
    try:
        yield
    finally:
        _listeners.remove(listener)
        if in_main:
            _uninstall()


def _install() -> None:
    global _users, _received, _process
    _users += 1
    if _users > 1:
        return
    _received, _process = 0, os.getpid()
    for number in _NUMBERS:
        with contextlib.suppress(ValueError, OSError):  # raised in a subinterpreter
            _previous[number] = signal.signal(number, _handle)


def _uninstall() -> None:
    global _users
    _users -= 1
    if _users == 0:
        _restore()


def _restore() -> None:
    for number, handler in _previous.items():
        # A handler that was installed after ours stays. None: not installed from Python.
        if signal.getsignal(number) is _handle:
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
    _previous.clear()


def _handle(number: int, frame: FrameType | None) -> None:
    global _received
    _received += 1
    # A forked child has inherited this handler, but has no listeners of its own.
    if _received > _MAX_HANDLED or os.getpid() != _process:
        _restore()
        signal.raise_signal(number)
        return
    for loop, callback in list(_listeners):
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(callback)

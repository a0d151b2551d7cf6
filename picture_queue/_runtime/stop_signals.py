"""Handlers of SIGTERM and SIGINT that call a callback of each worker of the process.

An event loop has only one handler for each signal, and a new handler replaces the old one. So each
worker registers a listener here instead. After the last listener has left, the previous handlers
are restored.
"""

import asyncio
import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
#: Number of signals that go to the listeners; the next one goes to the previous handler.
_MAX_HANDLED = 2

_Listener = tuple[asyncio.AbstractEventLoop, Callable[[], None]]

_listeners: list[_Listener] = []
_previous: dict[int, Any] = {}  # the handler of each signal before ours was installed
_main_listeners = 0  # number of listeners in the main thread
_received = 0  # signals since the handlers were installed
_installed_pid = 0  # the process that installed the handlers


@contextlib.contextmanager
def on_stop_signal(callback: Callable[[], None]) -> Iterator[None]:
    """Call a function in the running event loop for each SIGTERM and SIGINT.

    Only a listener in the main thread installs the handlers, since Python permits that only there.
    A listener in another thread gets signals while the main thread has a listener too.

    Args:
        callback: The function to call for the first two signals. The third signal goes to the
            previous handler, which by default ends the process.
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
    global _main_listeners, _received, _installed_pid
    _main_listeners += 1
    if _main_listeners > 1:
        return
    _received, _installed_pid = 0, os.getpid()
    for number in _SIGNALS:
        with contextlib.suppress(ValueError, OSError):  # raised in a subinterpreter
            _previous[number] = signal.signal(number, _handle)


def _uninstall() -> None:
    global _main_listeners
    _main_listeners -= 1
    if _main_listeners == 0:
        _restore()


def _restore() -> None:
    for number, handler in _previous.items():
        # Keep a handler that was installed after ours. None stands for a handler that was not
        # installed from Python: it is replaced by the default.
        if signal.getsignal(number) is _handle:
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
    _previous.clear()


def _handle(number: int, frame: FrameType | None) -> None:
    global _received
    _received += 1
    # A forked child has inherited this handler, but has no listeners.
    if _received > _MAX_HANDLED or os.getpid() != _installed_pid:
        _restore()
        signal.raise_signal(number)
        return
    for loop, callback in list(_listeners):
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(callback)

"""An executor that runs each call in a process of its own, and can end the call at any time.

The processes of `concurrent.futures.ProcessPoolExecutor` cannot be ended: if one of them dies, the
pool is broken and all of its calls fail. Here, the end of a process affects only its own call.
"""

import atexit
import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from multiprocessing.connection import Connection
from typing import Any, ParamSpec, TypeVar
from weakref import WeakSet

P = ParamSpec("P")
T = TypeVar("T")

#: Processes without a call that are kept for the next calls.
_MAX_IDLE = os.cpu_count() or 1
_EXIT_TIMEOUT = 2.0  # seconds for a process to end after it was killed


class ProcessDied(Exception):
    """The process of a call ended before the call did."""


class _Process:
    """A child process that runs one call at a time."""

    def __init__(self) -> None:
        # Not a fork: the threads and sockets of this process must not exist in the child.
        context = multiprocessing.get_context("spawn")
        self.connection, child_end = context.Pipe()
        self._process = context.Process(target=_serve, args=(child_end,), daemon=True)
        self._process.start()
        child_end.close()

    def kill(self) -> None:
        """End the process at once."""
        with contextlib.suppress(ValueError):  # the process was closed
            self._process.kill()

    def close(self) -> str:
        """End the process, release its resources, and describe its end."""
        self.kill()
        self._process.join(_EXIT_TIMEOUT)
        code = self._process.exitcode
        self.connection.close()
        return f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"


class _Call(Future[Any]):
    """A call in a process."""

    process: _Process | None = None
    was_killed = False

    def cancel(self) -> bool:
        """End the call, even if it runs."""
        self.was_killed = True
        if self.process is not None:
            self.process.kill()
        return super().cancel() or self.process is not None


class ProcessExecutor(Executor):
    """An executor with a process for each call; a process without a call is used again.

    The caller limits the number of simultaneous calls. A call that is cancelled ends at once, and
    so does its process. When this process dies, idle child processes end; a function has to notice
    this itself.
    """

    def __init__(self) -> None:
        self._idle: list[_Process] = []
        self._calls: WeakSet[_Call] = WeakSet()
        self._is_closed = False
        self._lock = threading.Lock()
        # Runs before the function of multiprocessing that waits for the end of child processes.
        atexit.register(self._kill_all)

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Call a function in a process.

        Raises:
            RuntimeError: The executor is closed.
        """
        call = _Call()
        with self._lock:
            if self._is_closed:
                raise RuntimeError("cannot schedule new futures after shutdown")
            self._calls.add(call)
        target = self._run, (call, (fn, args, kwargs))
        threading.Thread(target=target[0], args=target[1], name="process call", daemon=True).start()
        return call

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Refuse new calls, and end all processes."""
        with self._lock:
            self._is_closed = True
        atexit.unregister(self._kill_all)
        self._kill_all()

    def _kill_all(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        for call in list(self._calls):
            call.cancel()
        for process in idle:
            process.close()

    def _run(self, call: _Call, task: tuple[Any, ...]) -> None:
        process = None
        try:
            process = self._take_process()
            call.process = process
            if call.was_killed or not call.set_running_or_notify_cancel():
                raise ProcessDied("The call was cancelled before it began")
            process.connection.send(task)
            is_error, value = process.connection.recv()
        except BaseException as error:
            reason: BaseException = error
            if process is not None:
                end = process.close()
                if isinstance(error, EOFError | OSError):
                    reason = ProcessDied(f"The process ended before the call did ({end})")
            if not call.done():
                with contextlib.suppress(Exception):  # the call was cancelled meanwhile
                    call.set_exception(reason)
            return
        self._keep(process, call)
        if is_error:
            call.set_exception(value)
        else:
            call.set_result(value)

    def _take_process(self) -> _Process:
        with self._lock:
            if self._idle:
                return self._idle.pop()
        return _Process()

    def _keep(self, process: _Process, call: _Call) -> None:
        """Keep the process for another call, unless it was killed or too many are kept."""
        call.process = None
        with self._lock:
            is_kept = not (self._is_closed or call.was_killed) and len(self._idle) < _MAX_IDLE
            if is_kept:
                self._idle.append(process)
        if not is_kept:
            process.close()


def _serve(connection: Connection) -> None:
    """Run the calls of a child process until its parent closes the connection or dies."""
    # Signals to all processes of a terminal or a service are for the parent, which decides when
    # the call ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        try:
            function, args, kwargs = connection.recv()
        except EOFError:
            return
        except Exception as error:  # the function cannot be imported
            connection.send((True, RuntimeError(f"The call cannot be read: {error!r}")))
            continue
        try:
            answer = (False, function(*args, **kwargs))
        except BaseException as error:
            answer = (True, error)
        try:
            connection.send(answer)
        except BrokenPipeError:
            return
        except Exception as error:  # the value cannot be pickled
            connection.send((True, RuntimeError(f"The result cannot be sent: {error!r}")))

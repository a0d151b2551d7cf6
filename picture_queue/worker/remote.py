"""The part of an attempt that runs in another process, possibly on another machine.

The executor of the handler calls `run_attempt` there. A socket to the worker carries the progress
and the log to the worker, and requests to stop to this process. It is also the fence: the worker
accepts one connection for an attempt, so an engine that repeats a call does not run a handler
twice. When the socket closes, the worker is gone, and the handler is interrupted.
"""

import asyncio
import contextlib
import ctypes
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from picture_queue.records import ClaimedJob
from picture_queue.worker import verdicts
from picture_queue.worker._signature import HandlerSignature, read_signature
from picture_queue.worker.context import Level, SyncJobContext, log_line, progress_value
from picture_queue.worker.outcomes import Outcome
from picture_queue.worker.registry import Handler

_CONNECT_TIMEOUT = 10.0  # seconds to connect and to be accepted
_PARENT_INTERVAL = 0.5  # seconds between two checks of the parent


@dataclass(frozen=True)
class WorkerAddress:
    """The address at which a handler reaches its worker.

    Args:
        host: Name or address of the machine of the worker.
        port: The port.
        token: A secret that names the attempt.
        process_id: The process of the worker.
    """

    host: str
    port: int
    token: str = field(repr=False)
    process_id: int


_watched_parents: set[int] = set()


def _end_with_parent(parent: int) -> None:
    """End this process when the worker dies, if it is a child of the worker.

    A child may be in C code, or may belong to an executor that would wait for calls for ever.
    """
    if os.getppid() != parent or parent in _watched_parents:
        return
    _watched_parents.add(parent)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_PARENT_INTERVAL)
        os._exit(1)

    threading.Thread(target=watch, name="parent", daemon=True).start()


class UnreachableWorker(Exception):
    """The process of the handler cannot connect to the worker."""


class RepeatedAttempt(Exception):
    """The worker did not accept the attempt: it was started before, or is over."""


class _Connection:
    """The socket between a handler and its worker."""

    def __init__(self, address: WorkerAddress) -> None:
        self.cancel_requested = self.shutdown_requested = self.is_stopped = False
        self._lock = threading.Lock()
        self._send_lock = threading.Lock()
        self._handler_thread: int | None = threading.get_ident()  # None: the handler has ended
        try:
            self._socket = socket.create_connection((address.host, address.port), _CONNECT_TIMEOUT)
        except OSError as error:
            raise UnreachableWorker(
                f"The handler cannot reach its worker at {address.host}:{address.port} ({error}): "
                "set executor_host to an address of the worker that its executor can reach"
            ) from error
        self._lines = self._socket.makefile("rb")
        try:
            self._wait_until_accepted(address)
        except BaseException:
            self._lines.close()
            self.close()
            raise
        threading.Thread(target=self._read, name="worker", daemon=True).start()

    def _wait_until_accepted(self, address: WorkerAddress) -> None:
        self.send({"token": address.token})
        try:
            accepted = self._lines.readline()
        except OSError as error:
            raise UnreachableWorker(f"The worker did not accept the attempt: {error}") from error
        if not accepted:
            raise RepeatedAttempt("The attempt was started before, or is over")
        self._set_flags(json.loads(accepted))
        self._socket.settimeout(None)

    def send(self, message: Mapping[str, Any]) -> None:
        """Send a message; a message to a worker that is gone is lost."""
        data = json.dumps(message, default=str).encode() + b"\n"
        with self._send_lock:
            try:
                self._socket.sendall(data)
            except OSError:
                self.is_stopped = True

    def _read(self) -> None:
        try:
            for line in self._lines:
                self._set_flags(json.loads(line))
        except (OSError, ValueError):
            pass
        self._lines.close()
        self._interrupt()

    def _set_flags(self, message: Mapping[str, bool]) -> None:
        self.cancel_requested |= message.get("cancel", False)
        self.shutdown_requested |= message.get("shutdown", False)
        if message.get("stop"):
            self._interrupt()

    def _interrupt(self) -> None:
        """Raise a CancelledError in the thread of the handler, at its next step in Python."""
        with self._lock:
            self.is_stopped = True
            if self._handler_thread is not None:
                _raise_in_thread(self._handler_thread, asyncio.CancelledError)

    def handler_ended(self) -> None:
        """Keep later requests to stop from interrupting other code of this thread."""
        with self._lock:
            thread, self._handler_thread = self._handler_thread, None
            if thread is not None:
                _raise_in_thread(thread, None)

    def close(self) -> None:
        """Close the socket."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


def _raise_in_thread(thread: int, error: type[BaseException] | None) -> None:
    """Raise an exception in another thread; None: withdraw one that was not raised yet."""
    value = ctypes.py_object() if error is None else ctypes.py_object(error)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), value)


class RemoteJobContext(SyncJobContext):
    """The context of a handler in another process."""

    __slots__ = ("_connection",)

    def __init__(self, job: ClaimedJob, connection: _Connection) -> None:
        self._row = job._row
        self.job = job
        self._connection = connection

    @property
    def state(self) -> None:
        """None: the value of the lifespan stays in the process of the worker."""

    @property
    def cancel_requested(self) -> bool:
        return self._connection.cancel_requested

    @property
    def shutdown_requested(self) -> bool:
        return self._connection.shutdown_requested

    @property
    def stop_requested(self) -> bool:
        return self._connection.is_stopped or self._connection.shutdown_requested

    def log(self, message: str, level: Level = "info") -> None:
        line = log_line(message, level)
        self._send({"log": line | {"at": line["at"].isoformat()}})

    def progress(self, percent: int, message: str | None = None) -> None:
        self._send({"progress": progress_value(percent, message)})

    def _send(self, message: Mapping[str, Any]) -> None:
        if self._connection.is_stopped:
            raise asyncio.CancelledError("the attempt is over")
        self._connection.send(message)


@lru_cache(maxsize=1000)
def _signature_of(job_type: str, function: Callable[..., Any]) -> HandlerSignature:
    return read_signature(job_type, function)


def run_attempt(
    function: Callable[..., Any], row: Mapping[str, Any], address: WorkerAddress
) -> Outcome:
    """Run a handler in this process and return the outcome of the attempt.

    Raises:
        UnreachableWorker: This process cannot connect to the worker.
        RepeatedAttempt: The attempt was started before, or is over.
    """
    _end_with_parent(address.process_id)
    job = ClaimedJob(row)
    connection = _Connection(address)
    try:
        try:
            handler = Handler(function, _signature_of(job.job_type, function), {})
            context = RemoteJobContext(job, connection)
            return verdicts.from_value(handler.call(job.payload, context), job.queue)
        finally:
            connection.handler_ended()
    except BaseException as error:
        return verdicts.from_error(error, job.queue)
    finally:
        connection.close()

"""Handlers that run in executors: other processes, on this machine or on others."""

import asyncio
import contextlib
import json
import os
import secrets
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import BrokenExecutor, Executor, Future
from typing import TYPE_CHECKING, Any

from picture_queue._log import Log
from picture_queue.worker._callbacks import call_with_timeout
from picture_queue.worker.executor_choice import ExecutorFactory
from picture_queue.worker.outcomes import Outcome
from picture_queue.worker.remote import WorkerAddress, run_attempt

if TYPE_CHECKING:
    from picture_queue.worker.executor import Attempt

_log = Log(__name__)

_ACCEPT_TIMEOUT = 10.0  # seconds for a new connection to send its token
_MAX_LINE = 64 * 1024  # bytes of a message of a handler
_CLOSE_TIMEOUT = 5.0  # seconds to close each executor


class RemoteCall:
    """The call of a handler in an executor.

    Args:
        attempt: The attempt of the call.
        token: The secret by which the process of the handler names the attempt.
    """

    def __init__(self, attempt: "Attempt", token: str) -> None:
        self.attempt = attempt
        self.token = token
        self.was_accepted = False
        self._future: Future[Outcome] | None = None
        self._is_stopped = False
        self._writer: asyncio.StreamWriter | None = None
        self._flags: dict[str, bool] = {}

    async def wait(self, future: Future[Outcome]) -> Outcome:
        """Return the outcome of the call."""
        self._future = future
        if self._is_stopped:
            future.cancel()
        try:
            return await asyncio.wrap_future(future)
        except Exception:
            if self._is_stopped:  # the end of the process is what the stop asked for
                raise asyncio.CancelledError from None
            raise
        except asyncio.CancelledError:
            if future.cancelled() and not self._is_stopped:
                raise RuntimeError("The executor cancelled the call of the handler") from None
            raise

    def attach(self, writer: asyncio.StreamWriter) -> None:
        """Use the connection of the handler for requests."""
        self.was_accepted, self._writer = True, writer
        self._send({"accepted": True} | self._flags)

    def request_shutdown(self) -> None:
        """Tell the handler that the worker stops."""
        self._set(shutdown=True)

    def stop(self, is_cancel: bool) -> None:
        """End the handler, if its executor can; otherwise ask it to end."""
        self._is_stopped = True
        self._set(stop=True, cancel=is_cancel)
        if self._future is not None:
            self._future.cancel()

    def _set(self, **flags: bool) -> None:
        self._flags |= flags
        self._send(self._flags)

    def _send(self, message: Mapping[str, bool]) -> None:
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(json.dumps(message).encode() + b"\n")


class Executors:
    """The executors of a worker, and the connections of the handlers that run in them.

    Args:
        host: The address at which the processes of the executors reach this worker.
    """

    def __init__(self, host: str) -> None:
        self._host = host
        self._port = 0
        self._server: asyncio.Server | None = None
        self._executors: dict[ExecutorFactory, Executor] = {}
        self._calls: dict[str, RemoteCall] = {}  # by token
        self._connections: set[asyncio.StreamWriter] = set()

    async def start(self, factories: Iterable[ExecutorFactory]) -> None:
        """Create the executors.

        Raises:
            Exception: A factory has failed.
        """
        for factory in set(factories):
            self._executors[factory] = await asyncio.to_thread(factory)
        if self._executors:
            self._server = await asyncio.start_server(
                self._on_connection, self._host, 0, limit=_MAX_LINE
            )
            self._port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Close the executors; handlers that still run are ended or asked to end."""
        for call in list(self._calls.values()):
            call.stop(is_cancel=False)
        for executor in self._executors.values():
            await self._close(executor)
        self._executors.clear()
        for writer in list(self._connections):
            writer.close()
        if self._server is not None:
            self._server.close()

    async def _close(self, executor: Executor) -> None:
        async def close() -> None:
            await asyncio.to_thread(executor.shutdown, wait=False, cancel_futures=True)

        name = type(executor).__name__
        await call_with_timeout(_CLOSE_TIMEOUT, f"Closing the executor {name}", close)

    async def run(
        self,
        attempt: "Attempt",
        factory: ExecutorFactory,
        function: Callable[..., Any],
        on_call: Callable[[RemoteCall], None],
    ) -> Outcome:
        """Run a handler in an executor.

        Args:
            on_call: Called with the call before it begins.

        Raises:
            Exception: The executor cannot run the handler.
        """
        call = RemoteCall(attempt, secrets.token_urlsafe(32))
        self._calls[call.token] = call
        on_call(call)
        try:
            future = await self._submit(factory, function, call)
            return await call.wait(future)
        finally:
            del self._calls[call.token]

    async def _submit(
        self, factory: ExecutorFactory, function: Callable[..., Any], call: RemoteCall
    ) -> Future[Outcome]:
        address = WorkerAddress(self._host, self._port, call.token, os.getpid())
        row = dict(call.attempt.job._row)
        executor = self._executors[factory]
        try:
            return await asyncio.to_thread(executor.submit, run_attempt, function, row, address)
        except BrokenExecutor as error:
            # The process of another job has died. That must not fail the jobs after it.
            if self._executors[factory] is executor:
                _log.warning("The executor %s is replaced: %s", type(executor).__name__, error)
                self._executors[factory] = await asyncio.to_thread(factory)
                await self._close(executor)
            executor = self._executors[factory]
            return await asyncio.to_thread(executor.submit, run_attempt, function, row, address)

    async def _on_connection(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._connections.add(writer)
        try:
            async with asyncio.timeout(_ACCEPT_TIMEOUT):
                token = json.loads(await reader.readline()).get("token")
            call = self._calls.get(token)
            if call is None or call.was_accepted or call.attempt.has_outcome:
                return
            call.attach(writer)
            while line := await reader.readline():
                _process_message(call.attempt, json.loads(line))
        except (OSError, ValueError, AttributeError, TypeError, TimeoutError) as error:
            _log.debug("The connection of a handler has failed: %r", error)
        finally:
            self._connections.discard(writer)
            writer.close()
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await writer.wait_closed()


def _process_message(attempt: "Attempt", message: dict[str, Any]) -> None:
    if attempt.has_outcome:
        return
    if "progress" in message:
        percent, text = message["progress"]
        attempt.progress.put((int(percent), text))
    if "log" in message:
        attempt.log.put(message["log"])

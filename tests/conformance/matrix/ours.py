"""The clients of this library, async and sync, over the API and over direct connections.

Each function is called by its client method, or by the client's transport if it has no method.
"""

import asyncio
from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any

from picture_queue import AsyncPictureQueue, PictureQueue
from picture_queue._rpc import Rpc
from picture_queue._transport.base import Deadline
from picture_queue.errors import BY_CODE, PictureQueueError
from tests.conformance.matrix.answer import Answer, Request
from tests.conformance.matrix.interfaces import Interface, run_concurrently
from tests.conformance.matrix.methods import find_method
from tests.conformance.matrix.project import Project

_SERVICE_ONLY = "direct connections have the privileges of the service role only"


class _LibraryClient:
    """A client of this library over one of the two transports."""

    extra = False

    def __init__(self, direct: bool) -> None:
        self.direct = direct

    def skip_reason(self, role: str) -> str | None:
        return _SERVICE_ONLY if self.direct and role != "service" else None

    def _connection(self, project: Project, role: str) -> dict[str, Any]:
        if self.direct:
            return {"database_url": project.database}
        token = project.tokens[role]
        is_user = token != project.keys[role]
        return {
            "url": project.url,
            "key": project.keys[role],
            "access_token": token if is_user else None,
        }


#: The last unparsed answer of each function in the current call.
_raw_answers: ContextVar[dict[str, Any]] = ContextVar("raw_answers")


def _return_unparsed(data: Any) -> Any:
    return data


def _recorded_answer(request: Request) -> Answer:
    answers = _raw_answers.get()
    if request.function not in answers:  # `jobs.enqueue` with options calls enqueue_jobs instead.
        return Answer(data=answers["enqueue_jobs"][0]["job_id"])
    data = answers[request.function]
    return Answer(data=None if request.is_void and data == [] else data)


class AsyncLibraryClient(_LibraryClient):
    """Calls through `AsyncPictureQueue`."""

    @property
    def name(self) -> str:
        return f"ours async {'direct' if self.direct else 'http'}"

    async def run(self, project: Project, requests: Sequence[Request]) -> list[Answer]:
        clients = {
            role: AsyncPictureQueue(**self._connection(project, role))
            for role in {request.role for request in requests}
        }
        for client in clients.values():
            self._record_answers(client)

        async def call(request: Request) -> Answer:
            _raw_answers.set({})
            client = clients[request.role]
            method = find_method(request.case, request.function)
            rpc = Rpc(request.function, request.args, _return_unparsed)
            try:
                if method:
                    await method(client, dict(request.args))
                elif request.no_retry:
                    # `_backend.call` would retry, and return another answer than the expected.
                    await client._backend._transport.call(rpc, Deadline(30))
                else:
                    await client._backend.call(rpc)
            except PictureQueueError as error:
                return convert_error(error)
            return _recorded_answer(request)

        try:
            return await run_concurrently(call, requests)
        finally:
            for client in clients.values():
                await client.aclose()

    def _record_answers(self, client: AsyncPictureQueue) -> None:
        original = client._backend.call

        async def call(rpc: Rpc[Any]) -> Any:
            data = await original(Rpc(rpc.function, rpc.params, _return_unparsed))
            _raw_answers.get()[rpc.function] = data
            return rpc.parse(data)

        client._backend.call = call  # type: ignore[method-assign]


class SyncLibraryClient(_LibraryClient):
    """Calls through `PictureQueue`."""

    @property
    def name(self) -> str:
        return f"ours sync {'direct' if self.direct else 'http'}"

    async def run(self, project: Project, requests: Sequence[Request]) -> list[Answer]:
        return await asyncio.to_thread(self._run, project, requests)

    def _run(self, project: Project, requests: Sequence[Request]) -> list[Answer]:
        clients = {
            role: PictureQueue(**self._connection(project, role))
            for role in {request.role for request in requests}
        }
        for client in clients.values():
            self._record_answers(client)

        def call(request: Request) -> Answer:
            _raw_answers.set({})
            client = clients[request.role]
            method = find_method(request.case, request.function)
            rpc = Rpc(request.function, request.args, _return_unparsed)
            try:
                if method:
                    method(client, dict(request.args))
                elif request.no_retry:
                    client._backend._transport.call(rpc, Deadline(30))
                else:
                    client._backend.call(rpc)
            except PictureQueueError as error:
                return convert_error(error)
            return _recorded_answer(request)

        try:
            return [[call(request) for _ in range(request.times)][-1] for request in requests]
        finally:
            for client in clients.values():
                client.close()

    def _record_answers(self, client: PictureQueue) -> None:
        original = client._backend.call

        def call(rpc: Rpc[Any]) -> Any:
            data = original(Rpc(rpc.function, rpc.params, _return_unparsed))
            _raw_answers.get()[rpc.function] = data
            return rpc.parse(data)

        client._backend.call = call  # type: ignore[method-assign]


def our_clients(direct: bool) -> list[Interface]:
    """Return the clients over one of the two transports."""
    return [AsyncLibraryClient(direct), SyncLibraryClient(direct)]


def convert_error(error: PictureQueueError) -> Answer:
    """Return the answer for an exception of the library, including the name of its class."""
    exception, code = type(error).__name__, error.code
    if exception == "DatabaseTooOld":
        code = "PGRST202"  # The exception has no code of its own; use the code of PostgREST.
    return Answer(
        code=code or exception,
        message=error.message,
        detail=error.detail,
        hint=error.hint,
        exception=exception,
    )


def exception_name(code: str) -> str:
    """Return the name of the exception class for a code."""
    if code in BY_CODE:
        return BY_CODE[code].__name__
    known = {"42501": "NotAllowed", "PGRST202": "DatabaseTooOld"}
    return known.get(code, "InvalidArgument" if code.startswith("22") else "ServerError")

"""Our own clients, async and sync, over the API and straight to the database: by the method that
makes a call where there is one, else by the transport below it."""

import asyncio
from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any

from picture_queue import AsyncPictureQueue, PictureQueue
from picture_queue._rpc import Rpc
from picture_queue._transport.base import Deadline
from picture_queue.errors import BY_CODE, PictureQueueError
from tests.conformance.matrix.answer import Answer, Request
from tests.conformance.matrix.methods import method_of
from tests.conformance.matrix.project import Project
from tests.conformance.matrix.ways import Way, all_at_once

SERVICE_ONLY = "a database's address is the service's"


class _Ours:
    extra = False

    def __init__(self, direct: bool) -> None:
        self.direct = direct

    def reason(self, role: str) -> str | None:
        return SERVICE_ONLY if self.direct and role != "service" else None

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


#: The last answer to each function, as it came, in the call that is made now.
_heard: ContextVar[dict[str, Any]] = ContextVar("heard")


def _asis(data: Any) -> Any:
    return data


def _answer(request: Request) -> Answer:
    heard = _heard.get()
    if request.function not in heard:  # with options one job is enqueued like many
        return Answer(data=heard["enqueue_jobs"][0]["job_id"])
    data = heard[request.function]
    return Answer(data=None if request.is_void and data == [] else data)


class OursAsync(_Ours):
    """AsyncPictureQueue."""

    @property
    def name(self) -> str:
        return f"ours async {'direct' if self.direct else 'http'}"

    async def run(self, project: Project, requests: Sequence[Request]) -> list[Answer]:
        clients = {
            role: AsyncPictureQueue(**self._connection(project, role))
            for role in {request.role for request in requests}
        }
        for client in clients.values():
            self._listen(client)

        async def call(request: Request) -> Answer:
            _heard.set({})
            client = clients[request.role]
            method = method_of(request.case, request.function)
            rpc = Rpc(request.function, request.args, _asis)
            try:
                if method:
                    await method(client, dict(request.args))
                elif request.once:
                    # With the repetitions of the client it would succeed.
                    await client._project._transport.call(rpc, Deadline(30))
                else:
                    await client._project.call(rpc)
            except PictureQueueError as error:
                return named(error)
            return _answer(request)

        try:
            return await all_at_once(call, requests)
        finally:
            for client in clients.values():
                await client.aclose()

    def _listen(self, client: AsyncPictureQueue) -> None:
        made = client._project.call

        async def call(rpc: Rpc[Any]) -> Any:
            data = await made(Rpc(rpc.function, rpc.params, _asis))
            _heard.get()[rpc.function] = data
            return rpc.parse(data)

        client._project.call = call  # type: ignore[method-assign]


class OursSync(_Ours):
    """PictureQueue."""

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
            self._listen(client)

        def call(request: Request) -> Answer:
            _heard.set({})
            client = clients[request.role]
            method = method_of(request.case, request.function)
            rpc = Rpc(request.function, request.args, _asis)
            try:
                if method:
                    method(client, dict(request.args))
                elif request.once:
                    client._project._transport.call(rpc, Deadline(30))
                else:
                    client._project.call(rpc)
            except PictureQueueError as error:
                return named(error)
            return _answer(request)

        try:
            return [[call(request) for _ in range(request.times)][-1] for request in requests]
        finally:
            for client in clients.values():
                client.close()

    def _listen(self, client: PictureQueue) -> None:
        made = client._project.call

        def call(rpc: Rpc[Any]) -> Any:
            data = made(Rpc(rpc.function, rpc.params, _asis))
            _heard.get()[rpc.function] = data
            return rpc.parse(data)

        client._project.call = call  # type: ignore[method-assign]


def ours(direct: bool) -> list[Way]:
    """Our clients over one of the two transports."""
    return [OursAsync(direct), OursSync(direct)]


def named(error: PictureQueueError) -> Answer:
    """The answer an exception of ours stands for; its type is to be the one of its code."""
    kind, code = type(error).__name__, error.code
    if kind == "DatabaseTooOld":
        code = "PGRST202"  # what it was made of; it has no code of its own
    return Answer(
        code=code or kind, message=error.message, detail=error.detail, hint=error.hint, kind=kind
    )


def kind_of(code: str) -> str:
    """Name of the exception a code is raised as."""
    if code in BY_CODE:
        return BY_CODE[code].__name__
    known = {"42501": "NotAllowed", "PGRST202": "DatabaseTooOld"}
    return known.get(code, "InvalidArgument" if code.startswith("22") else "ServerError")

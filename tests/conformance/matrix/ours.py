"""Our own clients, async and sync, over the API and straight to the database: by the method that
makes a call where there is one, else by the transport below it."""

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any

from picture_queue import AsyncPictureQueue, PictureQueue
from picture_queue._rpc import Rpc
from picture_queue.errors import BY_CODE, PictureQueueError
from tests.conformance.matrix.answer import Answer, Request
from tests.conformance.matrix.methods import method_of
from tests.conformance.matrix.project import Project
from tests.conformance.matrix.ways import Way, repeated

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


#: The last answer to each function, as it came.
Heard = dict[str, Any]


def _asis(data: Any) -> Any:
    return data


def _answer(request: Request, heard: Heard) -> Answer:
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

        async def call(request: Request) -> Answer:
            client, heard = clients[request.role], Heard()
            inner = client._project
            # With its own repetitions a call that met PQ_BUSY would succeed.
            make = (
                inner._way.call if request.once and inner._way else partial(type(inner).call, inner)
            )

            async def note(rpc: Rpc[Any]) -> Any:
                heard[rpc.function] = await make(Rpc(rpc.function, rpc.params, _asis))
                return rpc.parse(heard[rpc.function])

            inner.call = note  # type: ignore[method-assign]
            method = method_of(request.case, request.function)
            try:
                if method:
                    await method(client, dict(request.args))
                else:
                    await note(Rpc(request.function, request.args, _asis))
            except PictureQueueError as error:
                return named(error)
            return _answer(request, heard)

        try:
            return [await repeated(call, request) for request in requests]
        finally:
            for client in clients.values():
                await client.aclose()


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

        def call(request: Request) -> Answer:
            client, heard = clients[request.role], Heard()
            inner = client._project
            # With its own repetitions a call that met PQ_BUSY would succeed.
            make = (
                inner._way.call if request.once and inner._way else partial(type(inner).call, inner)
            )

            def note(rpc: Rpc[Any]) -> Any:
                heard[rpc.function] = make(Rpc(rpc.function, rpc.params, _asis))
                return rpc.parse(heard[rpc.function])

            inner.call = note  # type: ignore[method-assign]
            method = method_of(request.case, request.function)
            try:
                if method:
                    method(client, dict(request.args))
                else:
                    note(Rpc(request.function, request.args, _asis))
            except PictureQueueError as error:
                return named(error)
            return _answer(request, heard)

        try:
            return [[call(request) for _ in range(request.times)][-1] for request in requests]
        finally:
            for client in clients.values():
                client.close()


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

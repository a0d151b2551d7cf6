"""The cost of network faults to a client, over HTTP, HTTPS and straight to the database."""

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import UUID

import pytest

from picture_queue import AsyncPictureQueue, PictureQueue, _rpc, errors

from .h2_front import tls_for
from .proxy import Proxy

TIMEOUT = 1.5  # seconds for a call
HANG = 20.0  # seconds after which a call counts as not bounded

FAULTS: dict[str, Callable[[Proxy], None]] = {
    "black hole": lambda proxy: proxy.black_hole(),
    "black hole for new ones too": lambda proxy: proxy.black_hole(new=True),
    "half open": lambda proxy: proxy.half_open(),
    "stall": lambda proxy: proxy.stall(),
    "delay": lambda proxy: proxy.delay(2 * TIMEOUT),
    "reset": lambda proxy: proxy.reset(),
    "refuse": lambda proxy: proxy.refuse(),
    "garble": lambda proxy: proxy.garble_answers(100),
}
#: Nothing but the connections there are is lost: one call pays, the next one succeeds.
HEALS = {"black hole", "half open"}
#: The call is repeated at once.
FREE = {"reset", "refuse"}


@pytest.fixture(params=["http", "https", "direct"])
def way(request, stack, tmp_path, monkeypatch) -> Iterator[tuple[Proxy, dict[str, str]]]:
    """A proxy, and what a client is made with to go through it."""
    direct = request.param == "direct"
    server = urlsplit(stack.db_url if direct else stack.api_url)
    context = None
    if request.param == "https":
        context, authority = tls_for(tmp_path)
        monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    language = "postgres" if direct else "http"
    with Proxy(server.hostname or "", server.port or 0, language, context) as proxy:
        if direct:
            user = server.netloc.rpartition("@")[0]
            address = server._replace(netloc=f"{user}@127.0.0.1:{proxy.port}")
            yield proxy, {"database_url": urlunsplit(address)}
        else:
            url = f"https://localhost:{proxy.port}" if context else f"http://127.0.0.1:{proxy.port}"
            yield proxy, {"url": url, "key": stack.service_role_key}


def drive(way: dict[str, str], kind: str, use: Callable[[Any, Callable[[Any], Any]], Any]) -> None:
    """Run a function with a client, and with what waits for the results of its methods."""
    if kind == "sync":
        with PictureQueue(**way) as pq:
            use(pq, lambda result: result)
        return
    with asyncio.Runner() as runner:

        async def open_() -> AsyncPictureQueue:
            return AsyncPictureQueue(**way)

        async def wait(awaitable: Any) -> Any:
            return await awaitable

        pq = runner.run(open_())
        use(pq, lambda awaitable: runner.run(wait(awaitable)))
        runner.run(pq.aclose())


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_costs_one_timeout(way, fault, kind):
    proxy, connection = way

    def use(pq: Any, wait: Callable[[Any], Any]) -> None:
        wait(pq.health())
        FAULTS[fault](proxy)
        failed = []
        for _ in range(2):
            began = time.monotonic()
            try:
                wait(pq._project.call(_rpc.queue_status(), TIMEOUT))
            except errors.ConnectionFailed as error:
                failed.append(error)
            assert time.monotonic() - began < HANG
        assert len(failed) == (0 if fault in FREE else 1 if fault in HEALS else 2)
        proxy.heal()
        assert wait(pq.health())

    drive(connection, kind, use)


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("garbled", [False, True])
def test_an_answer_lost_after_the_commit_changes_nothing(way, garbled, kind, queue):
    proxy, connection = way

    def use(pq: Any, wait: Callable[[Any], Any]) -> None:
        def ask(method: Callable[[], Any]) -> Any:
            proxy.garble_answers(1) if garbled else proxy.lose_answers(1)
            return wait(method())

        wait(pq.health())
        jobs = [{"job_type": "x", "queue": queue}] * 3
        assert ask(lambda: pq.jobs.enqueue("x", queue=queue)).outcome == "created"
        assert {job.outcome for job in ask(lambda: pq.jobs.enqueue_many(jobs))} == {"created"}
        assert ask(lambda: pq.jobs.change("cancel", queue=queue)).changed == 4
        assert ask(lambda: pq.events.send(queue)) == 0
        assert ask(lambda: pq.limits.set(f"x:{queue}", max_running=1)).max_running == 1
        ask(lambda: pq.limits.delete(f"x:{queue}"))
        assert ask(lambda: pq.schedules.set(queue, "x", every=3600)).name == queue
        assert ask(lambda: pq.schedules.delete(queue)) is True
        started = ask(lambda: pq.generations.start("a cat", user_id=UUID(int=1)))
        assert ask(lambda: pq.generations.cancel(started.id)).status == "cancelled"
        assert len(wait(pq.jobs.list(queue=queue))) == 4

    drive(connection, kind, use)

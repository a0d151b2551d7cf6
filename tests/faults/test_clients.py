"""The effect of network faults on a client, over HTTP, HTTPS and direct connections."""

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import UUID

import pytest

from picture_queue import AsyncPictureQueue, PictureQueue, _rpc, errors

from .h2_front import create_tls_context
from .proxy import Proxy

TIMEOUT = 1.5  # seconds, the timeout of a call
HANG = 20.0  # seconds, after which a call counts as a call without a timeout

FAULTS: dict[str, Callable[[Proxy], None]] = {
    "black hole": lambda proxy: proxy.black_hole(),
    "black hole, new connections too": lambda proxy: proxy.black_hole(new=True),
    "half open": lambda proxy: proxy.half_open(),
    "stall": lambda proxy: proxy.stall(),
    "delay": lambda proxy: proxy.delay(2 * TIMEOUT),
    "reset": lambda proxy: proxy.reset(),
    "refuse": lambda proxy: proxy.refuse(),
    "garble": lambda proxy: proxy.garble_answers(100),
}
#: Faults of existing connections only: the first call fails, and the next call succeeds.
FAIL_ONCE = {"black hole", "half open"}
#: Faults with which no call fails: the client repeats the call at once, or uses an open connection.
FAIL_NEVER = {"reset", "refuse"}


@pytest.fixture(params=["http", "https", "direct"])
def route(request, stack, tmp_path, monkeypatch) -> Iterator[tuple[Proxy, dict[str, str]]]:
    """A proxy, and the arguments of a client that connects through it."""
    direct = request.param == "direct"
    server = urlsplit(stack.db_url if direct else stack.api_url)
    context = None
    if request.param == "https":
        context, authority = create_tls_context(tmp_path)
        monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    protocol = "postgres" if direct else "http"
    with Proxy(server.hostname or "", server.port or 0, protocol, context) as proxy:
        if direct:
            user = server.netloc.rpartition("@")[0]
            address = server._replace(netloc=f"{user}@127.0.0.1:{proxy.port}")
            yield proxy, {"database_url": urlunsplit(address)}
        else:
            url = f"https://localhost:{proxy.port}" if context else f"http://127.0.0.1:{proxy.port}"
            yield proxy, {"url": url, "key": stack.service_role_key}


def run_with_client(
    route: dict[str, str], kind: str, use: Callable[[Any, Callable[[Any], Any]], Any]
) -> None:
    """Call `use` with a client, and with a function that awaits the results of an async client."""
    if kind == "sync":
        with PictureQueue(**route) as pq:
            use(pq, lambda result: result)
        return
    with asyncio.Runner() as runner:

        async def open_() -> AsyncPictureQueue:
            return AsyncPictureQueue(**route)

        async def wait(awaitable: Any) -> Any:
            return await awaitable

        pq = runner.run(open_())
        use(pq, lambda awaitable: runner.run(wait(awaitable)))
        runner.run(pq.aclose())


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_costs_at_most_one_timeout(route, fault, kind):
    proxy, connection = route

    def use(pq: Any, wait: Callable[[Any], Any]) -> None:
        wait(pq.health())
        FAULTS[fault](proxy)
        failed = []
        for _ in range(2):
            began = time.monotonic()
            try:
                wait(pq._backend.call(_rpc.queue_status(), TIMEOUT))
            except errors.ConnectionFailed as error:
                failed.append(error)
            assert time.monotonic() - began < HANG
        assert len(failed) == (0 if fault in FAIL_NEVER else 1 if fault in FAIL_ONCE else 2)
        proxy.heal()
        assert wait(pq.health())

    run_with_client(connection, kind, use)


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("garbled", [False, True])
def test_a_response_lost_after_the_commit_causes_no_second_change(route, garbled, kind, queue):
    proxy, connection = route

    def use(pq: Any, wait: Callable[[Any], Any]) -> None:
        def call_with_loss(method: Callable[[], Any]) -> Any:
            proxy.garble_answers(1) if garbled else proxy.lose_answers(1)
            return wait(method())

        wait(pq.health())
        jobs = [{"job_type": "x", "queue": queue}] * 3
        assert call_with_loss(lambda: pq.jobs.enqueue("x", queue=queue)).outcome == "created"
        assert {job.outcome for job in call_with_loss(lambda: pq.jobs.enqueue_many(jobs))} == {
            "created"
        }
        assert call_with_loss(lambda: pq.jobs.change("cancel", queue=queue)).changed == 4
        assert call_with_loss(lambda: pq.events.send(queue)) == 0
        assert call_with_loss(lambda: pq.limits.set(f"x:{queue}", max_running=1)).max_running == 1
        call_with_loss(lambda: pq.limits.delete(f"x:{queue}"))
        assert call_with_loss(lambda: pq.schedules.set(queue, "x", every=3600)).name == queue
        assert call_with_loss(lambda: pq.schedules.delete(queue)) is True
        started = call_with_loss(lambda: pq.generations.start("a cat", user_id=UUID(int=1)))
        assert call_with_loss(lambda: pq.generations.cancel(started.id)).status == "cancelled"
        assert len(wait(pq.jobs.list(queue=queue))) == 4

    run_with_client(connection, kind, use)

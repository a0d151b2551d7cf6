"""Connection faults: no job is lost, and no attempt is used up.

A proxy between the worker and its project causes the faults. During a partial fault the worker uses
the connections that still work, such as new ones. After a total fault the worker continues.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import pytest

from ...faults.h2_front import create_tls_context, h2_front
from ...faults.proxy import Proxy
from .flows import ordinary_jobs
from .harness import Harness

pytestmark = [pytest.mark.timeout(300), pytest.mark.slow]

TRANSPORTS = ("http", "tls", "direct")
LEASE = 30  # In seconds; longer than the timeout of a call.
#: How long a fault of all connections lasts.
TOTAL_FAULT_SECONDS = 3.0


@contextmanager
def proxied(stack: Any, transport: str, directory: Any) -> Iterator[tuple[Proxy, dict[str, str]]]:
    """Put a proxy in front of the project.

    Yields:
        The proxy, and the environment of a worker behind it.
    """
    api, database = urlsplit(stack.api_url), urlsplit(stack.db_url)
    with ExitStack() as opened:
        if transport == "direct":
            proxy = opened.enter_context(Proxy(database.hostname, database.port, "postgres"))
            netloc = f"{database.username}:{database.password}@127.0.0.1:{proxy.port}"
            yield proxy, {"PICTURE_QUEUE_DATABASE_URL": database._replace(netloc=netloc).geturl()}
            return
        environment = {"SUPABASE_KEY": stack.service_role_key}
        if transport == "tls":  # The client chooses HTTP/2 or HTTP/1.1.
            context, authority = create_tls_context(directory)
            front = opened.enter_context(h2_front(api.hostname, api.port))
            proxy = opened.enter_context(Proxy("127.0.0.1", front, "h2", context))
            environment |= {
                "SUPABASE_URL": f"https://localhost:{proxy.port}",
                "SSL_CERT_FILE": str(authority),
            }
        else:
            proxy = opened.enter_context(Proxy(api.hostname, api.port, "http"))
            environment["SUPABASE_URL"] = f"http://127.0.0.1:{proxy.port}"
        yield proxy, environment


@dataclass(frozen=True)
class Fault:
    """A fault of the connection.

    Attributes:
        name: The name of the fault.
        begin: A function that begins the fault.
        is_total: True if no call succeeds during the fault.
        log: A pattern that the log must contain; "" if an immediate retry succeeds silently.
    """

    name: str
    begin: Callable[[Proxy], None]
    is_total: bool = False
    log: str = ""


def refuse_and_reset(proxy: Proxy) -> None:
    proxy.refuse()
    proxy.reset()


NO_ANSWER = "(?i)no answer|not answer|calls fail"
FAULTS = (
    Fault("black hole", lambda proxy: proxy.black_hole(), log=NO_ANSWER),
    Fault("half open", lambda proxy: proxy.half_open(), log=NO_ANSWER),
    Fault("reset", lambda proxy: proxy.reset()),
    Fault("lost answers", lambda proxy: proxy.lose_answers(3)),
    Fault("garbled answers", lambda proxy: proxy.garble_answers(3)),
    Fault("delay", lambda proxy: proxy.delay(0.3)),
    Fault("total black hole", lambda proxy: proxy.black_hole(new=True), True, NO_ANSWER),
    Fault("refused", refuse_and_reset, True, NO_ANSWER),
    Fault("stalled", lambda proxy: proxy.stall(), True),
)


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
async def test_jobs_complete_in_their_first_attempt_despite_a_fault(
    start, stack, service, db, tmp_path, transport, fault
):
    with proxied(stack, transport, tmp_path) as (proxy, environment):
        queue, worker = start(environment, lease=LEASE)
        await run_during_fault(Harness(service, db, queue, worker, wait_timeout=60), proxy, fault)
        await worker.stop(60)


async def run_during_fault(harness: Harness, proxy: Proxy, fault: Fault) -> None:
    """Begin a fault while jobs run, and enqueue more jobs during the fault."""

    async def all_are_running() -> bool:
        return all(row["status"] == "processing" for row in await harness.read_rows(running))

    await harness.expect_completed(await harness.enqueue(*ordinary_jobs()))
    running = await harness.enqueue(*[
        {"job_type": "ordinary", "payload": {"n": n, "seconds": TOTAL_FAULT_SECONDS}}
        for n in range(2)
    ])  # fmt: skip
    await harness.wait_until(all_are_running, problem="the jobs do not start")
    fault.begin(proxy)
    enqueued = await harness.enqueue(*ordinary_jobs())
    if fault.is_total:
        await asyncio.sleep(TOTAL_FAULT_SECONDS)
        proxy.heal()
    await harness.expect_completed([*running, *enqueued])
    if fault.log:
        harness.expect_logged(fault.log)
    proxy.heal()
    await harness.expect_completed(await harness.enqueue(*ordinary_jobs()))

"""Invalid answers of the API: the worker continues, logs the reason, and limits its calls."""

import asyncio
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import pytest

from ...databases import database_url, execute
from ...faults.protocols import Answer
from ...faults.proxy import Proxy
from .flows import ordinary_jobs
from .harness import Harness, expect
from .test_connections import proxied

pytestmark = [pytest.mark.timeout(300), pytest.mark.slow]


@dataclass(frozen=True)
class BadAnswer:
    """An answer that the Supabase API does not give, but a proxy in front of it may.

    Attributes:
        name: The name of the answer, for the id of the test.
        status: The HTTP status.
        body: The body.
        content_type: The content type.
        pattern: A pattern that the log must contain.
    """

    name: str
    status: int
    body: bytes
    content_type: str = "application/json"
    pattern: str = "(?i)answer|calls fail"


HTML = b"<!DOCTYPE html><html><head><title>522: Connection timed out</title></head></html>"
INVALID_KEY = b'{"message":"Invalid API key","hint":"Double check your key"}'
ANSWERS = (
    BadAnswer("garbage", 200, b"\x00\xff\xfe{{{"),
    BadAnswer("nothing", 200, b""),
    BadAnswer("null", 200, b"null"),
    BadAnswer("another shape", 200, b'{"another": ["shape"]}'),
    BadAnswer("number of 5,000 digits", 200, b'[{"n": 1' + b"0" * 5000 + b"}]"),
    BadAnswer("nested 3,000 times", 200, b"[" * 3000 + b"]" * 3000),
    BadAnswer("522", 522, HTML, "text/html"),
    BadAnswer("500", 500, b"", "text/plain"),
    BadAnswer("302", 302, b"", "text/plain"),
    BadAnswer("401", 401, INVALID_KEY, pattern="ERROR.*[Kk]ey"),
)


def to_answer(bad_answer: BadAnswer, **options: Any) -> Answer:
    headers = (("content-type", bad_answer.content_type), ("location", "/elsewhere"))
    return Answer(bad_answer.status, bad_answer.body, headers, **options)


@pytest.mark.parametrize("bad_answer", ANSWERS, ids=lambda bad_answer: bad_answer.name)
async def test_jobs_complete_after_ten_bad_answers(start, stack, service, db, tmp_path, bad_answer):
    with proxied(stack, "http", tmp_path) as (proxy, environment):
        queue, worker = start(environment)
        harness = Harness(service, db, queue, worker)
        await harness.expect_completed(await harness.enqueue(*ordinary_jobs()))
        proxy.answer(to_answer(bad_answer, count=10))
        jobs = await harness.enqueue(*ordinary_jobs())

        async def has_answered() -> bool:
            return proxy.answered >= 10

        await harness.wait_until(has_answered, problem="the worker makes no more calls")
        await harness.expect_completed(jobs)
        harness.expect_logged(bad_answer.pattern)
        await worker.stop(harness.wait_timeout)


@pytest.mark.parametrize("call", ["heartbeat_jobs", "maintain_jobs"])
@pytest.mark.parametrize("bad_answer", ANSWERS, ids=lambda bad_answer: bad_answer.name)
async def test_jobs_complete_while_one_call_gets_only_bad_answers(
    start, stack, service, db, tmp_path, call, bad_answer
):
    with proxied(stack, "http", tmp_path) as (proxy, environment):
        queue, worker = start(environment, lease=12)
        harness = Harness(service, db, queue, worker)
        proxy.answer(to_answer(bad_answer, path=f"/rest/v1/rpc/{call}"))
        # The job runs until after the first heartbeat, but ends before its lease.
        long_job = {"job_type": "ordinary", "payload": {"n": 1, "seconds": 5}}
        jobs = await harness.enqueue(long_job, *ordinary_jobs())

        async def has_answered() -> bool:
            return proxy.answered > 0

        await harness.wait_until(has_answered, problem=f"{call} is not called")
        jobs += await harness.enqueue(*ordinary_jobs())
        await harness.expect_completed(jobs)
        await worker.stop(harness.wait_timeout)


async def test_a_throttled_worker_waits_for_retry_after(start, stack, service, db, tmp_path):
    with proxied(stack, "http", tmp_path) as (proxy, environment):
        queue, worker = start(environment)
        harness = Harness(service, db, queue, worker)
        await check_throttled_worker(harness, proxy)
        await worker.stop(harness.wait_timeout)


async def check_throttled_worker(harness: Harness, proxy: Proxy) -> None:
    """Answer 429, and check how many requests the worker sends before Retry-After has passed."""

    async def has_answered() -> bool:
        return proxy.answered > 0

    await harness.expect_completed(await harness.enqueue(*ordinary_jobs()))
    headers = (("retry-after", "10"), ("content-type", "application/json"))
    proxy.answer(Answer(429, b'{"message":"Too many requests"}', headers))
    await harness.wait_until(has_answered, problem="the worker makes no more calls")
    jobs = await harness.enqueue(*ordinary_jobs())
    await asyncio.sleep(5)
    # Only the calls in progress and the first call of each kind are sent.
    expect(proxy.answered <= 10, f"{proxy.answered} requests in 5 s: {harness.worker.log[-3000:]}")
    proxy.heal()
    await harness.expect_completed(jobs)


async def test_a_changed_password_is_logged_as_an_error_and_does_not_end_the_worker(
    start, stack, service, db
):
    role = f"rotated_{uuid4().hex[:8]}"
    await db.execute(f"create role {role} login password 'first' in role service_role")
    database = urlsplit(stack.db_url)
    netloc = f"{role}:first@{database.hostname}:{database.port}"
    url = database._replace(netloc=netloc).geturl()
    queue, worker = start({"PICTURE_QUEUE_DATABASE_URL": url})
    harness = Harness(service, db, queue, worker)
    try:
        await harness.expect_completed(await harness.enqueue(*ordinary_jobs()))
        await db.execute(f"alter role {role} password 'second'")
        await _end_sessions(stack, role)

        async def is_logged() -> bool:
            return re.search("ERROR.*password", worker.log) is not None

        jobs = await harness.enqueue(*ordinary_jobs())
        await harness.wait_until(is_logged, problem="the log does not mention the password")
        await db.execute(f"alter role {role} password 'first'")
        await harness.expect_completed(jobs)
        await worker.stop(harness.wait_timeout)
    finally:
        worker.kill()
        await _end_sessions(stack, role)
        await db.execute(f"drop role {role}")


async def _end_sessions(stack: Any, role: str) -> None:
    await execute(
        database_url(stack.superuser_url, "postgres"),
        f"select pg_terminate_backend(pid) from pg_stat_activity where usename = '{role}'",
    )

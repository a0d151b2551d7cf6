"""Sync watches: interruption, early exit, sharing between threads, and token refresh."""

import asyncio
import gc
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import jwt
import pytest

from picture_queue import PictureQueue, errors
from picture_queue._realtime import follow
from picture_queue.records import JobStatus

TIMEOUT = 30  # In seconds.


@pytest.fixture
def pq(stack):
    with PictureQueue(stack.api_url, stack.service_role_key) as client:
        yield client


@pytest.fixture
def job_id(pq, queue):
    return pq.jobs.enqueue("resize", queue=queue).id


class Program:
    """A Python program in a separate process. Its code can use `pq` and `job_id`."""

    def __init__(self, stack, job_id, code, **client_arguments):
        arguments = client_arguments or {"url": stack.api_url, "key": stack.service_role_key}
        script = f"""
import os, sys, threading
from picture_queue import PictureQueue, errors
pq = PictureQueue(**{arguments!r})
job_id = {str(job_id)!r}
{code}
"""
        environment = {**os.environ, "SUPABASE_URL": ""}
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error::ResourceWarning", "-c", script],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def read_line(self):
        return self.process.stdout.readline().strip()

    def wait(self):
        """Wait for the exit; return the exit code and the text of standard error."""
        try:
            _, stderr = self.process.communicate(timeout=TIMEOUT)
        finally:
            self.process.kill()
        return self.process.returncode, stderr


@pytest.fixture(params=["api", "database"])
def client_arguments(request, stack):
    """The arguments of a client over HTTP or over direct connections."""
    if request.param == "api":
        return {"url": stack.api_url, "key": stack.service_role_key}
    return {"database_url": stack.db_url}


@pytest.mark.parametrize(
    "wait_code",
    [
        "for event in pq.jobs.watch(job_id): print(event.status, flush=True)",
        "threading.Timer(1, print, ['waiting'], {'flush': True}).start(); pq.jobs.result(job_id)",
    ],
    ids=["watch", "result"],
)
def test_an_interrupt_raises_keyboard_interrupt_in_a_wait(
    stack, job_id, wait_code, client_arguments
):
    program = Program(
        stack,
        job_id,
        f"try:\n    {wait_code}\nexcept KeyboardInterrupt:\n    print('interrupted')",
        **client_arguments,
    )
    assert program.read_line() in ("pending", "waiting")
    program.process.send_signal(signal.SIGINT)
    assert program.read_line() == "interrupted"
    assert program.wait() == (0, "")


def test_an_unfinished_watch_does_not_block_the_exit_of_the_process(
    stack, job_id, client_arguments
):
    program = Program(
        stack,
        job_id,
        "watch = pq.jobs.watch(job_id)\nprint(next(watch).status)",
        **client_arguments,
    )
    assert program.wait() == (0, "")


def test_a_fork_cannot_use_a_watch_of_its_parent_but_can_start_a_watch(stack, job_id):
    program = Program(
        stack,
        job_id,
        """
import warnings
# Python warns of a fork in a process with several threads.
warnings.simplefilter("ignore", DeprecationWarning)
watch = pq.jobs.watch(job_id)
next(watch)
if os.fork() == 0:
    try:
        next(watch)
    except errors.ConnectionFailed as error:
        print(error, flush=True)
    own = PictureQueue(pq._backend.api.settings.url, pq._backend.api.settings.key)
    print(next(own.jobs.watch(job_id)).status, flush=True)
    os._exit(0)
os.wait()
watch.close()
pq.close()
""",
    )
    assert program.read_line() == "The wait began in another process. Wait again in this process."
    assert program.read_line() == "pending"
    assert program.wait() == (0, "")


def list_listeners(pq):
    return pq._watcher._background._watcher.subscriptions._listeners


def wait_until(condition):
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_watch_leaves_its_topic_at_close_and_at_a_break_of_its_loop(pq, job_id):
    watch = pq.jobs.watch(job_id)
    next(watch)
    wait_until(lambda: list_listeners(pq))
    watch.close()
    wait_until(lambda: not list_listeners(pq))
    for event in pq.jobs.watch(job_id):
        assert event.status is JobStatus.PENDING
        break
    wait_until(lambda: not list_listeners(pq) and not pq._watcher._background._futures)
    pq.jobs.cancel(job_id)
    assert [event.status for event in pq.jobs.watch(job_id)] == [JobStatus.CANCELLED]


def test_watches_of_several_threads_share_one_connection(pq, queue):
    jobs = [pq.jobs.enqueue("resize", queue=queue).id for _ in range(8)]
    all_started = threading.Barrier(len(jobs) + 1)

    def watch(job_id):
        events = pq.jobs.watch(job_id, timeout=TIMEOUT)
        next(events)
        all_started.wait(TIMEOUT)
        return [event.status for event in events][-1]

    with ThreadPoolExecutor(len(jobs)) as threads:
        last_statuses = threads.map(watch, jobs)
        all_started.wait(TIMEOUT)
        for job_id in jobs:
            pq.jobs.cancel(job_id)
        assert set(last_statuses) == {JobStatus.CANCELLED}
    names = [thread.name for thread in threading.enumerate()]
    assert names.count("picture-queue watch") == 1


def test_closing_the_client_ends_waiting_calls(pq, job_id):
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(pq.jobs.result, job_id)
        wait_until(lambda: pq._watcher._background is not None and list_listeners(pq))
        pq.close()
        with pytest.raises(errors.ConnectionFailed, match="The client was closed"):
            waiting.result(TIMEOUT)


def test_the_thread_of_a_garbage_collected_client_ends(stack, pq, job_id):
    collected_client = PictureQueue(stack.api_url, stack.service_role_key)
    next(collected_client.jobs.watch(job_id))
    thread = collected_client._watcher._background._thread
    collected_client._backend.close()
    del collected_client
    gc.collect()
    thread.join(TIMEOUT)
    assert not thread.is_alive()


async def test_a_watch_continues_after_its_first_token_expired(stack, ada, service, monkeypatch):
    monkeypatch.setattr(follow, "CONNECTED_POLL_INTERVAL", 60.0)
    claims = jwt.decode(ada.token, options={"verify_signature": False})
    expires_soon = jwt.encode({**claims, "exp": int(time.time()) + 3}, stack.jwt_secret, "HS256")
    started = await service.generations.start("a cat", user_id=ada.id)
    loop = asyncio.get_running_loop()

    def watch():
        with PictureQueue(stack.api_url, stack.anon_key, access_token=expires_soon) as pq:
            events = pq.generations.watch(started.id, timeout=TIMEOUT)
            assert next(events).status is JobStatus.PENDING
            set_token(pq, ada.token)
            time.sleep(4.5)  # The first token expires after 3 s; then the server closes the topic.
            source = pq._watcher._background._watcher.subscriptions
            wait_until(lambda: f"pq:user:{ada.id}" in source._joined)
            asyncio.run_coroutine_threadsafe(service.generations.cancel(started.id), loop)
            return [event for event in events][-1]

    last = await asyncio.to_thread(watch)
    assert (last.status, last.source) == (JobStatus.CANCELLED, "socket")


async def test_a_watch_reads_with_the_token_of_the_current_session(stack, ada, bob, monkeypatch):
    monkeypatch.setattr(follow, "CONNECTED_POLL_INTERVAL", 0.2)
    started = await ada.pq.generations.start("a cat")

    def watch():
        with PictureQueue(stack.api_url, stack.anon_key, access_token=ada.token) as pq:
            events = pq.generations.watch(started.id, timeout=TIMEOUT)
            assert next(events).status is JobStatus.PENDING
            set_token(pq, bob.token)
            with pytest.raises(errors.JobNotFound):
                list(events)

    await asyncio.to_thread(watch)


def set_token(pq, token):
    """Set a new token, as supabase-py does when it refreshes the session."""
    client = pq._backend._api().client()
    client.options.headers["Authorization"] = f"Bearer {token}"
    client._postgrest = None

"""The thread pool that a worker installs for `asyncio.to_thread`; its threads are daemons."""

import asyncio
import contextvars
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from picture_queue._runtime import threads as module
from picture_queue._runtime.threads import DaemonThreadPool, use_daemon_threads


@pytest.fixture
def pool() -> Iterator[DaemonThreadPool]:
    pool = DaemonThreadPool(2)
    yield pool
    pool.shutdown()


async def test_to_thread_works_as_with_the_pool_of_asyncio():
    use_daemon_threads(1)
    use_daemon_threads(1)  # A second installation changes nothing.
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")
    variable.set("kept")

    def read_variable(text: str, *, times: int) -> tuple[str, bool]:
        return variable.get() + text * times, threading.current_thread().daemon

    assert await asyncio.to_thread(read_variable, "!", times=2) == ("kept!!", True)
    with pytest.raises(SystemExit):
        await asyncio.to_thread(raise_system_exit)
    assert await asyncio.gather(*(asyncio.to_thread(int, n) for n in range(100))) == [*range(100)]


def raise_system_exit() -> None:
    raise SystemExit(3)


async def test_a_pool_that_the_user_installed_is_kept():
    user_pool = ThreadPoolExecutor(1, thread_name_prefix="mine")
    asyncio.get_running_loop().set_default_executor(user_pool)
    use_daemon_threads(1)
    name = await asyncio.to_thread(lambda: threading.current_thread().name)
    assert name.startswith("mine")


async def test_the_pool_that_asyncio_created_is_replaced():
    await asyncio.to_thread(int)
    use_daemon_threads(1)
    assert await asyncio.to_thread(lambda: threading.current_thread().daemon)


async def test_host_names_are_looked_up_while_functions_hang_in_all_threads(monkeypatch):
    # With one CPU, the pool has fewer threads than the 40 functions below.
    monkeypatch.setattr(module.os, "cpu_count", lambda: 1)
    use_daemon_threads(1)
    release = threading.Event()
    hanging = [asyncio.create_task(asyncio.to_thread(release.wait, 30)) for _ in range(40)]
    await asyncio.sleep(0)
    loop = asyncio.get_running_loop()
    assert await asyncio.wait_for(loop.getaddrinfo("localhost", 80), 10)
    assert not any(call.done() for call in hanging)
    release.set()
    await asyncio.gather(*hanging)


def test_a_call_whose_thread_cannot_start_raises_and_the_next_call_runs(pool, monkeypatch):
    def fail_once(thread: threading.Thread) -> None:
        monkeypatch.undo()
        raise RuntimeError("can't start new thread")

    release = threading.Event()
    running = [pool.submit(release.wait, 5) for _ in range(2)]
    waiting = [pool.submit(int) for _ in range(2)]
    monkeypatch.setattr(threading.Thread, "start", fail_once)
    release.set()
    assert all(future.result(5) for future in running)
    with pytest.raises(RuntimeError, match="new thread"):
        waiting[0].result(5)
    assert waiting[1].result(5) == 0


def test_no_more_threads_run_than_permitted(pool):
    assert [pool.submit(int).result(5) for _ in range(10)] == [0] * 10
    barrier = threading.Barrier(3)
    waiting = [pool.submit(barrier.wait, 5) for _ in range(2)]
    third = pool.submit(int)
    assert not third.done()
    barrier.wait(5)
    for future in (*waiting, third):
        future.result(5)


async def test_a_cancelled_call_that_hangs_takes_no_thread_from_other_calls(pool):
    loop = asyncio.get_running_loop()
    release = threading.Event()
    threads: list[threading.Thread] = []

    def hang() -> None:
        threads.append(threading.current_thread())
        release.wait(30)

    hanging_calls = 6  # Three times the number of threads of the pool.
    for _ in range(hanging_calls):
        hanging = loop.run_in_executor(pool, hang)
        assert await loop.run_in_executor(pool, int) == 0
        hanging.cancel()
    assert await asyncio.gather(*(loop.run_in_executor(pool, int) for _ in range(10))) == [0] * 10
    assert len(set(threads)) == hanging_calls
    assert len(pool._running - set(threads)) <= 2
    release.set()
    for thread in threads:  # These threads have left the pool, and end with their call.
        await asyncio.to_thread(thread.join, 30)
    assert await loop.run_in_executor(pool, int) == 0


def test_a_closed_pool_finishes_its_calls_and_refuses_new_calls(pool):
    release = threading.Event()
    futures = [pool.submit(release.wait, 5) for _ in range(3)]
    pool.shutdown(wait=False)
    with pytest.raises(RuntimeError, match="after shutdown"):
        pool.submit(int)
    release.set()
    assert all(future.result(5) for future in futures)
    pool.shutdown()
    assert not pool._running


def test_waiting_calls_can_be_cancelled(pool):
    release = threading.Event()
    running = [pool.submit(release.wait, 5) for _ in range(2)]
    waiting = [pool.submit(int) for _ in range(3)]
    assert waiting[0].cancel()
    pool.shutdown(wait=False, cancel_futures=True)
    assert all(future.cancelled() for future in waiting)
    release.set()
    assert all(future.result(5) for future in running)
    pool.shutdown()
    assert not pool._running


def test_closing_a_pool_does_not_wait_for_a_hanging_call(pool, monkeypatch):
    monkeypatch.setattr(module, "_CLOSE_TIMEOUT", 0.01)
    release = threading.Event()
    hanging = pool.submit(release.wait, 30)
    pool.shutdown()
    assert not hanging.done()
    release.set()


def test_threads_leave_the_pool_under_its_lock():
    """Without the lock, a close that iterates over the threads could fail."""
    pool = DaemonThreadPool(4)
    removed_without_lock: list[object] = []

    class LockCheckingSet(set[threading.Thread]):
        def discard(self, thread: threading.Thread) -> None:
            if not pool._lock.locked():
                removed_without_lock.append(thread)
            super().discard(thread)

    pool._running = LockCheckingSet()
    for future in [pool.submit(int) for _ in range(4)]:
        future.result(30)
    pool.shutdown()
    assert not pool._running
    assert not removed_without_lock

"""Stopping a worker: signals, grace period, event loops and callbacks."""

import asyncio
import gc
import os
import signal
import threading
import time
from typing import Any

import pytest

from picture_queue import (
    InvalidArgument,
)

from ...signals import watch
from .conftest import VERSION, Harness, WaitingHandler, until


async def test_a_signal_lets_running_jobs_finish(harness):
    worker = harness.make_worker()
    handler = WaitingHandler(worker)
    job = harness.add_job()
    running = asyncio.create_task(worker.run())
    await handler.wait_started()
    os.kill(os.getpid(), signal.SIGTERM)
    await until(lambda: handler.context.shutdown_requested)
    handler.may_return.set()
    await asyncio.wait_for(running, 5)
    assert harness.reported[job]["outcome"] == "completed"


async def test_a_job_that_does_not_finish_in_the_grace_period_is_released(harness):
    worker = harness.make_worker(shutdown_grace=0)
    handler = WaitingHandler(worker)
    job = harness.add_job()
    async with worker:
        await handler.wait_started()
    assert harness.reported[job]["outcome"] == "released"
    assert not handler.context.cancel_requested


async def test_a_second_signal_stops_without_a_grace_period(harness):
    worker = harness.make_worker(shutdown_grace=3600)
    may_end = asyncio.Event()
    started = asyncio.Event()

    @worker.handler("resize")
    async def ignore_cancellation() -> None:
        started.set()
        while not may_end.is_set():
            try:
                await may_end.wait()
            except asyncio.CancelledError:
                continue

    job = harness.add_job()
    running = asyncio.create_task(worker.run())
    await asyncio.wait_for(started.wait(), 5)
    os.kill(os.getpid(), signal.SIGINT)
    await until(lambda: worker._stopping is not None)
    os.kill(os.getpid(), signal.SIGINT)
    await asyncio.wait_for(running, 5)
    assert harness.reported[job]["outcome"] == "released"
    may_end.set()


async def test_a_signal_before_the_first_response_stops_the_worker(harness, backend):
    backend.answers["register_worker"] = never_answer
    running = asyncio.create_task(harness.make_worker().run())
    await backend.next_call("register_worker")
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.wait_for(running, 5)


async def test_a_signal_stops_all_workers_and_restores_the_previous_handler(backend, make_row):
    received: list[int] = []

    def handler(number: int, frame: Any) -> None:
        received.append(number)

    previous_handler = signal.signal(signal.SIGTERM, handler)
    try:
        workers = [Harness(type(backend)(), make_row).make_worker() for _ in range(3)]
        last_worker = workers.pop()
        running = [asyncio.create_task(worker.run()) for worker in workers]
        for worker in workers:
            await worker._signals.idle.next()
        await workers[0].stop()
        await asyncio.wait_for(running[0], 5)
        # This worker starts after another worker has stopped.
        running.append(asyncio.create_task(last_worker.run()))
        await last_worker._signals.idle.next()
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(asyncio.gather(*running), 5)
        assert received == []
        os.kill(os.getpid(), signal.SIGTERM)
        await until(lambda: received)
    finally:
        signal.signal(signal.SIGTERM, previous_handler)


async def test_the_third_signal_reaches_the_previous_handler(harness):
    received: list[int] = []
    previous_handler = signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
    try:
        worker = harness.make_worker()
        running = asyncio.create_task(worker.run())
        await worker._signals.idle.next()
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGTERM)
        await until(lambda: received)
        await asyncio.wait_for(running, 5)
    finally:
        signal.signal(signal.SIGTERM, previous_handler)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
async def test_a_process_forked_by_a_handler_can_be_terminated(harness):
    worker = harness.make_worker()
    running = asyncio.create_task(worker.run())
    await worker._signals.idle.next()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        # The parent sends the signal after this: Python discards a signal that arrives in a fork.
        os.write(writer, b"!")
        for _ in range(1000):
            time.sleep(0.01)  # noqa: ASYNC251 - pause() misses a signal that arrives just before it
        os._exit(0)
    await asyncio.to_thread(os.read, reader, 1)
    os.kill(child, signal.SIGTERM)
    _, status = await asyncio.to_thread(os.waitpid, child, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGTERM
    os.close(reader)
    os.close(writer)
    assert not running.done()
    await worker.stop()
    await asyncio.wait_for(running, 5)


async def test_a_signal_also_stops_a_worker_in_another_thread(harness, backend, make_row):
    other_harness = Harness(type(backend)(), make_row)
    started = threading.Event()

    def run_worker() -> None:
        async def main() -> None:
            worker = other_harness.make_worker()
            running = asyncio.ensure_future(worker.run())
            await worker._signals.idle.next()
            started.set()
            await running

        asyncio.run(main())

    worker = harness.make_worker()
    running = asyncio.create_task(worker.run())
    await worker._signals.idle.next()
    thread = asyncio.get_running_loop().run_in_executor(None, run_worker)
    await until(started.is_set)
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.wait_for(asyncio.gather(running, thread), 5)


async def test_a_run_after_a_stop_ends_at_once(harness, backend):
    worker = harness.make_worker()
    await worker.stop()
    await asyncio.wait_for(worker.run(), 5)
    assert backend.calls.empty()


async def test_a_stop_before_the_first_step_of_a_run_ends_the_run(harness):
    worker = harness.make_worker()
    for _ in range(2):
        running = asyncio.create_task(worker.run())
        await worker.stop()
        await asyncio.wait_for(running, 5)


def test_a_worker_can_run_again_in_another_event_loop(harness, backend):
    worker = harness.make_worker()

    @worker.handler("resize")
    async def resize() -> None: ...

    async def main() -> None:
        backend.calls = asyncio.Queue()
        watch(worker)
        job = harness.add_job()
        running = asyncio.create_task(worker.run())
        await worker._signals.reported.next()
        assert harness.reported[job]["outcome"] == "completed"
        await worker.stop()
        await asyncio.wait_for(running, 5)
        await worker.stop()  # A second stop() does not affect the next run.

    for _ in range(3):
        asyncio.run(main())


def test_a_worker_can_run_again_after_its_event_loop_was_closed(harness, backend):
    worker = harness.make_worker()
    # Without an answer, the cancelled worker cannot stop before its event loop is closed.
    backend.answers["unregister_worker"] = never_answer

    async def start_and_stop_the_loop() -> None:
        backend.calls = asyncio.Queue()
        await worker.start()
        asyncio.get_running_loop().stop()
        await asyncio.sleep(0)

    loop = asyncio.new_event_loop()
    with pytest.raises(RuntimeError, match="stopped before"):
        loop.run_until_complete(start_and_stop_the_loop())
    for task in asyncio.all_tasks(loop):
        task.cancel()
    loop.run_until_complete(asyncio.sleep(0.01))
    loop.close()
    backend.answers["unregister_worker"] = lambda params: None

    async def main() -> None:
        watch(worker)
        async with worker:
            await worker._signals.idle.next()
            # Garbage collection closes the coroutines of the closed event loop.
            gc.collect()
            assert worker.is_ready

    asyncio.run(main())


async def test_a_worker_runs_in_one_event_loop_at_a_time(harness):
    async with harness.make_worker() as worker:
        loop = asyncio.get_running_loop()
        for method in (worker.start, worker.stop, worker.run):
            with pytest.raises(InvalidArgument, match="runs in another event loop"):
                await loop.run_in_executor(None, asyncio.run, method())


async def never_answer(params: dict[str, Any]) -> None:
    await asyncio.Event().wait()


@pytest.mark.parametrize("action", ["stop", "cancel", "signal"])
@pytest.mark.parametrize("is_answered", [True, False])
async def test_a_worker_that_is_stopped_during_its_start_is_unregistered(
    harness, backend, monkeypatch, action, is_answered
):
    monkeypatch.setattr("picture_queue.worker.worker._REGISTRATION_TIMEOUT", 5 * is_answered)
    registered: set[str] = set()
    may_answer = asyncio.Event()

    async def register(params: dict[str, Any]) -> Any:
        await may_answer.wait()
        registered.add(params["worker"])
        return VERSION

    backend.answers["register_worker"] = register
    backend.answers["unregister_worker"] = lambda params: registered.discard(params["worker"])
    worker = harness.make_worker()
    harness.add_job()
    running = asyncio.create_task(worker.run())
    await backend.next_call("register_worker")
    if action == "stop":
        stopping = asyncio.create_task(worker.stop())
    elif action == "cancel":
        running.cancel()
    else:
        os.kill(os.getpid(), signal.SIGTERM)
    await until(lambda: worker._stopping is not None)
    if is_answered:
        may_answer.set()
    await asyncio.wait({running}, timeout=5)
    assert running.done()
    assert running.cancelled() is (action == "cancel")
    if action == "stop":
        await asyncio.wait_for(stopping, 5)
    assert registered == set()
    await backend.next_call("unregister_worker")


async def test_a_start_returns_when_the_worker_is_stopped(harness, backend):
    may_answer = asyncio.Event()

    async def register(params: dict[str, Any]) -> Any:
        await may_answer.wait()
        return VERSION

    backend.answers["register_worker"] = register
    worker = harness.make_worker()
    starting = asyncio.create_task(worker.start())
    await backend.next_call("register_worker")
    stopping = asyncio.create_task(worker.stop())
    await until(lambda: worker._stopping is not None)
    second_start = asyncio.create_task(worker.start())  # It waits until the stop has ended.
    may_answer.set()
    await asyncio.wait_for(asyncio.gather(starting, stopping, second_start), 5)
    assert worker.name is not None
    await worker.stop()


async def test_a_run_ends_when_the_worker_is_stopped(harness):
    worker = harness.make_worker()
    running = asyncio.create_task(worker.run())
    await worker._signals.idle.next()
    await asyncio.gather(worker.stop(), worker.stop())
    await asyncio.wait_for(running, 5)


async def test_jobs_claimed_during_a_stop_are_released_without_running(harness, backend):
    worker = harness.make_worker()
    handler = WaitingHandler(worker)
    may_answer = asyncio.Event()

    async def answer_later(params: dict[str, Any]) -> Any:
        await may_answer.wait()
        return harness.claim(params)

    backend.answers["claim_jobs"] = answer_later
    job = harness.add_job()
    await worker.start()
    await backend.next_call("claim_jobs")
    stopping = asyncio.create_task(worker.stop())
    await until(lambda: not harness.subscriptions.listeners)
    may_answer.set()
    await asyncio.wait_for(stopping, 5)
    assert harness.reported[job]["outcome"] == "released"
    assert not handler.started.is_set()


async def test_every_stop_callback_is_called_even_if_another_fails(harness, caplog, monkeypatch):
    monkeypatch.setattr("picture_queue.worker.worker._CLOSE_TIMEOUT", 0.01)
    worker = harness.make_worker()
    closed: list[str] = []

    async def fail() -> None:
        raise RuntimeError("no")

    async def exit_() -> None:
        raise SystemExit(3)

    async def hang() -> None:
        await asyncio.Event().wait()

    async def hang_despite_cancellation() -> None:
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                continue

    async def close() -> None:
        closed.append("closed")

    for callback in (
        fail,
        exit_,
        hang,
        hang_despite_cancellation,
        close,
        lambda: closed.append("sync"),
    ):
        worker.after_stop(callback)
    async with worker:
        pass
    assert closed == ["closed", "sync"]
    for expected in (
        "failed: RuntimeError: no",
        "failed: SystemExit: 3",
        "has not ended in 0.01 s",
    ):
        assert f"A callback after the stop {expected}" in caplog.text

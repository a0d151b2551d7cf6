"""A whole worker with a fake project: its start, its wake-ups and its stop."""

import asyncio
import gc
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from picture_queue import (
    InvalidArgument,
    JobContext,
    RateLimited,
    Worker,
    WorkerSettings,
    _rpc,
    errors,
)
from picture_queue.worker import slots, supervisor
from picture_queue.worker.outcomes import Completed

VERSION = {"version": "0.1.0", "contract": _rpc.CONTRACT, "oldest_client_contract": 1}


class Subscriptions:
    """An event source whose wake-ups are sent by the test."""

    def __init__(self) -> None:
        self.listeners: dict[str, Any] = {}

    @contextmanager
    def listen(self, topic: str, listener: Any) -> Iterator[None]:
        self.listeners[topic] = listener
        listener.joined()
        yield
        del self.listeners[topic]

    def wake(self, queue: str, reason: str) -> None:
        self.listeners[f"pq:queue:{queue}"].message("wake", {"queue": queue, "reason": reason})


class Harness:
    """A worker, and a fake database without rules."""

    def __init__(self, project: Any, row: Any) -> None:
        self.project = project
        self.row = row
        self.jobs: list[dict[str, Any]] = []
        self.reported: dict[str, dict[str, Any]] = {}
        self.beat: dict[str, list[str]] = {"cancel": [], "lost": []}
        self.subscriptions = Subscriptions()
        self.client: Any = SimpleNamespace(_project=project)
        project.subscriptions = self.subscriptions
        project.answers |= {
            "register_worker": lambda params: VERSION,
            "unregister_worker": lambda params: None,
            "claim_jobs": lambda params: self.claim(params),
            "heartbeat_jobs": lambda params: self.beat,
            "report_progress": lambda params: {"cancel_requested": False},
            "report_jobs": self.report,
            "maintain_jobs": lambda params: {"leased": True, "next_in": 60},
        }

    def worker(self, **settings: Any) -> Worker:
        worker = Worker(self.client, WorkerSettings(**{"poll_interval": 30, **settings}))
        worker._signals.watch()
        return worker

    def claim(self, params: dict[str, Any]) -> list[dict[str, Any]]:
        count = params["max_jobs"]
        taken, self.jobs = self.jobs[:count], self.jobs[count:]
        return taken

    def report(self, params: dict[str, Any]) -> dict[str, Any]:
        self.reported |= {item["job_id"]: item for item in params["outcomes"]}
        answers = [
            {"job_id": item["job_id"], "outcome": "ok", "status": "x"}
            for item in params["outcomes"]
        ]
        return {"outcomes": answers, "jobs": []}

    def job(self, **columns: Any) -> str:
        """Put a job into the queue and return its id."""
        self.jobs.append(self.row(**columns))
        job_id: str = self.jobs[-1]["id"]
        return job_id


@pytest.fixture(autouse=True)
def connect(monkeypatch):
    """Connect the heartbeat thread to the project of the test."""

    async def connect(backend: Any) -> Any:
        return backend.for_thread()

    async def aclose() -> None: ...

    def watcher(project: Any) -> Any:
        return SimpleNamespace(wake_ups=project.subscriptions, aclose=aclose)

    monkeypatch.setattr("picture_queue.worker.supervisor.connect", connect)
    monkeypatch.setattr("picture_queue.worker.worker.Watcher", watcher)


@pytest.fixture
def harness(project, row):
    return Harness(project, row)


class WaitingHandler:
    """A handler that waits until the test sets its event."""

    def __init__(self, worker: Worker) -> None:
        self.started = asyncio.Event()
        self.go = asyncio.Event()
        self.context: JobContext
        worker.handler("resize")(self)

    async def __call__(self, payload: dict[str, Any], job: JobContext) -> str:
        self.context = job
        self.started.set()
        await self.go.wait()
        return "done"

    async def running(self) -> None:
        await asyncio.wait_for(self.started.wait(), 5)


async def until(condition: Callable[[], Any]) -> None:
    """Wait until a condition is true, while the event loop runs."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - the condition has no event
            await asyncio.sleep(0)


async def test_a_worker_registers_and_unregisters(harness, project):
    worker = harness.worker(name="me", queues=("default", "big"))

    @worker.handler("resize", queue="big", timeout=5)
    async def resize() -> None: ...

    assert worker.name is None
    async with worker:
        assert worker.name == "me"
        assert await project.next("register_worker") == {
            "worker": "me",
            "queues": ["default", "big"],
            "job_types": {"resize": {"queue": "big", "timeout_seconds": 5}},
        }
        await worker._signals.idle.next()
    assert await project.next("unregister_worker") == {"worker": "me"}
    assert worker.name is None
    assert harness.subscriptions.listeners == {}


async def test_a_worker_can_be_started_again(harness):
    worker = harness.worker()
    names = set()
    for _ in range(2):
        async with worker:
            await worker.start()  # A second stop changes nothing.
            names.add(worker.name)
        await worker.stop()
    assert len(names) == 2


@pytest.mark.parametrize(
    ("found", "error"),
    [
        (VERSION | {"contract": _rpc.CONTRACT - 1}, errors.DatabaseTooOld),
        (VERSION | {"contract": 9, "oldest_client_contract": 9}, errors.ClientTooOld),
    ],
)
async def test_a_worker_refuses_to_start_on_an_incompatible_schema(harness, project, found, error):
    project.answers["register_worker"] = lambda params: found
    worker = harness.worker()
    closed: list[bool] = []

    async def close() -> None:
        closed.append(True)

    worker.after_stop(close)
    with pytest.raises(error):
        await worker.run()
    assert worker.name is None
    assert closed == [True]
    await project.next("unregister_worker")


async def test_the_start_fails_if_the_project_never_responds(harness, project, monkeypatch):
    timeouts: list[Any] = []

    async def call(rpc: Any, timeout: float | None = None) -> Any:
        if rpc.function == "register_worker":
            timeouts.append(timeout)
        raise errors.ConnectionFailed("no answer in time")

    monkeypatch.setattr(project, "call", call)
    monkeypatch.setattr(supervisor, "_REGISTER_TIMEOUT", 0.5)
    async with asyncio.timeout(5):
        with pytest.raises(errors.ConnectionFailed, match="No answer"):
            await harness.worker().run()
    assert len(timeouts) >= 2
    assert all(0 < timeout <= 0.5 for timeout in timeouts)


@pytest.mark.parametrize("error", [errors.ConnectionFailed("down"), errors.Busy("starting")])
async def test_the_start_is_retried_while_the_project_is_unreachable(
    harness, project, error, caplog
):
    faults = [error] * 3

    def register(params: dict[str, Any]) -> Any:
        if faults:
            raise faults.pop()
        return VERSION

    project.answers["register_worker"] = register
    worker = harness.worker()
    async with asyncio.timeout(10):
        async with worker:
            await worker._signals.idle.next()
    assert caplog.text.count("The worker cannot register and tries again") == 3


async def test_a_worker_needs_a_project(monkeypatch):
    monkeypatch.delenv("SUPABASE_URL", raising=False)
    with pytest.raises(errors.SettingsError, match="SUPABASE_URL is not set"):
        await Worker().run()


async def test_a_worker_closes_the_client_that_it_made(monkeypatch, harness):
    closed: list[bool] = []

    async def aclose() -> None:
        closed.append(True)

    harness.client.aclose = aclose
    monkeypatch.setattr(
        "picture_queue.worker.worker.AsyncPictureQueue",
        SimpleNamespace(from_env=lambda: harness.client),
    )
    worker = Worker()
    async with worker:
        assert not closed
    assert closed == [True]


async def test_a_handler_cannot_be_added_after_the_start(harness):
    worker = harness.worker()
    async with worker:
        with pytest.raises(InvalidArgument, match="'resize' comes too late"):
            worker.handler("resize")
    worker.handler("resize")


async def test_the_queues_of_all_handlers_are_served(harness):
    worker = harness.worker(queues=())

    @worker.handler("resize", queue="big")
    async def resize() -> None: ...

    async with worker:
        claim = await harness.project.next("claim_jobs")
        assert claim["queues"] == ["default", "big"]


async def test_a_warning_names_a_queue_of_a_handler_that_is_not_served(harness, caplog):
    worker = harness.worker(queues=("small",))

    @worker.handler("resize", queue="big")
    async def resize() -> None: ...

    async with worker:
        assert "resize jobs are enqueued to 'big', which this worker does not serve" in caplog.text


async def test_each_claim_contains_the_weights_of_the_queues(harness):
    worker = harness.worker(queues={"a": 3, "b": 1})
    async with worker:
        claim = await harness.project.next("claim_jobs")
        assert (claim["queues"], claim["weights"]) == (["a", "b"], [3, 1])


async def test_a_wake_up_for_maintenance_leads_to_no_claim(harness, project):
    async with harness.worker(name="me") as worker:
        await worker._signals.maintained.next()
        await worker._signals.idle.next()
        await worker._signals.beaten.next()
        while not project.asked.empty():
            project.asked.get_nowait()
        harness.subscriptions.wake("default", "maintain")
        await worker._signals.maintained.next()
        assert project.asked.get_nowait() == ("maintain_jobs", {"force": False, "worker": "me"})
        assert project.asked.empty()


async def test_wake_ups_for_maintenance_are_ignored_without_the_lease(harness, project):
    project.answers["maintain_jobs"] = lambda params: {"leased": False, "next_in": 60}
    async with harness.worker() as worker:
        await worker._signals.maintained.next()
        await worker._signals.idle.next()
        await worker._signals.beaten.next()
        while not project.asked.empty():
            project.asked.get_nowait()
        harness.subscriptions.wake("default", "maintain")
        for _ in range(20):
            await asyncio.sleep(0)
        assert project.asked.empty()
        harness.subscriptions.wake("default", "take over")
        await worker._signals.maintained.next()


# Stopping


async def test_a_signal_lets_running_jobs_finish(harness):
    worker = harness.worker()
    handler = WaitingHandler(worker)
    job = harness.job()
    running = asyncio.create_task(worker.run())
    await handler.running()
    os.kill(os.getpid(), signal.SIGTERM)
    await until(lambda: handler.context.shutdown_requested)
    handler.go.set()
    await asyncio.wait_for(running, 5)
    assert harness.reported[job]["outcome"] == "completed"


async def test_a_job_that_does_not_finish_in_the_grace_period_is_released(harness):
    worker = harness.worker(shutdown_grace=0)
    handler = WaitingHandler(worker)
    job = harness.job()
    async with worker:
        await handler.running()
    assert harness.reported[job]["outcome"] == "released"
    assert not handler.context.cancel_requested


async def test_a_second_signal_stops_without_a_grace_period(harness):
    worker = harness.worker(shutdown_grace=3600)
    go = asyncio.Event()
    started = asyncio.Event()

    @worker.handler("resize")
    async def stubborn() -> None:
        started.set()
        while not go.is_set():
            try:
                await go.wait()
            except asyncio.CancelledError:
                continue

    job = harness.job()
    running = asyncio.create_task(worker.run())
    await asyncio.wait_for(started.wait(), 5)
    os.kill(os.getpid(), signal.SIGINT)
    await until(lambda: worker._stopping is not None)
    os.kill(os.getpid(), signal.SIGINT)
    await asyncio.wait_for(running, 5)
    assert harness.reported[job]["outcome"] == "released"
    go.set()


async def test_a_signal_before_the_first_response_stops_the_worker(harness, project):
    async def never(params: dict[str, Any]) -> None:
        await asyncio.Event().wait()

    project.answers["register_worker"] = never
    running = asyncio.create_task(harness.worker().run())
    await project.next("register_worker")
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.wait_for(running, 5)


async def test_a_signal_stops_all_workers_and_restores_the_previous_handler(project, row):
    received: list[int] = []

    def handler(number: int, frame: Any) -> None:
        received.append(number)

    before = signal.signal(signal.SIGTERM, handler)
    try:
        workers = [Harness(type(project)(), row).worker() for _ in range(3)]
        third = workers.pop()
        running = [asyncio.create_task(worker.run()) for worker in workers]
        for worker in workers:
            await worker._signals.idle.next()
        await workers[0].stop()
        await asyncio.wait_for(running[0], 5)
        running.append(asyncio.create_task(third.run()))
        await third._signals.idle.next()
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(asyncio.gather(*running), 5)
        assert received == []
        os.kill(os.getpid(), signal.SIGTERM)
        await until(lambda: received)
    finally:
        signal.signal(signal.SIGTERM, before)


async def test_the_third_signal_reaches_the_previous_handler(harness):
    received: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
    try:
        worker = harness.worker()
        running = asyncio.create_task(worker.run())
        await worker._signals.idle.next()
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGTERM)
        await until(lambda: received)
        await asyncio.wait_for(running, 5)
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
async def test_a_process_forked_by_a_handler_can_be_terminated(harness):
    worker = harness.worker()
    running = asyncio.create_task(worker.run())
    await worker._signals.idle.next()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        # A signal before this point is lost, because Python discards it after a fork.
        os.write(writer, b"!")
        for _ in range(1000):
            time.sleep(0.01)  # noqa: ASYNC251 - a signal just before pause() would not end it
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


async def test_a_signal_also_stops_a_worker_in_another_thread(harness, project, row):
    other = Harness(type(project)(), row)
    started = threading.Event()

    def work() -> None:
        async def main() -> None:
            worker = other.worker()
            running = asyncio.ensure_future(worker.run())
            await worker._signals.idle.next()
            started.set()
            await running

        asyncio.run(main())

    worker = harness.worker()
    running = asyncio.create_task(worker.run())
    await worker._signals.idle.next()
    thread = asyncio.get_running_loop().run_in_executor(None, work)
    await until(started.is_set)
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.wait_for(asyncio.gather(running, thread), 5)


async def test_a_stop_before_the_run_ends_it(harness, project):
    worker = harness.worker()
    await worker.stop()
    await asyncio.wait_for(worker.run(), 5)
    assert project.asked.empty()


async def test_a_stop_before_the_first_step_of_a_run_ends_it(harness):
    worker = harness.worker()
    for _ in range(2):
        running = asyncio.create_task(worker.run())
        await worker.stop()
        await asyncio.wait_for(running, 5)


def test_a_worker_can_run_again_in_another_event_loop(harness, project):
    worker = harness.worker()

    @worker.handler("resize")
    async def resize() -> None: ...

    async def main() -> None:
        project.asked = asyncio.Queue()
        worker._signals.watch()
        job = harness.job()
        running = asyncio.create_task(worker.run())
        await worker._signals.reported.next()
        assert harness.reported[job]["outcome"] == "completed"
        await worker.stop()
        await asyncio.wait_for(running, 5)
        await worker.stop()  # A second stop, as cleanup code makes it, does not stop the next run.

    for _ in range(3):
        asyncio.run(main())


def test_a_worker_can_run_again_after_its_event_loop_was_closed(harness, project):
    worker = harness.worker()
    project.answers["unregister_worker"] = never  # The cancelled worker cannot stop in time.

    async def abandon() -> None:
        project.asked = asyncio.Queue()
        await worker.start()
        asyncio.get_running_loop().stop()
        await asyncio.sleep(0)

    loop = asyncio.new_event_loop()
    with pytest.raises(RuntimeError, match="stopped before"):
        loop.run_until_complete(abandon())
    for task in asyncio.all_tasks(loop):
        task.cancel()
    loop.run_until_complete(asyncio.sleep(0.01))
    loop.close()
    project.answers["unregister_worker"] = lambda params: None

    async def main() -> None:
        worker._signals.watch()
        async with worker:
            await worker._signals.idle.next()
            # The collection ends the coroutines that the closed event loop left behind.
            gc.collect()
            assert worker.is_ready

    asyncio.run(main())


async def test_a_worker_runs_in_one_event_loop_at_a_time(harness):
    async with harness.worker() as worker:
        loop = asyncio.get_running_loop()
        for method in (worker.start, worker.stop, worker.run):
            with pytest.raises(InvalidArgument, match="runs in another event loop"):
                await loop.run_in_executor(None, asyncio.run, method())


async def never(params: dict[str, Any]) -> None:
    await asyncio.Event().wait()


@pytest.mark.parametrize("how", ["stop", "cancel", "signal"])
@pytest.mark.parametrize("is_answered", [True, False])
async def test_a_stop_during_the_start_leaves_nothing_registered(
    harness, project, monkeypatch, how, is_answered
):
    monkeypatch.setattr("picture_queue.worker.worker._REGISTRATION_TIMEOUT", 5 * is_answered)
    registered: set[str] = set()
    go = asyncio.Event()

    async def register(params: dict[str, Any]) -> Any:
        await go.wait()
        registered.add(params["worker"])
        return VERSION

    project.answers["register_worker"] = register
    project.answers["unregister_worker"] = lambda params: registered.discard(params["worker"])
    worker = harness.worker()
    harness.job()
    running = asyncio.create_task(worker.run())
    await project.next("register_worker")
    if how == "stop":
        stopping = asyncio.create_task(worker.stop())
    elif how == "cancel":
        running.cancel()
    else:
        os.kill(os.getpid(), signal.SIGTERM)
    await until(lambda: worker._stopping is not None)
    if is_answered:
        go.set()
    await asyncio.wait({running}, timeout=5)
    assert running.done()
    assert running.cancelled() is (how == "cancel")
    if how == "stop":
        await asyncio.wait_for(stopping, 5)
    assert registered == set()
    await project.next("unregister_worker")


async def test_a_stopped_start_returns(harness, project):
    go = asyncio.Event()

    async def register(params: dict[str, Any]) -> Any:
        await go.wait()
        return VERSION

    project.answers["register_worker"] = register
    worker = harness.worker()
    starting = asyncio.create_task(worker.start())
    await project.next("register_worker")
    stopping = asyncio.create_task(worker.stop())
    await until(lambda: worker._stopping is not None)
    again = asyncio.create_task(worker.start())  # The start waits for the stop to end.
    go.set()
    await asyncio.wait_for(asyncio.gather(starting, stopping, again), 5)
    assert worker.name is not None
    await worker.stop()


async def test_a_run_ends_when_the_worker_is_stopped(harness):
    worker = harness.worker()
    running = asyncio.create_task(worker.run())
    await worker._signals.idle.next()
    await asyncio.gather(worker.stop(), worker.stop())
    await asyncio.wait_for(running, 5)


async def test_jobs_claimed_during_a_stop_are_released_without_running(harness, project):
    worker = harness.worker()
    handler = WaitingHandler(worker)
    answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def slow(params: dict[str, Any]) -> Any:
        await answer
        return harness.claim(params)

    project.answers["claim_jobs"] = slow
    job = harness.job()
    await worker.start()
    await project.next("claim_jobs")
    stopping = asyncio.create_task(worker.stop())
    await until(lambda: not harness.subscriptions.listeners)
    answer.set_result(None)
    await asyncio.wait_for(stopping, 5)
    assert harness.reported[job]["outcome"] == "released"
    assert not handler.started.is_set()


async def test_every_stop_callback_is_called_even_if_another_fails(harness, caplog, monkeypatch):
    monkeypatch.setattr("picture_queue.worker.worker._CLOSE_TIMEOUT", 0.01)
    worker = harness.worker()
    closed: list[str] = []

    async def fail() -> None:
        raise RuntimeError("no")

    async def exit_() -> None:
        raise SystemExit(3)

    async def hang() -> None:
        await asyncio.Event().wait()

    async def hang_on() -> None:
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                continue

    async def close() -> None:
        closed.append("closed")

    for callback in (fail, exit_, hang, hang_on, close, lambda: closed.append("sync")):
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


# Cancellation of the worker's tasks by user code


def cancel_other_tasks(keep: asyncio.Task[Any]) -> None:
    """Cancel all tasks of the event loop except the test's, as a handler may do."""
    for task in asyncio.all_tasks() - {keep}:
        task.cancel()


@pytest.mark.parametrize("how", ["run", "start"])
async def test_cancelling_all_tasks_stops_the_worker_without_losing_outcomes(
    harness, project, how, caplog
):
    """Cancel while outcomes wait in the reporter and in a log, and a claim is in progress."""
    test: Any = asyncio.current_task()
    # The database repeats these jobs in the answer to a repeated claim.
    answers: dict[str, list[dict[str, Any]]] = {}
    claiming, logging = asyncio.Event(), asyncio.Event()
    is_cancelled = False

    async def claim(params: dict[str, Any]) -> list[dict[str, Any]]:
        is_new = params["request_id"] not in answers
        jobs = answers.setdefault(params["request_id"], harness.claim(params))
        if is_new and late in [job["id"] for job in jobs]:
            claiming.set()
            await asyncio.Event().wait()
        return jobs

    async def log(params: dict[str, Any]) -> None:
        logging.set()
        await asyncio.Event().wait()

    def report(params: dict[str, Any]) -> Any:
        if not is_cancelled:
            raise errors.Busy("not now")
        return harness.report(params)

    project.answers |= {"claim_jobs": claim, "report_jobs": report, "log_job": log}
    worker = harness.worker(concurrency=4)

    @worker.handler("ends")
    async def ends() -> int:
        return 1

    @worker.handler("logs")
    async def logs(job: JobContext) -> int:
        job.log("a line")
        return 2

    @worker.handler("cancels")
    async def cancels() -> None:
        nonlocal is_cancelled, late
        await logging.wait()
        late = harness.job(job_type="ends")
        harness.subscriptions.wake("default", "enqueue")
        await claiming.wait()
        is_cancelled = True
        cancel_other_tasks(keep=test)

    late = ""
    jobs = [harness.job(job_type=job_type) for job_type in ("ends", "logs", "cancels")]
    await worker.start()
    running = asyncio.create_task(worker.run()) if how == "run" else None
    await until(lambda: is_cancelled)
    await until(lambda: not worker.is_ready)
    await until(lambda: worker.name is None)
    if running is not None:
        with pytest.raises(errors.PictureQueueError, match=r"cancelled the \w+ of the worker"):
            await running
    outcomes = [harness.reported[job]["outcome"] for job in (*jobs, late)]
    assert outcomes == ["completed", "completed", "completed", "released"]
    assert caplog.text.count("Other code cancelled the ") == 1


async def test_cancelling_the_tasks_of_a_stop_loses_no_outcome(harness, project):
    test: Any = asyncio.current_task()
    worker = harness.worker(shutdown_grace=30)
    handler = WaitingHandler(worker)
    job = harness.job()
    await worker.start()
    await handler.running()
    stopping = asyncio.create_task(worker.stop())
    await until(lambda: handler.context.shutdown_requested)
    cancel_other_tasks(keep=test)
    await asyncio.wait({stopping}, timeout=10)
    await until(lambda: worker.name is None)
    assert harness.reported[job]["outcome"] == "released"
    await project.next("unregister_worker")


async def test_cancelling_a_stop_during_the_last_report_loses_no_outcome(harness, project):
    """The reporter is cancelled as well, while it sends an outcome."""
    test: Any = asyncio.current_task()
    reporting = asyncio.Event()

    async def report(params: dict[str, Any]) -> Any:
        if not reporting.is_set():
            reporting.set()
            await asyncio.Event().wait()
        return harness.report(params)

    project.answers["report_jobs"] = report
    worker = harness.worker()
    worker.handler("resize")(lambda: 1)
    job = harness.job()
    await worker.start()
    await reporting.wait()
    stopping = asyncio.create_task(worker.stop())
    await until(lambda: worker._supervisor._reporter.stopping)
    cancel_other_tasks(keep=test)
    await asyncio.wait({stopping}, timeout=10)
    await until(lambda: worker.name is None)
    assert harness.reported[job]["outcome"] == "completed"


async def test_cancelling_a_stop_during_a_claim_releases_the_claimed_jobs(harness, project):
    test: Any = asyncio.current_task()
    # The database repeats these jobs in the answer to a repeated claim.
    answers: dict[str, list[dict[str, Any]]] = {}
    claiming = asyncio.Event()

    async def claim(params: dict[str, Any]) -> list[dict[str, Any]]:
        is_new = params["request_id"] not in answers
        jobs = answers.setdefault(params["request_id"], harness.claim(params))
        if jobs and is_new:
            claiming.set()
            await asyncio.Event().wait()
        return jobs

    project.answers["claim_jobs"] = claim
    worker = harness.worker()
    worker.handler("resize")(lambda: 1)
    job = harness.job()
    await worker.start()
    await claiming.wait()
    stopping = asyncio.create_task(worker.stop())
    await until(lambda: worker._supervisor._claimer.stopping)
    cancel_other_tasks(keep=test)
    await asyncio.wait({stopping}, timeout=10)
    await until(lambda: worker.name is None)
    assert harness.reported[job]["outcome"] == "released"


# Wake-ups and responses


async def test_a_wake_up_leads_to_a_claim(harness):
    worker = harness.worker()

    @worker.handler("resize")
    async def resize() -> None: ...

    async with worker:
        await worker._signals.idle.next()
        job = harness.job()
        harness.subscriptions.wake("default", "enqueue")
        await worker._signals.reported.next()
    assert harness.reported[job]["outcome"] == "completed"


async def test_a_wake_up_for_a_cancel_leads_to_a_heartbeat_at_once(harness):
    worker = harness.worker()
    handler = WaitingHandler(worker)
    job = harness.job()
    async with worker:
        await handler.running()
        harness.beat = {"cancel": [job], "lost": []}
        harness.subscriptions.wake("default", "cancel")
        await worker._signals.reported.next()
    assert harness.reported[job]["outcome"] == "cancelled"
    assert handler.context.cancel_requested


async def test_a_worker_without_wake_ups_claims_when_a_slot_becomes_free(harness, project):
    worker = harness.worker(concurrency=1)
    handler = WaitingHandler(worker)
    async with worker:
        await worker._signals.idle.next()
        harness.subscriptions.listeners["pq:queue:default"].lost()
        harness.job()
        worker._supervisor._claimer.request_claim()
        await handler.running()
        second = harness.job()
        handler.go.set()
        while second not in harness.reported:
            await worker._signals.reported.next()


@pytest.mark.parametrize(
    ("answer", "outcome"), [({"cancel_requested": True}, "cancelled"), (None, None)]
)
async def test_the_response_to_progress_can_stop_a_handler(
    harness, project, answer, outcome, caplog
):
    def progress(params: dict[str, Any]) -> Any:
        if answer is None:
            raise errors.StaleLease("the lease ended")
        return answer

    project.answers["report_progress"] = progress
    worker = harness.worker()

    @worker.handler("resize")
    async def resize(payload: dict[str, Any], job: JobContext) -> None:
        await job.progress(10)
        await asyncio.Event().wait()

    job = harness.job()
    async with worker:
        assert str((await worker._signals.settled.next())[0]) == job
    assert harness.reported.get(job, {}).get("outcome") == outcome
    assert ("is lost and its handler stopped" in caplog.text) is (outcome is None)


async def test_a_failed_progress_call_does_not_stop_the_handler(harness, project):
    def fail(params: dict[str, Any]) -> Any:
        raise errors.Busy("not now")

    project.answers["report_progress"] = fail
    worker = harness.worker()

    @worker.handler("resize")
    async def resize(job: JobContext) -> int:
        await job.progress(10)
        await project.next("report_progress")
        return 1

    job = harness.job()
    async with worker:
        await worker._signals.reported.next()
    assert harness.reported[job]["result"] == 1


@pytest.fixture
def clock(monkeypatch):
    """A clock of leases that can jump, as it seems to do after the event loop was blocked."""
    jump = SimpleNamespace(seconds=0.0)
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + jump.seconds)
    monkeypatch.setattr(slots, "time", clock)
    return jump


async def test_jobs_held_past_their_lease_are_not_started(harness, project, clock, monkeypatch):
    monkeypatch.setattr(slots.Slots, "_target_ahead", lambda self: 3)
    worker = harness.worker(concurrency=1)
    started: list[str] = []

    @worker.handler("resize")
    async def block(payload: dict[str, Any], job: JobContext) -> None:
        started.append(str(job.id))
        clock.seconds = 40

    jobs = [harness.job(lease_seconds=30) for _ in range(4)]
    async with worker:
        await worker._signals.reported.next()
    claim = await project.next("claim_jobs")
    assert claim["max_jobs"] == 4
    assert started == jobs[:1]
    assert harness.reported.keys() == set(jobs[:1])


async def test_a_last_attempt_starts_after_its_confirmation(harness, project):
    worker = harness.worker(concurrency=1)
    handler = WaitingHandler(worker)
    noting, note = asyncio.Event(), asyncio.Event()

    async def beat(params: dict[str, Any]) -> Any:
        if params["leases"]:
            noting.set()
            await note.wait()
        return harness.beat

    project.answers["heartbeat_jobs"] = beat
    job = harness.job(confirm_start=True)
    async with worker:
        await asyncio.wait_for(noting.wait(), 5)
        assert worker._supervisor._slots.free == 0
        assert not handler.started.is_set()
        note.set()
        await handler.running()
        handler.go.set()
        await worker._signals.reported.next()
    assert harness.reported[job]["outcome"] == "completed"


async def test_last_attempts_are_confirmed_together_on_a_slow_connection(
    harness, project, monkeypatch
):
    """Check that none is released meanwhile, although held jobs are."""
    monkeypatch.setattr(slots, "MAX_HELD", 0.02)
    monkeypatch.setattr(slots.Slots, "_target_ahead", lambda self: 4)
    calls: list[int] = []

    async def beat(params: dict[str, Any]) -> Any:
        calls.append(len(params["leases"]))
        await asyncio.sleep(1.1 if params["leases"] else 0)
        return harness.beat

    project.answers["heartbeat_jobs"] = beat
    worker = harness.worker(concurrency=4)
    started: list[float] = []

    @worker.handler("resize")
    async def resize() -> None:
        started.append(time.monotonic())

    jobs = [harness.job(confirm_start=True) for _ in range(8)]
    async with worker:
        await until(lambda: len(started) == 4)
        assert started[3] - started[0] < 0.5
        assert harness.reported.keys().isdisjoint(jobs[:4])
    assert next(count for count in calls if count) == 4


async def test_a_stop_releases_a_job_that_waits_for_its_confirmation(harness, project):
    worker = harness.worker()
    handler = WaitingHandler(worker)
    noting, note = asyncio.Event(), asyncio.Event()

    async def beat(params: dict[str, Any]) -> Any:
        noting.set()
        await note.wait()
        return harness.beat

    project.answers["heartbeat_jobs"] = beat
    job = harness.job(confirm_start=True)
    async with worker:
        await asyncio.wait_for(noting.wait(), 5)
        asyncio.get_running_loop().call_later(0.1, note.set)
    assert harness.reported[job]["outcome"] == "released"
    assert not handler.started.is_set()


async def test_a_lease_lost_before_the_confirmation_frees_the_slot(harness, project):
    worker = harness.worker(concurrency=1)
    handler = WaitingHandler(worker)
    lost, job = harness.job(confirm_start=True), harness.job()
    harness.beat = {"cancel": [], "lost": [lost]}
    async with worker:
        await handler.running()
        assert str(handler.context.id) == job
        handler.go.set()
        await worker._signals.reported.next()
    assert harness.reported.keys() == {job}


async def test_a_cancelled_job_that_waits_for_its_confirmation_is_cancelled(harness, project):
    worker = harness.worker()
    handler = WaitingHandler(worker)
    job = harness.job(confirm_start=True)
    harness.beat = {"cancel": [job], "lost": []}
    async with worker:
        await worker._signals.reported.next()
    assert harness.reported[job]["outcome"] == "cancelled"
    assert not handler.started.is_set()


async def test_a_job_received_after_the_end_of_its_lease_is_released(harness, project, clock):
    worker = harness.worker()
    handler = WaitingHandler(worker)

    def late(params: dict[str, Any]) -> list[dict[str, Any]]:
        clock.seconds = 40
        return harness.claim(params)

    project.answers["claim_jobs"] = late
    job = harness.job(lease_seconds=30)
    async with worker:
        await worker._signals.reported.next()
    assert harness.reported[job]["outcome"] == "released"
    assert not handler.started.is_set()


async def test_a_job_that_cannot_be_started_does_not_affect_others(harness):
    worker = harness.worker()

    @worker.handler("resize")
    async def resize() -> int:
        return 1

    bad, good = harness.job(timeout_seconds=None), harness.job()
    async with worker:
        for _ in range(2):
            await worker._signals.reported.next()
    assert harness.reported[bad]["outcome"] == "failed"
    assert harness.reported[good]["outcome"] == "completed"


async def test_no_job_is_claimed_before_the_pause_of_a_key_is_written(harness, project):
    """Claim no job of a key before the outcome that pauses the key is written."""
    answer = asyncio.Event()

    async def slow(params: dict[str, Any]) -> Any:
        await answer.wait()
        return harness.report(params)

    project.answers["report_jobs"] = slow
    worker = harness.worker(concurrency=1)

    @worker.handler("resize")
    async def limited() -> None:
        raise RateLimited(30, key="model:flux")

    async with worker:
        harness.job()
        harness.subscriptions.wake("default", "enqueue")
        params = await project.next("report_jobs")
        assert params["outcomes"][0]["pause_key"] == "model:flux"
        while not project.asked.empty():
            project.asked.get_nowait()
        harness.job()
        harness.subscriptions.wake("default", "enqueue")
        for _ in range(20):
            await asyncio.sleep(0)
        calls = [project.asked.get_nowait()[0] for _ in range(project.asked.qsize())]
        assert "claim_jobs" not in calls
        answer.set()
        await project.next("claim_jobs")


async def test_a_worker_is_ready_only_while_its_key_is_accepted(harness, project):
    worker = harness.worker(poll_interval=0.02)
    async with worker:
        await worker._signals.idle.next()
        assert worker.is_ready

        def refuse(params: dict[str, Any]) -> Any:
            raise errors.AuthenticationFailed("the key was rotated")

        project.answers["claim_jobs"] = refuse
        await until(lambda: not worker.is_ready)
        project.answers["claim_jobs"] = harness.claim
        await until(lambda: worker.is_ready)


async def test_claims_stop_while_outcomes_cannot_be_written(harness, project, monkeypatch):
    # With prefetching, the number of claims would depend on the speed of the machine.
    monkeypatch.setattr(slots, "AHEAD_SECONDS", 0.0)
    open_again = False

    def fail_at_first(params: dict[str, Any]) -> Any:
        if not open_again:
            raise errors.Busy("not now")
        return harness.report(params)

    project.answers["report_jobs"] = fail_at_first
    worker = harness.worker(concurrency=2)

    @worker.handler("resize")
    async def resize() -> None: ...

    async with worker:
        for _ in range(20):
            harness.job()
        for _ in range(4):
            harness.subscriptions.wake("default", "enqueue")
            await worker._signals.settled.next()
        await until(lambda: not worker._supervisor._slots.attempts)
        harness.subscriptions.wake("default", "enqueue")
        for _ in range(10):
            await asyncio.sleep(0)
        assert len(harness.jobs) == 16
        open_again = True
        for _ in range(20):
            await worker._signals.reported.next()


async def test_an_outcome_whose_log_took_longer_than_its_lease_is_not_reported(claimed):
    """The worker may have claimed the job again. Its newer report must not be replaced."""
    job = claimed()
    reported: list[Any] = []
    running: Any = supervisor.Supervisor.__new__(supervisor.Supervisor)
    running._slots = slots.Slots(1, lambda job: None)
    running._reporter = SimpleNamespace(put=lambda *report: reported.append(report))

    async def flush() -> None:
        running._slots.add(slots.Lease(claimed(id=job.key), 0.0))

    attempt: Any = SimpleNamespace(job=job, log=SimpleNamespace(flush=flush), duration=1.0)
    running._slots.add(slots.Lease(job, 0.0, attempt=attempt))
    await running._report_after_log(attempt, Completed("one"))
    assert reported == []

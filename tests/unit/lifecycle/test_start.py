"""The start of a worker, its registration and its settings."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from picture_queue import (
    InvalidArgument,
    Worker,
    _rpc,
    errors,
)
from picture_queue.worker import _registration

from .conftest import VERSION


async def test_a_worker_registers_and_unregisters(harness, backend):
    worker = harness.make_worker(name="me", queues=("default", "big"))

    @worker.handler("resize", queue="big", timeout=5)
    async def resize() -> None: ...

    assert worker.name is None
    async with worker:
        assert worker.name == "me"
        assert await backend.next_call("register_worker") == {
            "worker": "me",
            "queues": ["default", "big"],
            "job_types": {"resize": {"queue": "big", "timeout_seconds": 5}},
        }
        await worker._signals.idle.next()
    assert await backend.next_call("unregister_worker") == {"worker": "me"}
    assert worker.name is None
    assert harness.subscriptions.listeners == {}


async def test_a_worker_can_be_started_again(harness):
    worker = harness.make_worker()
    names = set()
    for _ in range(2):
        async with worker:
            await worker.start()  # A second start changes nothing.
            names.add(worker.name)
        await worker.stop()
    assert len(names) == 2


@pytest.mark.parametrize(
    ("version", "error"),
    [
        (VERSION | {"contract": _rpc.CONTRACT - 1}, errors.DatabaseTooOld),
        (VERSION | {"contract": 9, "oldest_client_contract": 9}, errors.ClientTooOld),
    ],
)
async def test_a_worker_refuses_to_start_on_an_incompatible_schema(
    harness, backend, version, error
):
    backend.answers["register_worker"] = lambda params: version
    worker = harness.make_worker()
    closed: list[bool] = []

    async def close() -> None:
        closed.append(True)

    worker.after_stop(close)
    with pytest.raises(error):
        await worker.run()
    assert worker.name is None
    assert closed == [True]
    await backend.next_call("unregister_worker")


async def test_the_start_fails_if_the_project_never_responds(harness, backend, monkeypatch):
    timeouts: list[Any] = []

    async def call(rpc: Any, timeout: float | None = None) -> Any:
        if rpc.function == "register_worker":
            timeouts.append(timeout)
        raise errors.ConnectionFailed("no answer in time")

    monkeypatch.setattr(backend, "call", call)
    monkeypatch.setattr(_registration, "_REGISTER_TIMEOUT", 0.5)
    async with asyncio.timeout(5):
        with pytest.raises(errors.ConnectionFailed, match="No answer"):
            await harness.make_worker().run()
    assert len(timeouts) >= 2
    assert all(0 < timeout <= 0.5 for timeout in timeouts)


@pytest.mark.parametrize("error", [errors.ConnectionFailed("down"), errors.Busy("starting")])
async def test_the_start_is_retried_while_the_project_is_unreachable(
    harness, backend, error, caplog
):
    failures = [error] * 3

    def register(params: dict[str, Any]) -> Any:
        if failures:
            raise failures.pop()
        return VERSION

    backend.answers["register_worker"] = register
    worker = harness.make_worker()
    async with asyncio.timeout(10):
        async with worker:
            await worker._signals.idle.next()
    assert caplog.text.count("The worker cannot register and tries again") == 3


async def test_a_worker_needs_a_project(monkeypatch):
    monkeypatch.delenv("SUPABASE_URL", raising=False)
    with pytest.raises(errors.SettingsError, match="SUPABASE_URL is not set"):
        await Worker().run()


async def test_a_worker_closes_the_client_that_it_created(monkeypatch, harness):
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
    worker = harness.make_worker()
    async with worker:
        with pytest.raises(InvalidArgument, match="'resize' was registered too late"):
            worker.handler("resize")
    worker.handler("resize")


async def test_the_queues_of_all_handlers_are_served(harness):
    worker = harness.make_worker(queues=())

    @worker.handler("resize", queue="big")
    async def resize() -> None: ...

    async with worker:
        claim = await harness.backend.next_call("claim_jobs")
        assert claim["queues"] == ["default", "big"]


async def test_a_warning_names_a_queue_of_a_handler_that_is_not_served(harness, caplog):
    worker = harness.make_worker(queues=("small",))

    @worker.handler("resize", queue="big")
    async def resize() -> None: ...

    async with worker:
        assert "resize jobs are enqueued to 'big', which this worker does not serve" in caplog.text


async def test_each_claim_contains_the_weights_of_the_queues(harness):
    worker = harness.make_worker(queues={"a": 3, "b": 1})
    async with worker:
        claim = await harness.backend.next_call("claim_jobs")
        assert (claim["queues"], claim["weights"]) == (["a", "b"], [3, 1])


async def test_a_wake_up_for_maintenance_does_not_cause_a_claim(harness, backend):
    async with harness.make_worker(name="me") as worker:
        await worker._signals.maintained.next()
        await worker._signals.idle.next()
        await worker._signals.heartbeat_answered.next()
        while not backend.calls.empty():
            backend.calls.get_nowait()
        harness.subscriptions.wake("default", "maintain")
        await worker._signals.maintained.next()
        assert backend.calls.get_nowait() == ("maintain_jobs", {"force": False, "worker": "me"})
        assert backend.calls.empty()


async def test_wake_ups_for_maintenance_are_ignored_without_the_lease(harness, backend):
    backend.answers["maintain_jobs"] = lambda params: {"leased": False, "next_in": 60}
    async with harness.make_worker() as worker:
        await worker._signals.maintained.next()
        await worker._signals.idle.next()
        await worker._signals.heartbeat_answered.next()
        while not backend.calls.empty():
            backend.calls.get_nowait()
        harness.subscriptions.wake("default", "maintain")
        for _ in range(20):
            await asyncio.sleep(0)
        assert backend.calls.empty()
        harness.subscriptions.wake("default", "take over")
        await worker._signals.maintained.next()


async def test_a_drain_ends_at_its_time_limit_if_the_project_never_responds(harness, backend):
    backend.answers["register_worker"] = lambda params: asyncio.Event().wait()
    worker = harness.make_worker()
    with pytest.raises(errors.ConnectionFailed, match="did not answer in time"):
        await worker.drain(time_limit=0.1)
    assert worker.name is None

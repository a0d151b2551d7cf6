"""A worker above its memory limit lets its jobs finish and stops."""

import asyncio
import mmap

import pytest

from picture_queue import WorkerSettings
from picture_queue._runtime import memory
from picture_queue.errors import SettingsError

from .conftest import WaitingHandler


async def test_a_worker_above_its_memory_limit_stops_after_its_jobs(harness, monkeypatch, caplog):
    used = 10
    monkeypatch.setattr(memory, "resident_bytes", lambda: used)
    monkeypatch.setattr(memory, "_CHECK_INTERVAL", 0.01)
    worker = harness.make_worker(max_memory=100 << 20)
    handler = WaitingHandler(worker)
    job = harness.add_job()
    running = asyncio.create_task(worker.run())
    await handler.wait_started()
    assert not worker.recycle
    used = 200 << 20
    while not handler.context.shutdown_requested:  # noqa: ASYNC110 - no event tells about it
        await asyncio.sleep(0.01)
    handler.may_return.set()
    await asyncio.wait_for(running, 10)
    assert harness.reported[job]["outcome"] == "completed"
    assert worker.recycle
    assert "it uses 200 MiB" in caplog.text


def test_the_memory_of_this_process_is_measured():
    before = memory.resident_bytes()
    # Not from the heap, where Python may use pages again that it has freed.
    block = mmap.mmap(-1, 50_000_000)
    for start in range(0, len(block), mmap.PAGESIZE):
        block[start] = 1
    after = memory.resident_bytes()
    assert before is not None and after is not None
    assert 40_000_000 < after - before < 200_000_000, len(block)


def test_a_memory_limit_is_a_number_of_bytes():
    with pytest.raises(SettingsError, match="`max_memory` is '1G'"):
        WorkerSettings(max_memory="1G")  # type: ignore[arg-type]

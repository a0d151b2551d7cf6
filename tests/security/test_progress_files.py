"""Progress of functions in other processes, and other users who can write in the same directory.

The directory for temporary files is open to every user. In an early version, the directory of a
cancelled prediction was deleted while its function still wrote into it by its path. Another user
could create it again with a symlink, and so replace any file of the worker's user.
"""

import asyncio
import multiprocessing
import os
import pickle
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from picture_queue.providers.base import PredictionRequest
from picture_queue.providers.function import FunctionProvider
from picture_queue.providers.function_call import ProgressReporter
from picture_queue.providers.function_progress import FileReporter
from tests.providers.test_contract import new_process_pool

NOBODY = 65534


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory for temporary files that every user can write."""
    path = tmp_path / "temporary"
    path.mkdir()
    path.chmod(0o1777)
    monkeypatch.setattr("tempfile.tempdir", str(path))
    return path


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """A file of the worker's user."""
    path = tmp_path / "target"
    path.write_text("important")
    return path


@pytest.fixture
def pool() -> Iterator[ProcessPoolExecutor]:
    """A process pool with one process."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool
        for process in multiprocessing.active_children():
            process.kill()  # a failed test must not wait for a function that blocks


def wait_for(path: Path) -> None:
    end = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < end, f"{path} was not created"
        time.sleep(0.01)


def draw(prompt: str, signals: str, *, progress: ProgressReporter) -> bytes:
    """Report progress at the start, and again when the test allows it."""
    progress(0, prompt)
    (Path(signals) / "started").touch()
    wait_for(Path(signals) / "continue")
    time.sleep(0.2)  # two reports must not follow each other at once
    try:
        progress(50, prompt)
    finally:
        (Path(signals) / "ended").touch()
    return b"x"


def draw_silently(prompt: str, signals: str) -> bytes:
    """Report nothing."""
    (Path(signals) / "started").touch()
    wait_for(Path(signals) / "continue")
    return b"x"


def request(signals: Path) -> PredictionRequest:
    signals.mkdir(exist_ok=True)
    inputs = {"prompt": "x", "signals": str(signals)}
    return PredictionRequest(uuid4(), datetime.now(UTC), "own/model", inputs, 60.0)


def plant(directory: Path, target: Path | None) -> None:
    """Create a deleted directory again as another user, with a symlink or a FIFO in it."""
    if directory.exists():
        return
    directory.mkdir()
    directory.chmod(0o777)
    for name in ("new", "state", "active", "cancelled"):
        if target is None:
            os.mkfifo(directory / name)
        else:
            (directory / name).symlink_to(target)
    if os.geteuid() == 0:
        for entry in (directory, *directory.iterdir()):
            os.chown(entry, NOBODY, NOBODY, follow_symlinks=False)


def entries(directory: Path) -> set[Path]:
    return set(directory.iterdir())


def expect_unchanged(target: Path) -> None:
    assert not target.is_symlink() and target.read_text() == "important"


async def in_thread(function: Any, *arguments: Any) -> Any:
    return await asyncio.wait_for(asyncio.to_thread(function, *arguments), 30)


async def test_a_cancelled_function_writes_into_no_directory_of_another_user(
    temporary: Path, target: Path, tmp_path: Path, pool: ProcessPoolExecutor
):
    provider, signals = FunctionProvider(draw, executor=pool), tmp_path / "signals"
    created = await provider.create(request(signals))
    await in_thread(wait_for, signals / "started")
    assert (await provider.get(created.id)).progress is not None
    (directory,) = entries(temporary)
    await provider.cancel(created.id)
    await asyncio.sleep(0.05)
    plant(directory, target)
    (signals / "continue").touch()
    await in_thread(wait_for, signals / "ended")
    await in_thread(pool.shutdown)
    expect_unchanged(target)
    assert entries(temporary) == set()


@pytest.mark.parametrize("is_fifo", [False, True])
async def test_a_function_that_is_cancelled_in_the_queue_writes_nothing(
    temporary: Path, target: Path, tmp_path: Path, pool: ProcessPoolExecutor, is_fifo: bool
):
    """The process gets the call before it is cancelled, and runs it later."""
    provider = FunctionProvider(draw_silently, executor=pool)
    await provider.create(request(tmp_path / "first"))
    await in_thread(wait_for, tmp_path / "first" / "started")
    others = entries(temporary)
    second = await provider.create(request(tmp_path / "second"))
    await asyncio.sleep(0.05)
    (directory,) = entries(temporary) - others
    await provider.cancel(second.id)
    await asyncio.sleep(0.05)
    plant(directory, None if is_fifo else target)
    (tmp_path / "first" / "continue").touch()
    third = await provider.create(request(tmp_path / "third"))
    (tmp_path / "third" / "continue").touch()
    await provider.wait(third.id, 10)
    assert (await provider.get(third.id)).status == "succeeded"
    await in_thread(pool.shutdown)
    expect_unchanged(target)
    assert "started" not in os.listdir(tmp_path / "second")
    assert entries(temporary) == set()


@pytest.mark.parametrize("is_open", [False, True])
@pytest.mark.parametrize("is_fifo", [False, True])
def test_a_directory_that_was_created_again_is_not_used(
    temporary: Path, target: Path, is_fifo: bool, is_open: bool
):
    reporter = FileReporter()
    reporter.open()
    (directory,) = entries(temporary)
    copy = pickle.loads(pickle.dumps(reporter))
    if is_open:
        copy.start()
    assert reporter.read().has_started == is_open
    shutil.rmtree(directory)
    plant(directory, None if is_fifo else target)
    copy.start()
    assert reporter.read().has_started == is_open
    reporter.cancel()
    reporter.close()
    assert reporter.read().has_started == is_open
    assert target.read_text() == "important"
    assert sorted(os.listdir(directory)) == ["active", "cancelled", "new", "state"]


@pytest.mark.parametrize("is_started", [False, True])
async def test_a_function_whose_directory_was_deleted_makes_its_picture(
    temporary: Path, tmp_path: Path, pool: ProcessPoolExecutor, is_started: bool
):
    """With PrivateTmp=yes of systemd, two processes have different directories /tmp."""
    provider = FunctionProvider(draw, executor=pool)
    first, second = tmp_path / "first", tmp_path / "second"
    created = [await provider.create(request(signals)) for signals in (first, second)]
    await in_thread(wait_for, first / "started")
    end = time.monotonic() + 10
    while len(entries(temporary)) < 2:  # the second call waits in the queue of the pool
        assert time.monotonic() < end
        await asyncio.sleep(0.01)
    if is_started:
        (first / "continue").touch()
        await in_thread(wait_for, second / "started")
    for directory in entries(temporary):
        shutil.rmtree(directory)
    for signals in (first, second):
        (signals / "continue").touch()
    for run in created:
        await provider.wait(run.id, 20)
        assert (await provider.get(run.id)).status == "succeeded"


def test_a_cleanup_of_old_files_does_not_cancel_a_function(temporary: Path):
    """systemd-tmpfiles deletes old files in /tmp, also while their directory is in use."""
    reporter = FileReporter()
    reporter.open()
    (directory,) = entries(temporary)
    copy = pickle.loads(pickle.dumps(reporter))
    copy.start()
    for file in directory.iterdir():
        file.unlink()
    copy(40, "forty")
    assert reporter.read().progress == (40, "forty")
    for _ in range(2):
        reporter.cancel()
        with pytest.raises(asyncio.CancelledError):
            copy.start()
    reporter.close()
    assert entries(temporary) == set()


def test_files_in_the_directory_are_not_followed(temporary: Path, target: Path):
    """A symlink with the name of an unfinished file neither fails the function nor is followed."""
    reporter = FileReporter()
    reporter.open()
    (directory,) = entries(temporary)
    (directory / "new").symlink_to(target)
    os.mkfifo(directory / "state")
    pickle.loads(pickle.dumps(reporter)).start()
    assert not reporter.read().has_started
    assert target.read_text() == "important"
    reporter.close()
    assert entries(temporary) == set()


@pytest.mark.parametrize(
    "content",
    [
        b"5",
        b"{}",
        b"[]",
        b"[1]",
        b"[1, 2]",
        b'["1", null]',
        b"[true, null]",
        b"[101, null]",
        b"[1, null, 3]",
        b'{"a": 1, "b": 2}',
        b"\xff",
        b"[" * 9000,
        b'[1, "' + b"x" * 10_000_000 + b'"]',
    ],
)
def test_any_content_of_the_file_is_survived(temporary: Path, content: bytes):
    reporter = FileReporter()
    reporter.open()
    (directory,) = entries(temporary)
    copy = pickle.loads(pickle.dumps(reporter))
    copy(40, "forty")
    before = reporter.read()
    assert before.progress == (40, "forty")
    (directory / "state").write_bytes(content)
    assert reporter.read() == before
    reporter.close()
    assert entries(temporary) == set()


@pytest.mark.parametrize("failing", ["__init__", "expect_own", "create"])
def test_a_failed_preparation_leaves_no_directory(
    temporary: Path, monkeypatch: pytest.MonkeyPatch, failing: str
):
    def fail(*arguments: Any) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(f"picture_queue.providers.function_progress._Directory.{failing}", fail)
    reporter = FileReporter()
    with pytest.raises(OSError, match="Too many open files"):
        reporter.open()
    reporter.close()
    assert entries(temporary) == set()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory to another user")
def test_a_directory_that_another_user_exchanges_is_not_used(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
):
    path = temporary / "exchanged"

    def exchange(**options: Any) -> str:
        path.mkdir()
        os.chown(path, NOBODY, NOBODY)
        return str(path)

    monkeypatch.setattr("tempfile.mkdtemp", exchange)
    reporter = FileReporter()
    with pytest.raises(PermissionError):
        reporter.open()
    assert not reporter.read().has_started


async def test_a_prediction_that_never_runs_leaves_no_files(temporary: Path, tmp_path: Path):
    pool = new_process_pool()
    provider = FunctionProvider(draw, executor=pool)
    await provider.create(request(tmp_path / "signals"))
    await provider.aclose()  # before the first step of its task
    pool.shutdown()
    failed = await provider.create(request(tmp_path / "signals"))
    await provider.wait(failed.id, 10)
    assert (await provider.get(failed.id)).status == "failed"
    assert entries(temporary) == set()

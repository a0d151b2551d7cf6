"""The asyncio tasks of handlers, and the tasks that handlers start."""

import asyncio
import gc
from collections.abc import AsyncIterator, Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from picture_queue._runtime.tasks import ExitOfTask, HandlerTask, current_handler, guard_tasks


@pytest.fixture
def as_handler() -> Iterator[list[Any]]:
    """Let the worker treat the test as the handler `crop 2`; return the tasks that it starts."""
    started: list[Any] = []
    handler: Any = SimpleNamespace(add_started=started.append, get_name=lambda: "crop 2")
    token = current_handler.set(handler)
    yield started
    current_handler.reset(token)


async def raise_later(error: BaseException) -> None:
    await asyncio.sleep(0)
    raise error


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
async def test_an_exit_in_a_handlers_task_does_not_stop_the_event_loop(as_handler, error):
    guard_tasks()
    with pytest.raises(ExitOfTask) as exited:
        await asyncio.create_task(raise_later(error))
    assert exited.value.__cause__ is error


async def test_other_results_of_a_task_are_unchanged(as_handler):
    guard_tasks()
    with pytest.raises(ValueError, match="no"):
        await asyncio.create_task(raise_later(ValueError("no")))
    assert await asyncio.create_task(asyncio.sleep(0, "done")) == "done"
    assert len(as_handler) == 2
    waiting = asyncio.create_task(asyncio.Event().wait())
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_a_task_cancelled_before_its_first_step_causes_no_warning(as_handler):
    """pytest turns the warning of a coroutine that was never awaited into an error."""
    guard_tasks()
    task = asyncio.create_task(raise_later(ValueError()))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    del task
    gc.collect()


async def test_a_guarded_task_shows_its_name_and_stack(as_handler):
    guard_tasks()
    task = asyncio.create_task(raise_later(ValueError("no")), name="mine")
    assert task.get_name() == "mine"
    assert "raise_later" in repr(task)
    assert [frame.f_code.co_name for frame in task.get_stack()] == ["raise_later"]
    with pytest.raises(ValueError, match="no"):
        await task


async def test_tasks_outside_of_handlers_are_created_by_the_previous_task_factory():
    coroutines: list[Any] = []

    def factory(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> Any:
        coroutines.append(coroutine)
        return asyncio.Task(coroutine, loop=loop, **options)

    loop = asyncio.get_running_loop()
    loop.set_task_factory(factory)
    guard_tasks()
    guard_tasks()  # A second installation changes nothing.
    coroutine = raise_later(ValueError("no"))
    with pytest.raises(ValueError, match="no"):
        await loop.create_task(coroutine)
    assert coroutines == [coroutine]


def test_an_exit_outside_of_handlers_stops_the_event_loop():
    async def main(check: Callable[[], None]) -> None:
        check()
        await asyncio.create_task(raise_later(SystemExit(3)))

    with pytest.raises(SystemExit):
        asyncio.run(main(guard_tasks))


# --- Cancellation ---


async def wait_forever() -> None:
    await asyncio.Event().wait()


@pytest.fixture
async def task() -> AsyncIterator[HandlerTask]:
    task = HandlerTask(wait_forever(), name="resize 1")
    await asyncio.sleep(0)
    yield task
    task.cancel_from_outside()
    await asyncio.wait({task})


async def test_a_handler_cannot_cancel_the_task_of_another_handler(task, as_handler, caplog):
    assert not task.cancel()
    asyncio.get_running_loop().call_soon(task.cancel)
    await asyncio.sleep(0)
    assert not task.cancelling()
    assert "crop 2 cannot cancel resize 1: that task belongs to another handler" in caplog.text


async def test_a_handler_can_cancel_its_own_task():
    async def handle() -> None:
        current_handler.set(task)
        task.cancel()
        await asyncio.Event().wait()

    task = HandlerTask(handle())
    await asyncio.wait({task})
    assert task.cancelled()


async def test_code_outside_of_handlers_can_cancel_a_handlers_task(task):
    assert task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()


async def test_the_worker_can_cancel_the_task_of_a_handler(task, as_handler):
    task.cancel_from_outside()
    await asyncio.wait({task})
    assert task.cancelled()


async def test_cancelling_a_handler_that_awaits_the_task_of_another_does_not_cancel_that_task(task):
    async def handle() -> None:
        current_handler.set(waiting)
        await asyncio.gather(task, child)

    child = asyncio.create_task(wait_forever())
    waiting = HandlerTask(handle())
    await asyncio.sleep(0.01)
    waiting.cancel_from_outside()
    await asyncio.wait({waiting, child})
    assert waiting.cancelled()
    assert not task.cancelling()

"""The argument ``executor`` of a handler."""

import inspect
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Literal

from picture_queue._runtime.process_pool import ProcessExecutor
from picture_queue.errors import InvalidArgument

ExecutorFactory = Callable[[], Executor]
#: The value of ``executor=`` of a handler.
ExecutorChoice = Literal["thread", "process"] | ExecutorFactory


def factory_of(choice: object, job_type: str, is_async: bool) -> ExecutorFactory | None:
    """Return the factory of an executor; None: the handler runs in this process.

    Raises:
        InvalidArgument: The value is not an `ExecutorChoice`, or the handler is async.
    """
    if choice is None:
        return None
    is_class = inspect.isclass(choice) and issubclass(choice, Executor)
    if choice not in ("thread", "process") and (
        isinstance(choice, Executor) or not (callable(choice) or is_class)
    ):
        hint = 'Pass "thread", "process", or a function that returns an executor'
        raise InvalidArgument(f"The executor of {job_type!r} is {choice!r}", hint=hint)
    if is_async:
        raise InvalidArgument(
            f"The handler of {job_type!r} is async and has an executor",
            hint="Define it with def, or omit executor",
        )
    if choice == "thread":
        return None
    return ProcessExecutor if choice == "process" else choice  # type: ignore[return-value]

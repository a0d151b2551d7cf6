"""An executor that runs calls as tasks of Ray (extra ``ray``)."""

import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class _RayCall(Future[Any]):
    """A call that runs as a task of Ray."""

    reference: Any = None

    def cancel(self) -> bool:
        """End the task, even if it runs: Ray ends the process of the task."""
        if self.reference is None:
            return super().cancel()
        import ray

        ray.cancel(self.reference, force=True)
        return True


class RayExecutor(Executor):
    """An executor for handlers whose calls are tasks of Ray.

    Ray does not repeat a task that failed; the queue decides about another attempt.

    Args:
        task_options: Options of the tasks, such as ``{"num_gpus": 1}``.
        init_options: Arguments of `ray.init`, such as ``address="auto"``. They have no effect if
            the process is connected to Ray already.
    """

    def __init__(self, task_options: dict[str, Any] | None = None, **init_options: Any) -> None:
        import ray

        self._owns_connection = not ray.is_initialized()
        if self._owns_connection:
            ray.init(**init_options)
        options = {"num_cpus": 1, **(task_options or {}), "max_retries": 0}
        self._task = ray.remote(_call).options(**options)
        self._is_closed = False

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Start a task.

        Raises:
            RuntimeError: The executor is closed.
        """
        if self._is_closed:
            raise RuntimeError("cannot schedule new futures after shutdown")
        call = _RayCall()
        call.set_running_or_notify_cancel()
        call.reference = self._task.remote(fn, args, kwargs)
        threading.Thread(target=_wait, args=(call,), name="ray call", daemon=True).start()
        return call

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Refuse new calls, and disconnect from Ray, which ends tasks that still run."""
        self._is_closed = True
        if self._owns_connection:
            import ray

            ray.shutdown()


def _call(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return function(*args, **kwargs)


def _wait(call: _RayCall) -> None:
    import ray

    try:
        result = ray.get(call.reference)
    except BaseException as error:
        call.set_exception(error)
    else:
        call.set_result(result)

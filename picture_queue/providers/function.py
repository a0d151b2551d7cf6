"""A Python function of the project as a provider of pictures.

The function may use any library: diffusers, a client of ComfyUI, Pillow. Its predictions live in
the process of the worker. If the worker ends, its generations run again elsewhere, so a picture may
be made and paid for more than once.
"""

import asyncio
import contextlib
import contextvars
import functools
import inspect
from collections.abc import Callable, Mapping
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor
from typing import Any
from uuid import uuid4

from picture_queue._log import Lines, Log
from picture_queue._runtime.tasks import abandon
from picture_queue._runtime.threads import DaemonThreadPool
from picture_queue._text import clean_line, describe_error, make_storable, traceback_of
from picture_queue.errors import InvalidArgument
from picture_queue.providers import base, errors
from picture_queue.providers.function_call import call_function, encode_pictures
from picture_queue.providers.function_progress import FileReporter, MemoryReporter
from picture_queue.providers.function_run import Run, to_provider_error

_log = Log(__name__)

_MAX_ERROR = 8192  # characters of an error that the database stores
_CLOSE_TIMEOUT = 2.0  # seconds that `aclose` waits for the end of cancelled async functions
#: Parameters of a function that are not inputs of a model.
_OWN_PARAMETERS = ("progress", "model_id")


class FunctionProvider(base.Provider):
    """A provider that calls a function for each prediction.

    The function gets the inputs of the model as keyword arguments, such as ``prompt``. An input
    without a parameter of its name is refused, unless the function takes ``**inputs``. A parameter
    ``progress`` gets a `ProgressReporter`, and a parameter ``model_id`` the name of the model. The
    function returns the bytes of a picture, a path, a Pillow image, or a list of these.

    An exception fails the prediction. Exceptions of `providers.errors`, such as `ContentRefused`,
    keep their meaning. The attributes ``owner_message`` and ``retryable`` of other exceptions, such
    as `PermanentFailure`, are used too.

    An async function is cancelled like a task. A plain function cannot be stopped from outside: its
    call ``progress(…)`` raises `asyncio.CancelledError` once the prediction is cancelled. A plain
    function that never calls ``progress`` runs to its end, and its result is dropped.

    Args:
        function: A plain or async function.
        executor: The executor of a plain function: an `Executor`, which you shut down, or a
            function that creates an executor. That function is called again if the processes of
            the executor crash. None: an executor with one thread, so that one prediction runs at a
            time. For other processes the function and its result must be picklable, and progress
            needs the same directory for temporary files.
        max_bytes: Maximum size of a picture.
        retention: Seconds for which the pictures of an ended prediction are kept in memory.

    Raises:
        InvalidArgument: ``function`` is not a function, or is async and has an executor.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        executor: Executor | Callable[[], Executor] | None = None,
        max_bytes: int = 50_000_000,
        retention: float = 3600.0,
    ) -> None:
        if not callable(function):
            raise InvalidArgument("The provider is not a function", detail=repr(function)[:200])
        self._function = function
        self._is_async = _is_async(function)
        if self._is_async and executor is not None:
            raise InvalidArgument(
                f"{_name_of(function)} is async and has an executor",
                hint="Omit `executor`: an async function runs in the event loop of the worker",
            )
        try:
            self._signature = inspect.signature(function)
        except ValueError as error:  # some functions of C extensions have no signature
            raise InvalidArgument(
                f"The parameters of {_name_of(function)} are not known",
                hint="Wrap it in a function with named parameters",
            ) from error
        self._own_parameters = _accepted_names(self._signature)
        self._executor_option = executor
        self._executor: Executor | None = None
        self._max_bytes = max_bytes
        self._retention = retention
        self._runs: dict[str, Run] = {}
        self.capabilities = base.Capabilities(
            cancel=True, progress="progress" in self._own_parameters, recover="none"
        )

    def __repr__(self) -> str:
        return f"FunctionProvider({_name_of(self._function)})"

    async def create(self, request: base.PredictionRequest) -> base.Prediction:
        """Start the function; see `base.Provider.create`.

        Raises:
            InputRejected: The function has no parameter for an input, or misses one.
        """
        arguments = self._arguments(request)
        try:
            executor = None if self._is_async else self._current_executor()
        except Exception as error:  # raised by the user's function that creates an executor
            raise to_provider_error(error) from error
        in_process = executor is None or isinstance(executor, ThreadPoolExecutor)
        run = Run(uuid4().hex, MemoryReporter() if in_process else FileReporter())
        if "progress" in self._own_parameters:
            arguments["progress"] = run.reporter
        self._runs[run.id] = run
        work = self._execute(run, executor, arguments, request.timeout)
        # The task gets an empty context, because it may outlast the handler that started it.
        loop = asyncio.get_running_loop()
        run.task = contextvars.Context().run(loop.create_task, work)
        return run.to_prediction()

    async def get(self, prediction_id: str) -> base.Prediction:
        return self._find_run(prediction_id).to_prediction()

    async def cancel(self, prediction_id: str) -> base.Prediction:
        run = self._find_run(prediction_id)
        self._stop(run)
        return run.to_prediction()

    async def wait(self, prediction_id: str, seconds: float) -> None:
        run = self._runs.get(prediction_id)
        if run is None:
            return
        try:
            async with asyncio.timeout(seconds):
                await run.ended.wait()
        except TimeoutError:
            pass

    async def download(self, output: str) -> bytes:
        prediction_id, _, index = output.partition("/")
        run = self._runs.get(prediction_id)
        if run is None:
            raise errors.OutputExpired("The picture is no longer held by this process")
        return run.pictures[int(index)]

    def classify(self, prediction: base.Prediction) -> errors.ProviderError:
        run = self._runs.get(prediction.id)
        if run is not None and run.error is not None:
            return run.error
        return errors.PredictionFailed("The function failed", detail=prediction.error)

    async def release(self, prediction_id: str) -> None:
        run = self._runs.pop(prediction_id, None)
        if run is not None:
            self._stop(run)
            if run.expiry is not None:
                run.expiry.cancel()

    async def aclose(self) -> None:
        """Cancel all predictions, and shut down an executor that this object created."""
        runs, self._runs = list(self._runs.values()), {}
        for run in runs:
            self._stop(run)
            if run.expiry is not None:
                run.expiry.cancel()
        tasks = {run.task for run in runs if run.task is not None and not run.task.done()}
        if tasks:
            await asyncio.wait(tasks, timeout=_CLOSE_TIMEOUT)
        for task in tasks:
            abandon(task)
        if self._executor is not None and not isinstance(self._executor_option, Executor):
            self._executor.shutdown(wait=False, cancel_futures=True)
        self._executor = None

    def _arguments(self, request: base.PredictionRequest) -> dict[str, Any]:
        """Return the arguments of the function, without ``progress``."""
        arguments = dict(request.input)
        if "model_id" in self._own_parameters:
            arguments["model_id"] = request.model_id
        reserved = {"progress": None} if "progress" in self._own_parameters else {}
        try:
            self._signature.bind(**arguments, **reserved)
        except TypeError as error:
            text = clean_line(str(error))
            raise errors.InputRejected(
                f"{_name_of(self._function)} does not accept this input: {text}",
                owner_message=f"The model does not accept this input: {text}.",
            ) from None
        return arguments

    def _current_executor(self) -> Executor:
        if self._executor is None:
            option = self._executor_option
            if option is None:
                self._executor = DaemonThreadPool(1)
            else:
                self._executor = option if isinstance(option, Executor) else option()
        return self._executor

    async def _execute(
        self,
        run: Run,
        executor: Executor | None,
        arguments: Mapping[str, Any],
        timeout: float,
    ) -> None:
        """Call the function, and write its result or error to the run. Raises nothing."""
        clock = asyncio.get_running_loop().time
        started_at = clock()
        deadline = asyncio.timeout(timeout)
        try:
            async with deadline:
                if executor is None:
                    pictures = await self._call_async(run, arguments)
                else:
                    pictures = await self._call_in_executor(run, executor, arguments)
        except asyncio.CancelledError:
            self._end(run, "canceled")
        except GeneratorExit:  # the event loop was closed
            raise
        except BaseException as error:  # also SystemExit, which would stop the event loop
            if deadline.expired():
                run.reached_deadline = True
                has_started = run.reporter.read().has_started
                self._end(run, "canceled" if has_started else "aborted")
            else:
                self._fail(run, executor, error)
        else:
            run.pictures = pictures
            self._end(run, "succeeded")
        finally:
            run.duration = clock() - started_at
            run.reporter.cancel()  # asks a function that still runs to stop

    async def _call_async(self, run: Run, arguments: Mapping[str, Any]) -> list[bytes]:
        run.reporter.start()
        result = await self._function(**arguments)
        return await asyncio.to_thread(encode_pictures, result, self._max_bytes)

    async def _call_in_executor(
        self, run: Run, executor: Executor, arguments: Mapping[str, Any]
    ) -> list[bytes]:
        run.reporter.open()
        try:
            call: Future[list[bytes]] = executor.submit(
                call_function, self._function, dict(arguments), run.reporter, self._max_bytes
            )
        except BaseException:
            run.reporter.close()
            raise
        loop, ended = asyncio.get_running_loop(), asyncio.Event()

        def notify(_: object) -> None:
            with contextlib.suppress(RuntimeError):  # the event loop ended before the function
                loop.call_soon_threadsafe(ended.set)

        call.add_done_callback(notify)
        try:
            await ended.wait()
        except asyncio.CancelledError:
            # A call that runs cannot be cancelled. Its thread is busy until the function ends.
            if not call.running():
                call.cancel()
            raise
        finally:
            # A function that still runs uses the reporter until it ends.
            call.add_done_callback(lambda _: run.reporter.close())
        return call.result()

    def _fail(self, run: Run, executor: Executor | None, error: BaseException) -> None:
        if isinstance(error, BrokenExecutor) and executor is self._executor:
            self._executor = None  # its processes died, so the next run creates another executor
        text = describe_error(error)
        trace = Lines(traceback_of(error) or "")
        _log.warning("prediction %s: %s failed: %s%s", run.id, self, text, trace)
        run.error_text = make_storable(text, _MAX_ERROR)
        run.error = to_provider_error(error)
        self._end(run, "failed")

    def _stop(self, run: Run) -> None:
        """Cancel a run, unless it has ended."""
        run.reporter.cancel()
        if run.task is not None:
            run.task.cancel()
        self._end(run, "canceled")

    def _end(self, run: Run, status: str) -> None:
        """Write the final status of a run, unless it has one."""
        if run.status in base.FINAL_STATUSES:
            return
        run.status = status
        run.ended.set()
        if self._runs.get(run.id) is run:
            loop = asyncio.get_running_loop()
            run.expiry = loop.call_later(self._retention, self._expire, run)

    def _expire(self, run: Run) -> None:
        if self._runs.pop(run.id, None) is not None and run.pictures:
            _log.warning("prediction %s: its pictures were not stored in time", run.id)

    def _find_run(self, prediction_id: str) -> Run:
        run = self._runs.get(prediction_id)
        if run is None:
            raise errors.ResourceNotFound(
                "This process has no such prediction", detail=prediction_id[:200]
            )
        return run


def _accepted_names(signature: inspect.Signature) -> frozenset[str]:
    """Return the names in `_OWN_PARAMETERS` that a function accepts as keyword arguments."""
    keyword_kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    names = {p.name for p in signature.parameters.values() if p.kind in keyword_kinds}
    return frozenset(names.intersection(_OWN_PARAMETERS))


def _is_async(function: Callable[..., Any]) -> bool:
    while isinstance(function, functools.partial):
        function = function.func
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004 - an object with an async __call__
    )


def _name_of(function: object) -> str:
    return clean_line(str(getattr(function, "__qualname__", None) or type(function).__name__), 100)

"""Threads that draw the pictures of the simulator, and a bounded cache of the files."""

import asyncio
import functools
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

#: The drawings at the same time. A drawing holds a few hundred MB at most, and the interpreter lock
#: for a part of the time.
_MAX_DRAWINGS: Final = 2
_MAX_CACHED_BYTES: Final = 64_000_000


@dataclass
class _Drawing:
    """A drawing that waits for a thread or is being made.

    Args:
        call: The call in the thread.
        done: The same call, for the event loop.
        waiting: The number of callers that wait for the file.
    """

    call: Future[bytes]
    done: asyncio.Future[bytes]
    waiting: int = 0


class DrawingPool:
    """The drawings of a simulator, in threads of their own.

    The stack runs the simulator in the process of its gateway, and Auth computes password hashes in
    the default executor. In the default executor, a few large drawings would stop all sign-ups.
    """

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(_MAX_DRAWINGS, thread_name_prefix="simulator-drawing")
        self._drawings: dict[Hashable, _Drawing] = {}
        self._files: OrderedDict[Hashable, bytes] = OrderedDict()
        self._cached_bytes = 0

    async def draw(self, key: Hashable, function: Callable[[], bytes]) -> bytes:
        """Return a file from the cache, or else draw it.

        Callers with equal keys share a drawing. If the last of them is cancelled, a drawing that
        has not started is dropped. A thread cannot be stopped, so a drawing that has started goes
        on, and its file is cached.

        Args:
            key: The identity of the file.
            function: The function that draws the file. It runs in a thread.
        """
        if (file := self._files.get(key)) is not None:
            self._files.move_to_end(key)
            return file
        drawing = self._drawings.get(key) or self._start(key, function)
        drawing.waiting += 1
        try:
            return await asyncio.shield(drawing.done)
        finally:
            drawing.waiting -= 1
            if drawing.waiting == 0 and drawing.call.cancel():
                self._drawings.pop(key, None)

    def _start(self, key: Hashable, function: Callable[[], bytes]) -> _Drawing:
        call = self._executor.submit(function)
        drawing = self._drawings[key] = _Drawing(call, asyncio.wrap_future(call))
        drawing.done.add_done_callback(functools.partial(self._finish, key))
        return drawing

    def _finish(self, key: Hashable, done: asyncio.Future[bytes]) -> None:
        """Move the file of a finished drawing to the cache, and drop the oldest files."""
        if done.cancelled():
            return  # `draw` has removed the drawing, and may have started another with this key.
        del self._drawings[key]
        if done.exception() is not None:
            return
        self._files[key] = done.result()
        self._cached_bytes += len(done.result())
        while self._cached_bytes > _MAX_CACHED_BYTES:
            self._cached_bytes -= len(self._files.popitem(last=False)[1])

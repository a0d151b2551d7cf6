"""Has the database put itself in order, whichever worker asks."""

import logging
import random

from picture_queue import _rpc
from picture_queue.worker._link import Link
from picture_queue.worker._service import Service
from picture_queue.worker._signals import Signals

_log = logging.getLogger(__name__)

#: Seconds between two questions of a worker. The database decides whether there is anything to do:
#: it works once a minute, however many workers ask.
INTERVAL = 60.0
_ANSWER = 60.0  # seconds for an answer, repetitions included


class Housekeeper(Service):
    """Asks for maintenance from time to time.

    Args:
        link: Makes the calls.
        signals: For tests.
    """

    def __init__(self, link: Link, signals: Signals) -> None:
        super().__init__()
        self._link = link
        self._signals = signals

    async def _round(self) -> None:
        # Jitter: workers that were started together do not ask together for ever.
        await self._rest(INTERVAL * random.uniform(0.8, 1.2))  # noqa: S311
        if self.stopping:
            return
        try:
            await self._link.call(_rpc.maintain_jobs(), _ANSWER)
        except Exception as error:  # another worker, or the next round, fares better
            _log.debug("Maintenance was not done: %s", error)
            return
        self._signals.maintained.emit(None)

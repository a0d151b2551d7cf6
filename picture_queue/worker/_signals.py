"""Events inside a worker, for tests to wait for instead of sleeping.

SIGTERM and SIGINT are in `_stop_signals`.
"""


class Signals:
    """Receiver of the events of a worker. It ignores them; tests replace it."""

    def emit(self, event: str, *values: object) -> None:
        """Note that an event occurred.

        Args:
            event: One of ``idle`` (a claim found less than it asked for, twice in a row),
                ``claimed`` (the jobs of a claim that found some), ``settled`` (a job, and the name
                of its attempt's outcome or None), ``reported`` (a job, and the database's answer
                to its outcome), ``beaten`` (a heartbeat was answered), ``maintained`` (the answer
                to a call for maintenance) and ``listening`` (the number of queues whose wake-ups
                arrive).
            values: The values in brackets.
        """

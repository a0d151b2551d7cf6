"""The settings of the handler of generations."""

from dataclasses import dataclass


@dataclass(frozen=True)
class HandlerSettings:
    """The waits of the handler. Times in seconds.

    Attributes:
        deadline: Time a prediction gets from its creation, queue and cold start included. Replicate
            stops it then, even if this worker has ended.
        margin: Time beyond the deadline before the worker stops it itself.
        first_look: Time before the first poll of a prediction; None: an eighth of the model's
            typical time, within 0.25 and 1.
        longest_look: Longest time between two polls.
        grace: Time before an answer that could cost a paid prediction is asked for once more: the
            search after a create whose answer was lost, a refused read of the prediction, and an
            output that could not be fetched.
        undo: Time to cancel the prediction of a cancelled job.
        pause: Time a job waits if Replicate throttles it without saying how long, or is out of
            reach.
        outage: Time from the begin of a prediction for which an outage of Replicate, of the host of
            its output, or of the project costs no attempt. Replicate keeps the output for an hour.
        parallel: Pictures downloaded and stored at the same time.
    """

    deadline: float = 600.0
    margin: float = 30.0
    first_look: float | None = None
    longest_look: float = 5.0
    grace: float = 15.0
    undo: float = 10.0
    pause: float = 10.0
    outage: float = 3600.0
    parallel: int = 4

"""Settings of the handler of ``generate-image`` jobs."""

from dataclasses import dataclass


@dataclass(frozen=True)
class HandlerSettings:
    """The timeouts and intervals of the handler. Times in seconds.

    Attributes:
        prediction_timeout: Longest time from the creation of a prediction to its end, including its
            time in Replicate's queue and its cold start. Then Replicate stops the prediction, even
            if this worker has ended.
        stop_margin: Time after ``prediction_timeout`` after which the worker itself cancels the
            prediction.
        first_poll_interval: Time before the first poll of a prediction; None: an eighth of the
            model's typical run time, but at least 0.25 and at most 1.
        max_poll_interval: Longest time between two polls.
        recheck_delay: Time before a call is repeated if its unexpected result would lose a paid
            prediction: the search after a lost answer to a create call, a refused read of the
            prediction, and a failed download of its output.
        cancel_timeout: Longest time to cancel the prediction of a cancelled job.
        default_pause: Length of the pause if Replicate throttles the account without a
            ``Retry-After``, or cannot be reached.
        outage_tolerance: Time from the start of a prediction during which an outage of Replicate,
            of the host of its output, or of the project does not count as an attempt. Replicate
            keeps the output for an hour.
        max_parallel: Maximum number of pictures that are stored at the same time.
    """

    prediction_timeout: float = 600.0
    stop_margin: float = 30.0
    first_poll_interval: float | None = None
    max_poll_interval: float = 5.0
    recheck_delay: float = 15.0
    cancel_timeout: float = 10.0
    default_pause: float = 10.0
    outage_tolerance: float = 3600.0
    max_parallel: int = 4

"""Settings of the handler of generations."""

from dataclasses import dataclass

from picture_queue.generations.moderation import Moderation


@dataclass(frozen=True)
class HandlerSettings:
    """The timeouts and intervals of the handler in seconds, and its other settings.

    Attributes:
        prediction_timeout: Maximum time from the creation of a prediction to its end, including its
            time in the provider's queue and its cold start. The provider then stops the prediction,
            even if the worker is not running any more.
        stop_margin: Extra time after ``prediction_timeout``, after which the worker cancels a
            prediction that the provider has not stopped.
        first_poll_interval: Time before the first poll of a prediction; None: an eighth of the
            model's typical run time, but at least 0.25 and at most 1.
        max_poll_interval: Maximum time between two polls.
        park_after: Age of a prediction after which its job is parked: it is run again for each
            poll, and needs no slot of the worker in between.
        park_after_webhook: The value used instead of ``park_after`` if the provider reports the
            end of a prediction by a webhook, which then wakes the job.
        parked_poll_interval: Time between two polls of a parked job that waits for a webhook, since
            webhooks can be lost.
        polls_per_second: Maximum number of polls of all workers together. The time between two
            polls of a prediction rises with the number of predictions that are running. Replicate
            permits 50 calls a second (https://replicate.com/docs/topics/predictions/rate-limits).
        recheck_delay: Delay before a call to the provider is repeated because a wrong answer would
            lose a prediction that is paid for. Such calls are the search for a prediction after the
            answer to its creation was lost, a refused read of a prediction, and a failed download
            of its output.
        cancel_timeout: Maximum time to cancel the prediction of a cancelled job.
        default_pause: Length of the pause if the provider limits the rate of calls without a
            ``Retry-After``, or cannot be reached.
        outage_tolerance: Age of a prediction up to which an outage (of the provider, of the host
            of the output, or of the project) does not use up an attempt of the job. Pictures that
            cannot be stored by then are missing. The default is 50 minutes, because Replicate
            deletes the output after an hour.
        max_parallel: Maximum number of pictures that are stored at the same time.
        max_pixels: Maximum number of pixels of a picture, by default 16384 x 16384. A viewer needs
            4 bytes for each. For an animation, the pixels of all frames count.
        thumbnail_size: Longest side of a thumbnail in pixels; 0: pictures get no thumbnails.
        moderation: The functions of the project that may refuse prompts and pictures; None: all are
            accepted.
    """

    prediction_timeout: float = 600.0
    stop_margin: float = 30.0
    first_poll_interval: float | None = None
    max_poll_interval: float = 5.0
    park_after: float = 30.0
    park_after_webhook: float = 1.5
    parked_poll_interval: float = 30.0
    polls_per_second: float = 40.0
    recheck_delay: float = 15.0
    cancel_timeout: float = 10.0
    default_pause: float = 10.0
    outage_tolerance: float = 3000.0
    max_parallel: int = 4
    max_pixels: int = 2**28
    thumbnail_size: int = 512
    moderation: Moderation | None = None

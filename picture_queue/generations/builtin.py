"""The built-in worker, which generates pictures."""

from picture_queue._async.client import AsyncPictureQueue
from picture_queue._log import Log
from picture_queue.generations.handler import JOB_TYPE, image_handler
from picture_queue.generations.settings import HandlerSettings
from picture_queue.generations.store import GenerationStore, expect_api
from picture_queue.generations.thumbnails import ThumbnailMaker
from picture_queue.providers.replicate.client import ReplicateClient
from picture_queue.settings import ReplicateSettings, WorkerSettings
from picture_queue.worker import JobContext, Worker

_log = Log(__name__)

#: The timeout of one attempt, in seconds. It exceeds the timeout of a prediction, since an attempt
#: also stores the pictures, and may search for the prediction of an earlier attempt.
TIMEOUT = 900.0


def builtin_worker(
    client: AsyncPictureQueue,
    settings: WorkerSettings | None = None,
    replicate: ReplicateSettings | None = None,
    handling: HandlerSettings | None = None,
) -> Worker:
    """Create a worker with the handler of ``generate-image``.

    Without a Replicate token the handler is not registered: ``generate-image`` jobs stay pending,
    and `health` reports them.

    Args:
        client: A client with a service key; the caller closes it.
        settings: The settings of the worker.
        replicate: The token and the URL of Replicate; None if there is no token.
        handling: The settings of the handler.
    """
    worker = Worker(client, settings)
    if replicate is None:
        _log.warning(
            "REPLICATE_API_TOKEN is not set: %s jobs stay pending until a worker starts with it",
            JOB_TYPE,
        )
    else:
        add_generations(worker, client, replicate, handling)
    return worker


def add_generations(
    worker: Worker,
    client: AsyncPictureQueue,
    replicate: ReplicateSettings,
    handling: HandlerSettings | None = None,
) -> None:
    """Register the handler of ``generate-image`` on your own worker.

    Args:
        worker: A worker that is not running yet. It closes the connections to Replicate when it
            stops.
        client: The client of the worker's project.
        replicate: The token and the URL of Replicate.
        handling: The settings of the handler.

    Raises:
        SettingsError: The client has no URL of the project's API, which stores the pictures.
        InvalidArgument: The worker already has a handler for ``generate-image``, or is running.
        ValueError: The URL or the token of Replicate is invalid.
    """
    expect_api(client)
    api = ReplicateClient(replicate.token, base_url=replicate.base_url)

    def store_for(job: JobContext) -> GenerationStore:
        return GenerationStore(client._backend, job.id, job.lease_id)

    thumbnails = ThumbnailMaker((handling or HandlerSettings()).thumbnail_size)
    handler = image_handler(api, store_for, handling, thumbnails)
    worker.handler(JOB_TYPE, timeout=TIMEOUT)(handler)
    worker.after_stop(thumbnails.close)
    worker.after_stop(api.aclose)

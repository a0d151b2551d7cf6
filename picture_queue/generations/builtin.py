"""The built-in worker, which generates pictures."""

import logging

from picture_queue._async.client import AsyncPictureQueue
from picture_queue.generations.handler import JOB_TYPE, image_handler
from picture_queue.generations.settings import HandlerSettings
from picture_queue.generations.store import GenerationStore, expect_api
from picture_queue.providers.replicate.client import ReplicateClient
from picture_queue.settings import ReplicateSettings, WorkerSettings
from picture_queue.worker import JobContext, Worker

_log = logging.getLogger(__name__)

#: Seconds for one attempt: the deadline of a prediction, and time to search for a lost one and to
#: store the pictures.
TIMEOUT = 900.0


def builtin_worker(
    client: AsyncPictureQueue,
    settings: WorkerSettings | None = None,
    replicate: ReplicateSettings | None = None,
    handling: HandlerSettings | None = None,
) -> Worker:
    """Make a worker with the handler of ``generate-image``.

    Without a token that handler is left out: such jobs stay pending, and `health` names them.

    Args:
        client: The project, with a service key; it stays the caller's to close.
        settings: How to work.
        replicate: Token and address; None: there is no token.
        handling: How the handler waits for predictions.
    """
    worker = Worker(client, settings)
    if replicate is None:
        _log.warning(
            "REPLICATE_API_TOKEN is not set: %s jobs stay pending until a worker has it", JOB_TYPE
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
    """Register the handler of ``generate-image`` on a worker of yours.

    Args:
        worker: Not started yet; it closes the connections to Replicate when it stops.
        client: The project the worker works for.
        replicate: Token and address.
        handling: How the handler waits for predictions.

    Raises:
        SettingsError: The client has no address of the project's API, which stores the pictures.
        InvalidArgument: The worker has such a handler, or runs already.
        ValueError: The address or the token is not acceptable.
    """
    expect_api(client)
    api = ReplicateClient(replicate.token, base_url=replicate.base_url)

    def store_for(job: JobContext) -> GenerationStore:
        return GenerationStore(client._project, job.id, job.lease_id)

    worker.handler(JOB_TYPE, timeout=TIMEOUT)(image_handler(api, store_for, handling))
    worker.after_stop(api.aclose)

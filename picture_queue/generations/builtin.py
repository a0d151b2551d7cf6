"""The built-in worker, which generates pictures."""

from collections.abc import Mapping
from dataclasses import asdict, replace

from picture_queue._async.client import AsyncPictureQueue
from picture_queue._log import Log
from picture_queue.errors import InvalidArgument
from picture_queue.generations.delete_pictures import add_deletion
from picture_queue.generations.handler import JOB_TYPES, image_handler, job_type_of
from picture_queue.generations.moderation import Moderation
from picture_queue.generations.settings import HandlerSettings
from picture_queue.generations.store import GenerationStore, expect_api
from picture_queue.generations.thumbnails import ThumbnailMaker
from picture_queue.providers import registry
from picture_queue.settings import ReplicateSettings, WorkerSettings
from picture_queue.worker import JobContext, Worker

_log = Log(__name__)

#: The timeout of one attempt, in seconds. It is longer than the timeout of a prediction, because an
#: attempt also stores the pictures, and may search for the prediction of an earlier attempt.
TIMEOUT = 900.0


def builtin_worker(
    client: AsyncPictureQueue,
    settings: WorkerSettings | None = None,
    replicate: ReplicateSettings | None = None,
    handling: HandlerSettings | None = None,
) -> Worker:
    """Create a worker with the handlers of all kinds of generations, such as ``generate-image``.

    The worker also deletes the files of deleted generations.

    Without a Replicate token the handlers are not registered: jobs of generations stay pending, and
    `health` reports them.

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
            ", ".join(JOB_TYPES.values()),
        )
        if client._backend.api is not None:
            add_deletion(worker, client)
    else:
        add_generations(worker, client, replicate, handling)
    return worker


def add_generations(
    worker: Worker,
    client: AsyncPictureQueue | None = None,
    replicate: ReplicateSettings | None = None,
    handling: HandlerSettings | None = None,
    *,
    providers: Mapping[str, registry.ProviderLike] | None = None,
    moderation: Moderation | None = None,
) -> None:
    """Register the handlers of all kinds of generations of each provider on your own worker.

    The worker also gets the handler that deletes the files of deleted generations.

    Args:
        worker: A worker that is not running yet. It closes the providers when it stops.
        client: The client of the worker's project; None: that of the worker.
        replicate: The token and the URL of Replicate; short for ``providers={"replicate": …}``.
        handling: The settings of the handlers.
        providers: The providers by name: for each a function that makes a picture (see
            `FunctionProvider`), a `Provider`, or `ReplicateSettings`. The models in the database
            name their provider in the column ``provider``.
        moderation: Your functions that may refuse prompts and pictures; None: those of
            ``handling``, if any.

    Raises:
        SettingsError: The client has no URL of the project's API, which stores the pictures.
            Without ``client``, the start of the worker raises this error.
        InvalidArgument: There is no provider, a provider or its name is invalid, the worker already
            has a handler for one of the job types, or it is running.
        ValueError: The URL or the token of Replicate is invalid.
    """
    if client is not None:
        expect_api(client)
    by_name = dict(providers or {})
    if replicate is not None:
        if registry.REPLICATE in by_name:
            raise InvalidArgument("`replicate` is given, and so is providers['replicate']")
        by_name[registry.REPLICATE] = replicate
    if not by_name:
        raise InvalidArgument(
            "add_generations has no provider", hint="Pass replicate=… or providers={name: …}"
        )
    resolved = {name: registry.resolve(name, value) for name, value in by_name.items()}

    def store_for(job: JobContext) -> GenerationStore:
        job_client = client or worker._running_client
        assert job_client is not None  # noqa: S101 - the worker runs
        return GenerationStore(job_client._backend, job.id, job.lease_id)

    if moderation is not None:
        handling = replace(handling or HandlerSettings(), moderation=moderation)
    if client is None:
        worker._client_checks.append(expect_api)
    thumbnails = ThumbnailMaker((handling or HandlerSettings()).thumbnail_size)
    handler = image_handler(resolved, store_for, handling, thumbnails)
    worker.after_stop(thumbnails.close)
    for name, provider in resolved.items():
        for kind in JOB_TYPES:
            job_type = job_type_of(name, kind)
            worker.handler(job_type, timeout=TIMEOUT)(handler)
            worker._registry.set_capabilities(job_type, asdict(provider.capabilities))
        worker.after_stop(provider.aclose)
    add_deletion(worker, client)

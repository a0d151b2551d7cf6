"""``POST /process-jobs`` and ``POST /process-generation``: run jobs for services."""

from uuid import UUID

from pydantic_core import from_json
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from picture_queue._async.client import AsyncPictureQueue
from picture_queue.errors import Busy, InvalidArgument
from picture_queue.records import JobStatus
from picture_queue.web.access import ServiceAccess
from picture_queue.web.body import BodyReader
from picture_queue.web.job_runner import JobRunner
from picture_queue.web.responses import respond, respond_to_error

_MAX_BYTES = 64 * 1024  # of a body
_MAX_TOTAL_BYTES = 1024 * 1024
_MAX_WAITING = 32  # requests that wait for the end of a generation


class ProcessRoutes:
    """The routes that run jobs. A caller needs a secret of the service.

    Args:
        client: A client with a service key.
        access: The secrets.
        runner: The worker that runs jobs for requests.
    """

    def __init__(self, client: AsyncPictureQueue, access: ServiceAccess, runner: JobRunner) -> None:
        self._client = client
        self._access = access
        self._runner = runner
        self._bodies = BodyReader(_MAX_BYTES, _MAX_TOTAL_BYTES)
        self._waiting = 0
        self.routes = [
            Route("/process-jobs", self._process_jobs, methods=["POST"]),
            Route("/process-generation", self._process_generation, methods=["POST"]),
        ]

    async def _process_jobs(self, request: Request) -> Response:
        try:
            self._access.check(request.headers)
            result = await self._runner.run_due()
        except Exception as error:
            return respond_to_error(error, success=False)
        return respond({"success": True, "processed": result.processed, "errors": result.errors})

    async def _process_generation(self, request: Request) -> Response:
        try:
            self._access.check(request.headers)
            async with self._bodies.receive(request) as body:
                generation_id = _parse_body(body)
            generation = await self._client.generations.get(generation_id)
            if self._waiting >= _MAX_WAITING:
                raise Busy("Too many requests wait for generations")
            self._waiting += 1
            try:
                job = await self._runner.run_until_finished(generation.job_id)
            finally:
                self._waiting -= 1
        except ClientDisconnect:
            return Response(status_code=400)
        except Exception as error:
            return respond_to_error(error, success=False)
        content = {
            "success": job.status not in (JobStatus.FAILED, JobStatus.CANCELLED),
            "generation_id": str(generation.id),
            "job_id": str(job.id),
            "status": str(job.status),
        }
        return respond(content | ({"error": job.error} if job.error else {}))


def _parse_body(body: bytes) -> UUID:
    """Return the id of the generation.

    Raises:
        InvalidArgument: The body is not a JSON object with the id of a generation.
    """
    try:
        fields = from_json(body)
        value = fields["generation_id"] if isinstance(fields, dict) else None
        return UUID(value if isinstance(value, str) else "")
    except (ValueError, KeyError):
        raise InvalidArgument(
            "The body has no id of a generation",
            hint='Send {"generation_id": "<id>"}, with the id that /start-generation returned',
        ) from None

"""``POST /webhooks/<provider>``: apply the webhooks of a provider to its predictions."""

import asyncio
from collections.abc import Mapping
from uuid import UUID

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from picture_queue._async.client import AsyncPictureQueue
from picture_queue._log import Log
from picture_queue._rpc import predictions as _rpc
from picture_queue.errors import InvalidArgument, PictureQueueError
from picture_queue.providers import errors as provider_errors
from picture_queue.providers.base import Provider
from picture_queue.web.body import BodyReader, BodyRefused

_log = Log(__name__)

MAX_BYTES = 2 * 1024 * 1024  # of a webhook, which contains the input, the logs and the links
_MAX_TOTAL_BYTES = 32 * 1024 * 1024  # of all webhooks that are not verified; see `BodyReader`
_RETRY_AFTER = 5  # seconds, in the answer to a webhook for which there was no memory
_MAX_CALLS = 16  # calls of the database at the same time
_TIMEOUT = 8.0  # seconds for the call of the database; Replicate then delivers the webhook again


class ProviderWebhooks:
    """The endpoint of the webhooks of a provider.

    A webhook that cannot be applied now is answered with 503, and the provider delivers it
    again. A webhook that changes nothing, such as a repeated one, is answered with 200.

    Args:
        client: A client with a service key.
        provider: The provider that verifies the webhooks.
    """

    def __init__(self, client: AsyncPictureQueue, provider: Provider) -> None:
        self._client = client
        self._provider = provider
        self._calls = asyncio.Semaphore(_MAX_CALLS)
        self._bodies = BodyReader(MAX_BYTES, _MAX_TOTAL_BYTES)

    async def receive(self, request: Request) -> Response:
        """Verify a webhook and apply it."""
        try:
            async with self._bodies.receive(request) as body:
                prediction = await self._provider.verify_webhook(request.headers, body)
            row_id = UUID(request.query_params.get("prediction", ""))
        except ClientDisconnect:
            return Response(status_code=400)
        except BodyRefused as refused:
            # The server then reads no more of the body, and frees the memory of the connection.
            headers = {"Connection": "close"}
            if refused.status == 503:
                headers["Retry-After"] = str(_RETRY_AFTER)
            return _refuse(refused.status, str(refused), headers)
        except provider_errors.WebhookRefused as refused:
            return _refuse(401, str(refused))
        except provider_errors.ProviderError as error:
            _log.warning("a webhook could not be verified: %s", error)
            return _refuse(503, "the webhook cannot be verified now")
        except ValueError:
            return _refuse(400, "the query has no id of a prediction")
        progress = prediction.progress
        rpc = _rpc.receive_prediction(
            row_id,
            prediction.id,
            prediction.status,
            # 100 % is reached only when the pictures are stored.
            None if progress is None else min(progress.percent, 99),
            None if progress is None else progress.message,
        )
        del body, prediction  # frees the memory while the call waits for the semaphore
        try:
            async with asyncio.timeout(_TIMEOUT), self._calls:
                received = await self._client._backend.call(rpc)
        except InvalidArgument as error:
            # The status may be new, for example. The answer is 200, since a repetition is useless.
            _log.warning("prediction %s: a webhook was ignored: %s", row_id, error)
            return JSONResponse({"outcome": "ignored"})
        except (PictureQueueError, TimeoutError) as error:
            _log.warning("prediction %s: a webhook could not be applied: %s", row_id, error)
            return _refuse(503, "the webhook cannot be applied now")
        return JSONResponse({"outcome": received.outcome})


def _refuse(status: int, reason: str, headers: Mapping[str, str] | None = None) -> Response:
    return JSONResponse({"error": reason}, status, headers)

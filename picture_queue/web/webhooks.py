"""``POST /webhooks/replicate``: apply the webhooks of Replicate to their predictions."""

import asyncio
from uuid import UUID

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from picture_queue._async.client import AsyncPictureQueue
from picture_queue._log import Log
from picture_queue._rpc import predictions as _rpc
from picture_queue.errors import InvalidArgument, PictureQueueError
from picture_queue.providers.replicate.webhook import (
    InvalidBody,
    InvalidSignature,
    SecretUnknown,
    WebhookVerifier,
)
from picture_queue.web.body import BodyRefused, read_body

_log = Log(__name__)

MAX_BYTES = 2 * 1024 * 1024  # of a webhook; a prediction has its input, its logs and links
_MAX_CALLS = 16  # calls of the database at the same time
_TIMEOUT = 8.0  # seconds for the call of the database; Replicate then delivers the webhook again


class ReplicateWebhooks:
    """The endpoint of Replicate's webhooks.

    A webhook that cannot be applied now is answered with 503, and Replicate delivers it again for
    about a minute. A webhook that changes nothing, such as a repeated one, is answered with 200.

    Args:
        client: A client with a service key.
        verifier: The verifier of the signatures.
    """

    def __init__(self, client: AsyncPictureQueue, verifier: WebhookVerifier) -> None:
        self._client = client
        self._verifier = verifier
        self._calls = asyncio.Semaphore(_MAX_CALLS)

    async def receive(self, request: Request) -> Response:
        """Verify a webhook and apply it."""
        try:
            body = await read_body(request, MAX_BYTES)
            prediction = await self._verifier.verify(request.headers, body)
            row = UUID(request.query_params.get("prediction", ""))
        except ClientDisconnect:
            return Response(status_code=400)
        except BodyRefused as refused:
            return _refuse(refused.status, str(refused))
        except InvalidSignature as invalid:
            return _refuse(401, str(invalid))
        except InvalidBody as invalid:
            return _refuse(400, str(invalid))
        except ValueError:
            return _refuse(400, "the query has no id of a prediction")
        except SecretUnknown:
            return _refuse(503, "the signature cannot be verified now")
        bar = prediction.progress
        rpc = _rpc.receive_prediction(
            row,
            prediction.id,
            prediction.status,
            # 100 % is reached only when the pictures are stored.
            None if bar is None else min(bar.percent, 99),
            None if bar is None else f"generating, step {bar.step} of {bar.steps}",
        )
        del body, prediction  # while it waits for its turn
        try:
            async with asyncio.timeout(_TIMEOUT), self._calls:
                received = await self._client._backend.call(rpc)
        except InvalidArgument as error:
            # For example a new status: Replicate must not repeat it.
            _log.warning("prediction %s: a webhook was ignored: %s", row, error)
            return JSONResponse({"outcome": "ignored"})
        except (PictureQueueError, TimeoutError) as error:
            _log.warning("prediction %s: a webhook could not be applied: %s", row, error)
            return _refuse(503, "the webhook cannot be applied now")
        return JSONResponse({"outcome": received.outcome})


def _refuse(status: int, reason: str) -> Response:
    return JSONResponse({"error": reason}, status)

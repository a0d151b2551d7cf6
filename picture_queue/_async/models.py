"""Models that a project offers."""

from picture_queue._rpc import models as _rpc
from picture_queue._transport.backend import AsyncBackend
from picture_queue.records import Model


class AsyncModels:
    """The models that `generations.start` accepts."""

    def __init__(self, backend: AsyncBackend) -> None:
        self._backend = backend

    async def list(self) -> list[Model]:
        """Return the models, sorted by id."""
        return await self._backend.call(_rpc.list_models())

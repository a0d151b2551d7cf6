# Written by scripts/unasync.py from picture_queue/_async/models.py: edit that file.

"""Models that a project offers."""

from picture_queue._rpc import models as _rpc
from picture_queue._transport.backend_sync import Backend
from picture_queue.records import Model


class Models:
    """The models that `generations.start` accepts."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def list(self) -> list[Model]:
        """Return the models, sorted by id."""
        return self._backend.call(_rpc.list_models())

"""Models that a project offers."""

import builtins
from collections.abc import Mapping, Sequence
from typing import Any

from picture_queue._rpc import models as _rpc
from picture_queue._transport.backend import AsyncBackend
from picture_queue.errors import UnknownModel
from picture_queue.records import Model, ModelKind


class AsyncModels:
    """The models that `generations.start` accepts."""

    def __init__(self, backend: AsyncBackend) -> None:
        self._backend = backend

    async def list(
        self, *, kind: ModelKind | str | None = None, include_disabled: bool = False
    ) -> builtins.list[Model]:
        """Return the models, sorted by id.

        Args:
            kind: The kind of the models to return; None: any kind.
            include_disabled: True to return also models that are disabled or that no project can
                offer. Needs a service key.
        """
        return await self._backend.call(_rpc.list_models(kind, include_disabled))

    async def get(self, model_id: str) -> Model:
        """Return a model.

        Raises:
            UnknownModel: The project does not offer the model.
        """
        for model in await self.list():
            if model.model_id == model_id:
                return model
        raise UnknownModel(
            "This project does not offer that model",
            detail=f"model_id is {model_id!r}",
            hint="list_models() shows the models of this project",
        )

    async def set(
        self,
        model_id: str,
        *,
        kind: ModelKind | str | None = None,
        also_kinds: Sequence[ModelKind | str] | None = None,
        inputs: Sequence[Mapping[str, Any]] | None = None,
        **changes: Any,
    ) -> Model:
        """Add or change a model. Needs a service key.

        `picture_queue.providers.replicate.schema.fetch_model` reads the fields of a model from the
        API of Replicate.

        Args:
            model_id: The name of the model, ``owner/name``.
            kind: The main kind of its generations, required for a new model.
            also_kinds: The other kinds that the model can make.
            inputs: The inputs, required for a new model: objects with ``name`` and ``type``, and
                optionally ``format``, ``required``, ``default``, ``minimum``, ``maximum`` and
                ``enum``.
            **changes: Other fields of `Model` by name; None resets a field to its default.

        Returns:
            The model.

        Raises:
            InvalidArgument: A value is invalid; the error names the field and the value.
            Conflict: The default model of the project would be disabled.
        """
        if kind is not None:
            changes["kind"] = kind
        if also_kinds is not None:
            changes["also_kinds"] = [*also_kinds]
        if inputs is not None:
            changes["inputs"] = [dict(entry) for entry in inputs]
        return await self._backend.call(_rpc.set_model(model_id, changes))

    async def enable(self, model_id: str) -> Model:
        """Enable a model, so that generations can use it.

        Raises:
            InvalidArgument: The model cannot be offered; the error has the reason.
        """
        return await self.set(model_id, enabled=True)

    async def disable(self, model_id: str) -> Model:
        """Disable a model, so that no new generation can use it.

        Raises:
            Conflict: It is the default model of the project.
        """
        return await self.set(model_id, enabled=False)

"""The store of a generation."""

from typing import Any
from uuid import uuid4

from picture_queue.generations.store import GenerationStore


class Backend:
    """A backend that records the parameters of its calls."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []

    async def call(self, rpc: Any) -> None:
        self.calls.append(rpc.params)


async def test_an_error_with_characters_that_the_database_refuses_is_stored() -> None:
    backend: Any = Backend()
    store = GenerationStore(backend, uuid4(), uuid4())
    await store.finish(uuid4(), "failed", error="a\0b\ud800c" + "x" * 100_000)
    (params,) = backend.calls
    assert params["error"].startswith("a\ufffdb")
    assert "\0" not in params["error"]
    params["error"].encode()  # raises an error for a lone surrogate
    assert len(params["error"]) <= 8192

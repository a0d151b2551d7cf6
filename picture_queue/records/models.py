"""Models that a project offers."""

from typing import Any, Literal

from picture_queue.records.base import Record


class ProviderCapabilities(Record):
    """The promises of the provider of a model.

    Attributes:
        webhook: True if it reports the end of a prediction to a URL.
        cancel: True if it stops a prediction on request.
        progress: True if its predictions report their progress.
        recover: Effect of a crash of a worker. ``list``: a picture is paid for once.
            ``id``: as ``list``, unless the worker crashed while it asked for the picture. ``none``:
            the generation runs again.
    """

    webhook: bool = False
    cancel: bool = False
    progress: bool = False
    recover: Literal["list", "id", "none"] = "none"


class Model(Record):
    """A model that a project offers.

    Attributes:
        provider: Name of the provider that makes its pictures.
        inputs: Name, type and bounds of each input.
        capabilities: Promises of the provider; None until a worker with the provider runs.
    """

    model_id: str
    provider: str = "replicate"
    kind: str
    inputs: tuple[dict[str, Any], ...]
    typical_seconds: float | None
    price_usd_per_image: float | None
    capabilities: ProviderCapabilities | None = None
    default: bool = False

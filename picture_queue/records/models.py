"""Models that a project offers."""

from typing import Any

from picture_queue.records.base import Record


class Model(Record):
    """A model that a project offers; ``inputs`` has the name, type and bounds of each input."""

    model_id: str
    provider: str = "replicate"
    kind: str
    inputs: tuple[dict[str, Any], ...]
    typical_seconds: float | None
    price_usd_per_image: float | None
    default: bool = False

"""Settings of a project."""

from typing import Literal

from pydantic import ConfigDict

from picture_queue.records.base import Record


class Setting(Record):
    """The defaults and limits of a project; the SQL reference describes each of them."""

    model_config = ConfigDict(frozen=True, extra="allow", protected_namespaces=())

    max_payload_bytes: int
    max_result_bytes: int
    max_prompt_length: int
    max_user_uploads: int
    max_attempts: int
    timeout_seconds: float
    timeout_grace_seconds: float
    cancel_grace_seconds: float
    lease_seconds: float
    backoff_policy: str
    backoff_seconds: float
    backoff_cap_seconds: float
    backoff_jitter: float
    unknown_queue: Literal["create", "refuse"]
    keep_completed_seconds: float
    keep_cancelled_seconds: float
    keep_failed_seconds: float
    archive: bool
    keep_archive_months: int
    keep_generations_days: int | None = None
    default_model: str
    strip_metadata: bool
    estimate_usd_per_second: float

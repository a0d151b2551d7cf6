"""Calls about the predictions behind a generation, under the lease of its job."""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from picture_queue._rpc.base import Rpc, given, nothing, required
from picture_queue.records import BegunPrediction, FinalState, SavedImage


def begin_prediction(job_id: UUID, lease_id: UUID) -> Rpc[BegunPrediction]:
    params = required(job_id=job_id, lease_id=lease_id)
    return Rpc("begin_prediction", params, BegunPrediction.model_validate)


def record_prediction(
    job_id: UUID, lease_id: UUID, prediction: UUID, prediction_id: str
) -> Rpc[None]:
    params = given(
        job_id=job_id, lease_id=lease_id, prediction=prediction, prediction_id=prediction_id
    )
    return Rpc("record_prediction", params, nothing)


def finish_prediction(
    job_id: UUID,
    lease_id: UUID,
    prediction: UUID,
    state: FinalState,
    error: str | None = None,
    metrics: Mapping[str, Any] | None = None,
) -> Rpc[None]:
    params = given(
        job_id=job_id,
        lease_id=lease_id,
        prediction=prediction,
        state=state,
        error=error,
        metrics=metrics,
    )
    return Rpc("finish_prediction", params, nothing)


def save_images(job_id: UUID, lease_id: UUID, images: Sequence[SavedImage]) -> Rpc[None]:
    rows = [image.model_dump(mode="json") for image in images]
    return Rpc("save_images", given(job_id=job_id, lease_id=lease_id, images=rows), nothing)

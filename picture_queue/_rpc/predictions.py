"""Calls about the predictions of a generation; all but `receive_prediction` require a lease.

``prediction`` is the id of the row, ``prediction_id`` the id of the prediction at the provider.
"""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from picture_queue._rpc.base import Rpc, omit_none, parse_nothing
from picture_queue.records import (
    BegunPrediction,
    FinalState,
    MissingImage,
    ReceivedPrediction,
    SavedImage,
)


def begin_prediction(
    job_id: UUID, lease_id: UUID, lost: UUID | None = None
) -> Rpc[BegunPrediction]:
    params = omit_none(job_id=job_id, lease_id=lease_id, lost=lost)
    return Rpc("begin_prediction", params, BegunPrediction.model_validate)


def record_prediction(
    job_id: UUID, lease_id: UUID, prediction: UUID, prediction_id: str
) -> Rpc[None]:
    params = omit_none(
        job_id=job_id, lease_id=lease_id, prediction=prediction, prediction_id=prediction_id
    )
    return Rpc("record_prediction", params, parse_nothing)


def finish_prediction(
    job_id: UUID,
    lease_id: UUID,
    prediction: UUID,
    state: FinalState,
    error: str | None = None,
    metrics: Mapping[str, Any] | None = None,
) -> Rpc[None]:
    params = omit_none(
        job_id=job_id,
        lease_id=lease_id,
        prediction=prediction,
        state=state,
        error=error,
        metrics=metrics,
    )
    return Rpc("finish_prediction", params, parse_nothing)


def receive_prediction(
    prediction: UUID,
    prediction_id: str,
    status: str,
    progress: int | None = None,
    message: str | None = None,
) -> Rpc[ReceivedPrediction]:
    params = omit_none(
        prediction=prediction,
        prediction_id=prediction_id,
        status=status,
        progress=progress,
        message=message,
    )
    return Rpc("receive_prediction", params, ReceivedPrediction.model_validate)


def save_images(
    job_id: UUID,
    lease_id: UUID,
    images: Sequence[SavedImage],
    missing: Sequence[MissingImage] | None = None,
) -> Rpc[None]:
    params = omit_none(
        job_id=job_id,
        lease_id=lease_id,
        images=[image.model_dump(mode="json") for image in images],
        missing=None if missing is None else [image.model_dump(mode="json") for image in missing],
    )
    return Rpc("save_images", params, parse_nothing)

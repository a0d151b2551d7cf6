"""The search for predictions whose create call had no answer.

The search must not take or cancel the prediction of another row. A found prediction is not used if
another row has recorded its id. It is not used either if a live row with an equal input has
recorded no id yet and may have created it, unless the search found enough predictions for all such
rows. If a prediction is not used although it belongs to the row, the generation is paid for twice.
"""

from collections.abc import Sequence
from dataclasses import replace

from picture_queue._log import Log
from picture_queue.generations.input_files import name_files
from picture_queue.generations.store import GenerationStore
from picture_queue.providers.base import LostPrediction, PredictionRequest, Provider
from picture_queue.records import BegunPrediction

_log = Log(__name__)

_MAX_ROWS = 1000  # `begin_prediction` returns at most so many rows of other generations


async def find_candidates(
    provider: Provider,
    store: GenerationStore,
    begun: BegunPrediction,
    request: PredictionRequest,
    taken: set[str],
    *,
    to_cancel: bool = False,
) -> Sequence[LostPrediction]:
    """Return the predictions that a row may have created and that no other row may own.

    The database is asked after the provider. A row is committed before its prediction is created,
    so the rows of all predictions that the provider has listed are found.

    Args:
        provider: The provider of the row, whose capability ``recover`` is ``list``.
        store: The store of the generation's rows.
        begun: The row.
        request: The request of the row's create call.
        taken: The ids of predictions that are not searched for.
        to_cancel: True returns only predictions that no other row may own even in exchange for
            another one, because they are cancelled.
    """
    request = replace(request, input=name_files(store, begun))
    found = await provider.find_lost(request, taken)
    if not found:
        return []
    current = await store.begin(begun.prediction.id)

    free = [lost for lost in found if lost.prediction.id not in current.owned]
    # A prediction must not be cancelled if any other row may own it. But it may be used if each of
    # these rows has created a prediction: then any row may get any of the predictions.
    usable = 0 if to_cancel else sum(lost.is_certain and lost.has_equal_input for lost in free)

    def may_be_used(lost: LostPrediction) -> bool:
        # A prediction whose file could not be compared may be that of any row of the model.
        rows = current.equal_rows_without_id if lost.has_equal_input else current.rows_without_id
        owners = sum(map(lost.may_be_of, rows))
        if len(rows) >= _MAX_ROWS:
            return False
        return owners == 0 or (lost.is_certain and lost.has_equal_input and usable > owners)

    return [lost for lost in free if may_be_used(lost)]


async def cancel_identified(
    provider: Provider,
    store: GenerationStore,
    begun: BegunPrediction,
    request: PredictionRequest,
    taken: set[str],
) -> None:
    """Cancel the predictions that only this row can have created; see `find_candidates`."""
    if provider.capabilities.recover != "list":
        return
    for lost in await find_candidates(provider, store, begun, request, taken, to_cancel=True):
        if lost.is_certain and lost.has_equal_input:
            _log.info("prediction %s: cancelling %s", begun.prediction.id, lost.prediction.id)
            await provider.cancel(lost.prediction.id)

"""The kill test for half a minute; `make test-kill` runs it for five minutes."""

import pytest

from .__main__ import kill_everything


@pytest.mark.extra
@pytest.mark.timeout(400)
async def test_kills_lose_no_job_and_run_no_job_twice_under_a_lease():
    result = await kill_everything(30, workers=4, rate=15, seed=15)
    assert result.is_good, str(result)

"""Half a minute of the kill test; `make test-kill` runs five."""

import pytest

from .__main__ import kill_everything


@pytest.mark.extra
@pytest.mark.timeout(400)
async def test_no_job_is_lost_whatever_is_killed():
    result = await kill_everything(30, workers=4, rate=15, seed=15)
    assert result.is_good, str(result)

"""The workload for the cost of limits and fair sharing, in queues with and without them."""

import statistics
from typing import Any
from uuid import UUID

from engine.database import CLAIM_SIZE, Calls, Database
from engine.workload import Figure, Samples, Size, Workload

_USERS = [str(UUID(int=i + 1)) for i in range(20)]
# Limit keys, and the number of jobs of a key that may run at once; no limit is ever reached.
_RULES = (("user:*", 1000), ("model:a", 10_000), ("queue:limited", 5000))
_ROUNDS = 5  # The number of cycles in each of the three measurements of a turn.


def _user(number: int) -> str:
    return _USERS[number % len(_USERS)]


async def prepare_limits(database: Database, size: Size) -> None:
    """Create a plain queue and one with fair sharing."""
    async with database.connect() as calls:
        await calls.run("select set_queue('plain')")
        await calls.run("""select set_queue('limited', '{"fair_share": true}')""")


async def _median_cycle(calls: Calls, queue: str, **fields: Any) -> float:
    """Return the median duration of a claim and a report, in milliseconds."""
    await calls.fill_queue(queue, _ROUNDS * CLAIM_SIZE, user_id=_user, **fields)
    await calls.run_maintenance()
    return statistics.median([sum(await calls.cycle(queue)) for _ in range(_ROUNDS)])


async def measure_limits(database: Database, size: Size) -> Samples:
    """Time three cases: a plain queue, a limited queue, and the plain queue beside a limited one.

    In the third case only the other queue has a limit.
    """
    samples: Samples = {name: [] for name in LIMITS.figures}
    async with database.connect() as calls:
        for turn in range(max(size.rounds // 4, 1) + 1):
            plain = await _median_cycle(calls, "plain")
            for key, max_running in _RULES:
                await calls.run("select set_limit($1, $2)", key, max_running)
            limited = await _median_cycle(calls, "limited", options={"limit_keys": ["model:a"]})
            for key in ("user:*", "model:a"):  # These limits would apply to the plain queue too.
                await calls.run("select delete_limit($1)", key)
            unlimited = await _median_cycle(calls, "plain")
            await calls.run("select delete_limit('queue:limited')")
            if turn == 0:
                continue  # In the first turn Postgres plans the statements.
            samples["cycle_plain"].append(CLAIM_SIZE * 1000 / plain)
            samples["cycle_limited"].append(CLAIM_SIZE * 1000 / limited)
            samples["limits_cost"].append((1 - plain / limited) * 100)
            samples["unlimited_cost"].append((1 - plain / unlimited) * 100)
    return samples


LIMITS = Workload(
    "limits",
    {
        "cycle_plain": Figure("claim and report, no limits", "jobs/s"),
        "cycle_limited": Figure("claim and report, fair share and limits", "jobs/s"),
        "limits_cost": Figure("… cost of fair share and limits where used", "%", ("≤", 25)),
        "unlimited_cost": Figure("… cost in a plain queue while another has limits", "%"),
    },
    measure_limits,
    prepare_limits,
)

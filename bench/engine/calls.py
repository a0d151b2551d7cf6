"""Single calls: enqueue, claim, report and heartbeat, in an empty table and in a large table."""

import math
from uuid import uuid4

from engine.database import CLAIM_SIZE, JOB_TYPE, Calls, Database
from engine.workload import Figure, Samples, Size, Workload

_BULK = 10_000  # The number of jobs of a bulk enqueue.
_KEYS = 100  # The number of limit keys that the blocked jobs wait for.


async def _warm_up(calls: Calls, queue: str) -> None:
    # The first calls of a connection are not measured: during them Postgres plans the statements,
    # up to the sixth call, from which it uses a generic plan.
    await calls.fill_queue(queue, 6 * CLAIM_SIZE)
    for _ in range(6):
        await calls.cycle(queue)


async def measure_enqueue(database: Database, size: Size) -> Samples:
    """Time single and bulk enqueues."""
    async with database.connect() as calls:
        for _ in range(6):
            await calls.enqueue_job("enqueue")
        single = [await calls.enqueue_job("enqueue") for _ in range(size.rounds * 10)]
        await calls.enqueue_jobs("enqueue", _BULK)
        bulk = [await calls.enqueue_jobs("enqueue", _BULK) for _ in range(2)]
    return {"enqueue_one": single, "enqueue_bulk": [_BULK * 1000 / took for took in bulk]}


async def _time_cycles(calls: Calls, queue: str, rounds: int) -> Samples:
    claims, reports, heartbeats = [], [], []
    await calls.fill_queue(queue, rounds * CLAIM_SIZE)
    for _ in range(rounds):
        claim, jobs = await calls.claim_exactly(queue)
        claims.append(claim)
        heartbeats.append(await calls.heartbeat(jobs))
        reports.append(await calls.report(jobs))
    return {"claim": claims, "heartbeat": heartbeats, "report": reports}


async def measure_cycle(database: Database, size: Size) -> Samples:
    """Time claims, heartbeats and reports of 100 jobs and of one job."""
    async with database.connect() as calls:
        await _warm_up(calls, "cycle")
        samples = await _time_cycles(calls, "cycle", size.rounds)
        pairs = zip(samples["claim"], samples["report"], strict=True)
        samples["cycle"] = [CLAIM_SIZE * 1000 / (claim + report) for claim, report in pairs]
        rounds = size.rounds * 5
        await calls.fill_queue("single", rounds)
        single = [await calls.cycle("single", 1) for _ in range(rounds)]
        samples["claim_one"], samples["report_one"] = map(list, zip(*single, strict=True))
        samples["claim_none"] = [(await calls.claim("single", 1))[0] for _ in range(rounds)]
    return samples


async def prepare_other_types(database: Database, size: Size) -> None:
    """Enqueue jobs of a type that no claim asks for."""
    async with database.connect() as calls:
        await calls.fill_queue("mixed", size.scaled(200_000), job_type="unknown")
        await calls.run("analyze public.job_queue")


async def measure_other_types(database: Database, size: Size) -> Samples:
    """Time claims that must skip jobs of a type they do not ask for.

    The database may store for a short time which jobs a worker's claim skipped. The second claim of
    a worker may then be faster, so it is measured separately from the first.
    """
    samples: Samples = {"other_types_none": [], "other_types_one": [], "other_types_next": []}
    async with database.connect() as calls:
        for turn in range(size.rounds + 1):
            empty_claim, _ = await calls.claim("mixed", 1, worker="finds-nothing")
            worker = f"new-{uuid4()}"
            await calls.fill_queue("mixed", 2)
            first_claim, first_job = await calls.claim_exactly("mixed", 1, worker=worker)
            second_claim, second_job = await calls.claim_exactly("mixed", 1, worker=worker)
            await calls.report(first_job + second_job)
            if turn == 0:
                continue  # In the first turn Postgres plans the statements.
            samples["other_types_none"].append(empty_claim)
            samples["other_types_one"].append(first_claim)
            samples["other_types_next"].append(second_claim)
    return samples


# Finished jobs are inserted directly, because it takes minutes to enqueue, claim and report a
# million jobs. The effect on claims and reports is the same, since the other tables that they read
# have no rows for finished jobs.
_FINISHED = """
insert into public.job_queue (queue, job_type, status, attempt, started_at, finished_at)
select 'full', $1, 'completed', 1, now() - i * interval '10 milliseconds',
  now() - i * interval '10 milliseconds'
from generate_series(1, $2::integer) i
"""


async def prepare_large_table(database: Database, size: Size) -> None:
    """Write 1,000,000 finished, 200,000 scheduled and 100,000 blocked jobs."""
    async with database.connect() as calls:
        await calls.run(_FINISHED, JOB_TYPE, size.scaled(1_000_000))
        await calls.fill_queue("full", size.scaled(200_000), options={"delay_seconds": 86_400})
        await calls.run(
            "select pause_key('model:' || i) from generate_series(1, $1::integer) i", _KEYS
        )
        await calls.fill_queue(
            "full",
            size.scaled(100_000),
            options=lambda i: {"limit_keys": [f"model:{i % _KEYS + 1}"]},
        )
        # The jobs get the hold `blocked` from the enqueue, maintenance or a claim, depending on the
        # version of the SQL.
        for _ in range(math.ceil(size.scaled(100_000) / 1000) + 1):
            await calls.run_maintenance()
            if not (await calls.claim("full"))[1]:
                break
        await calls.run("vacuum analyze public.job_queue")


async def measure_large_table(database: Database, size: Size) -> Samples:
    """Time claims and reports in a table with many other jobs."""
    async with database.connect() as calls:
        await _warm_up(calls, "full")
        samples = await _time_cycles(calls, "full", size.rounds)
    return {"claim_large_table": samples["claim"], "report_large_table": samples["report"]}


ENQUEUE = Workload(
    "enqueue",
    {
        "enqueue_one": Figure("enqueue of one job", "ms"),
        "enqueue_bulk": Figure("enqueue of 10,000 jobs a call", "jobs/s", ("≥", 20_000)),
    },
    measure_enqueue,
)
CYCLE = Workload(
    "cycle",
    {
        "claim_none": Figure("claim that finds nothing", "ms"),
        "claim_one": Figure("claim of one job", "ms"),
        "report_one": Figure("report of one job", "ms"),
        "claim": Figure("claim of 100", "ms"),
        "heartbeat": Figure("heartbeat of 100", "ms"),
        "report": Figure("report of 100", "ms"),
        "cycle": Figure("claim and report, 100 a call", "jobs/s"),
    },
    measure_cycle,
)
OTHER_TYPES = Workload(
    "other-types",
    {
        "other_types_none": Figure("empty claim, 200,000 jobs of other types", "ms"),
        "other_types_one": Figure("… first claim of a worker, one job found", "ms"),
        "other_types_next": Figure("… its second claim, one job found", "ms"),
    },
    measure_other_types,
    prepare_other_types,
)
LARGE_TABLE = Workload(
    "large-table",
    {
        "claim_large_table": Figure("claim of 100, 1.3 million other jobs", "ms"),
        "report_large_table": Figure("… report of 100", "ms"),
    },
    measure_large_table,
    prepare_large_table,
)

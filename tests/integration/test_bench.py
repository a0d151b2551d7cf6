"""The benchmarks: the comparison with other queues, the engine benchmark, and that of generations.

The comparison refuses servers without fsync, and measurements with lost or repeated jobs. The
engine benchmark measures two versions of the SQL in turns.
"""

import asyncio
import sys
from pathlib import Path

import asyncpg
import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench"
sys.path[:0] = [str(BENCH)]

from compare.measure import InvalidMeasurement, open_bench, run_prefilled  # noqa: E402
from compare.report import (  # noqa: E402
    OURS,
    evaluate_targets,
    is_met,
    render_chart,
    render_markdown,
    summarize_rounds,
)
from compare.server import Server  # noqa: E402
from compare.systems import System  # noqa: E402
from engine.database import Calls, create_databases  # noqa: E402
from engine.report import summarize  # noqa: E402
from engine.workload import Figure, Size, Workload, measure_in_turns  # noqa: E402
from generations.report import LINES, is_passed  # noqa: E402
from generations.report import render_markdown as render_generations  # noqa: E402

COUNT_UNFINISHED = "select count(*) from job where status < 2 and scheduled_for <= now()"
# A driver that handles the job 0 instead of the job 7.
MISCOUNTING_DRIVER = """
import sys
sys.path.insert(0, {peers!r})
from driver import main
from raw import Raw

class Miscounting(Raw):
    async def work(self, handle, tuned):
        await super().work(lambda number: handle(0 if number == 7 else number), tuned)

main(Miscounting)
"""

# A driver that fails if it is a superuser or finds a password on its command line.
SPYING_DRIVER = """
import sys
sys.path.insert(0, {peers!r})
import asyncpg
from driver import main
from raw import Raw

class Spying(Raw):
    def __init__(self, dsn):
        super().__init__(dsn)
        assert dsn and not any("@" in word for word in sys.argv), sys.argv

    async def setup(self):
        connection = await asyncpg.connect(self.dsn)
        assert await connection.fetchval("show is_superuser") == "off"
        await connection.close()
        await super().setup()

main(Spying)
"""


@pytest.fixture
async def server(stack):
    dsn = Server(stack, None).dsn("template1")
    control = await asyncpg.connect(dsn)
    yield Server(stack, control)
    await control.close()


async def measure_system(server, system, jobs=300):
    await server.create(f"template_{system.name}")
    environment = system.environ(PEER_DSN=server.dsn(f"template_{system.name}", "postgres"))
    process = await asyncio.create_subprocess_exec(*system.command, "setup", env=environment)
    assert await process.wait() == 0
    async with open_bench(server, system, COUNT_UNFINISHED) as bench:
        await bench.run("prefill", n=jobs)
        return await run_prefilled(bench, jobs, 1)


async def test_a_server_that_is_not_durable_is_not_measured(server):
    # A stack in a temporary directory runs without fsync.
    with pytest.raises(RuntimeError, match="fsync"):
        await server.settings()


async def test_a_measurement_gives_a_rate_and_the_memory(server):
    raw = System("raw", (sys.executable, str(BENCH / "peers" / "raw.py")))
    figures = await measure_system(server, raw)
    assert figures["rate"] > 0
    assert figures["rss"] > 0


async def test_a_figure_with_a_repeated_and_a_missing_job_is_refused(server, tmp_path):
    program = tmp_path / "miscounting.py"
    program.write_text(MISCOUNTING_DRIVER.format(peers=str(BENCH / "peers")))
    with pytest.raises(InvalidMeasurement, match="299 of 300"):
        await measure_system(server, System("miscounting", (sys.executable, str(program))))


async def test_a_compared_system_gets_no_superuser_and_no_password_on_its_command_line(
    server, tmp_path
):
    program = tmp_path / "spying.py"
    program.write_text(SPYING_DRIVER.format(peers=str(BENCH / "peers")))
    figures = await measure_system(server, System("spying", (sys.executable, str(program))))
    assert figures["rate"] > 0


def test_workloads_with_different_round_counts_are_compared_by_medians():
    http, settings = "picture_queue_http", {"version": "1", "settings": {}}
    rounds = {
        ("enqueue_eight", http): [{"rate": 100}],
        ("enqueue_one", "procrastinate"): [{"rate": 400}, {"rate": 200}, {"rate": 100}],
    }
    results = summarize_rounds(rounds, {http: settings, "procrastinate": settings})
    assert [reached for _, reached in evaluate_targets(results)] == [0.5]


def test_targets_are_compared_with_the_median_of_the_ratios():
    descriptions = {name: {"version": "1", "settings": {}} for name in (OURS, "pgqueuer", "raw")}
    rounds = {
        ("enqueue_one", OURS): [{"rate": 90}, {"rate": 100}, {"rate": 900}],
        # The machine was slower in the first round, and faster in the last.
        ("enqueue_one", "pgqueuer"): [{"rate": 70}, {"rate": 200}, {"rate": 700}],
        ("enqueue_one", "raw"): [{"rate": 200}] * 3,
    }
    results = summarize_rounds(rounds, descriptions)
    assert results["enqueue_one"][OURS]["median"] == 100
    assert results["enqueue_one"][OURS]["max"] == 900
    met = {
        target.base_system: is_met(target, reached) for target, reached in evaluate_targets(results)
    }
    assert met == {"pgqueuer": True, "raw": False}
    text = render_markdown({"cpu": "one", "server_version": "17.10"}, results)
    assert "on Postgres 17.10" in text
    assert "**missed**" in text
    assert "100 (90.00 to 900.00)" in text or "100 (90 to 900)" in text
    assert "| enqueue_one | pgqueuer | 1.000 | 0.791 | +26% |" in text
    assert render_chart(results).startswith("<svg")


class NamedDatabase:
    def __init__(self, name):
        self.name = name


async def test_two_versions_of_the_sql_take_turns_and_each_turn_gives_a_ratio():
    order = []
    milliseconds = {"new": [10, 30, 20], "old": [10, 10, 40]}

    async def measure(database, size):
        order.append(database.name)
        return {"call": [milliseconds[database.name].pop(0)] * 3}

    workload = Workload("calls", {"call": Figure("a call", "ms", ("≤", 15))}, measure)
    databases = [NamedDatabase("new"), NamedDatabase("old")]
    turns = await measure_in_turns(workload, databases, Size(turns=3))
    assert order == ["new", "old", "old", "new", "new", "old"]
    summary = summarize(workload, turns)["call"]
    assert summary["ratio"] == {"min": 0.5, "median": 1.0, "max": 3.0, "turns": 3}
    assert summary["new"] == {"median": 20, "p95": 30, "met": False}
    assert summary["old"] == {"median": 10, "p95": 40, "met": True}


def test_a_single_version_of_the_sql_has_no_ratio():
    workload = Workload("calls", {"call": Figure("a call", "jobs/s", ("≥", 5))}, None)
    summary = summarize(workload, {"new": [{"call": [1.0, 9.0, 9.0]}]})["call"]
    assert summary == {
        "what": "a call",
        "unit": "jobs/s",
        "bound": "≥ 5",
        "new": {"median": 9.0, "p95": 1.0, "met": True},
    }


async def test_a_workload_cleans_up_after_an_error():
    finished = []

    async def measure(database, size):
        raise RuntimeError("no jobs")

    async def finish(database, size):
        finished.append(database.name)

    workload = Workload("calls", {}, measure, finish=finish)
    with pytest.raises(RuntimeError, match="no jobs"):
        await measure_in_turns(workload, [NamedDatabase("new"), NamedDatabase("old")], Size())
    assert finished == ["new", "old"]


class FakeConnection:
    def __init__(self, *answers):
        self.queries = []
        self._answers = list(answers)

    async def fetchval(self, query, *arguments):
        self.queries.append(query)
        return self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]


async def test_maintenance_calls_the_function_of_the_version():
    new = FakeConnection('{"leased": false, "next_in": 0.25}')
    assert (await Calls(new, True).maintain("w"))[1] == 0.25
    assert "maintain_jobs(worker" in new.queries[0]
    old = FakeConnection("[]")
    assert (await Calls(old, False).maintain("w"))[1] == 1.0
    assert "claim_jobs" in old.queries[0]


async def test_maintenance_is_measured_with_its_lease():
    refused, leased = '{"leased": false, "next_in": 0.01}', '{"leased": true, "next_in": 1}'
    connection = FakeConnection(refused, refused, leased)
    await Calls(connection, True).acquire_maintenance_lease("w")
    assert len(connection.queries) > 3


async def test_a_database_of_the_working_tree_can_be_measured(server):
    (database,) = await create_databases(server, None)
    async with database.connect() as calls:
        await calls.fill_queue("q", 3)
        claim, jobs = await calls.claim_exactly("q", 3)
        assert claim > 0
        assert await calls.heartbeat(jobs) > 0
        assert await calls.report(jobs) > 0
        await calls.maintain()
        with pytest.raises(RuntimeError, match="0 of 1 jobs of queue q"):
            await calls.claim_exactly("q", 1)


async def test_an_unknown_baseline_is_refused(server):
    with pytest.raises(SystemExit, match="no-such-ref"):
        await create_databases(server, "no-such-ref")


def test_the_report_of_generations_fails_if_one_figure_misses_its_bound():
    kept = {name: line.bound for name, line in LINES.items() if line.bound is not None}
    for name in kept:
        report = {"machine": {"cores": 2}, "details": {}, "errors": {}, "values": kept}
        assert is_passed(report)
        assert "FAIL" not in render_generations(report)
        report["values"] = {**kept, name: kept[name] + 0.01}
        assert not is_passed(report)
        assert render_generations(report).count("FAIL") == 1
    failed = {"machine": {}, "details": {}, "errors": {"flight": "no answer"}, "values": {}}
    assert not is_passed(failed)
    assert "flight failed: no answer" in render_generations(failed)

"""The comparison measures only what is durable, and only jobs that were done once."""

import asyncio
import sys
from pathlib import Path

import asyncpg
import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench"
sys.path[:0] = [str(BENCH)]

from compare.measure import Unsound, bench, drain  # noqa: E402
from compare.report import OURS, chart, is_met, markdown, summary, verdicts  # noqa: E402
from compare.server import Server  # noqa: E402
from compare.systems import System  # noqa: E402

UNFINISHED = "select count(*) from job where status < 2 and scheduled_for <= now()"
LIAR = """
import sys
sys.path.insert(0, {peers!r})
from driver import main
from raw import Raw

class Liar(Raw):
    async def work(self, handle, tuned):
        await super().work(lambda number: handle(0 if number == 7 else number), tuned)

main(Liar)
"""


@pytest.fixture
async def server(stack):
    made = Server(stack, None)
    control = await asyncpg.connect(made.dsn("template1"))
    yield Server(stack, control)
    await control.close()


async def measured(server, system, jobs=300):
    await server.make(f"template_{system.name}")
    template = f"--dsn={server.dsn(f'template_{system.name}')}"
    process = await asyncio.create_subprocess_exec(*system.command, "setup", template)
    assert await process.wait() == 0
    async with bench(server, system, UNFINISHED) as found:
        await found.run("prefill", n=jobs)
        return await drain(found, jobs, 1)


async def test_a_server_that_is_not_durable_is_not_measured(server):
    with pytest.raises(RuntimeError, match="fsync"):  # this one is thrown away with its data
        await server.settings()


async def test_each_job_is_counted_by_its_number(server):
    raw = System("raw", (sys.executable, str(BENCH / "peers" / "raw.py")))
    figures = await measured(server, raw)
    assert figures["rate"] > 0
    assert figures["rss"] > 0


async def test_a_job_done_twice_and_one_left_out_spoil_the_figure(server, tmp_path):
    program = tmp_path / "liar.py"
    program.write_text(LIAR.format(peers=str(BENCH / "peers")))
    with pytest.raises(Unsound, match="299 of 300"):
        await measured(server, System("liar", (sys.executable, str(program))))


def test_workloads_measured_unequally_often_are_judged_by_their_medians():
    http, settings = "picture_queue_http", {"version": "1", "settings": {}}
    rounds = {
        ("enqueue_eight", http): [{"rate": 100}],
        ("enqueue_one", "procrastinate"): [{"rate": 400}, {"rate": 200}, {"rate": 100}],
    }
    results = summary(rounds, {http: settings, "procrastinate": settings})
    assert [reached for _, reached in verdicts(results)] == [0.5]


def test_targets_are_judged_by_the_medians_of_the_rounds():
    said = {name: {"version": "1", "settings": {}} for name in (OURS, "pgqueuer", "raw")}
    rounds = {
        ("enqueue_one", OURS): [{"rate": 90}, {"rate": 100}, {"rate": 900}],
        # The machine was slower in the first round, and faster in the last.
        ("enqueue_one", "pgqueuer"): [{"rate": 70}, {"rate": 200}, {"rate": 700}],
        ("enqueue_one", "raw"): [{"rate": 200}] * 3,
    }
    results = summary(rounds, said)
    assert results["enqueue_one"][OURS]["median"] == 100
    assert results["enqueue_one"][OURS]["max"] == 900
    judged = {target.than: is_met(target, reached) for target, reached in verdicts(results)}
    assert judged == {"pgqueuer": True, "raw": False}
    text = markdown({"cpu": "one", "server_version": "17.10"}, results)
    assert "on Postgres 17.10" in text
    assert "**missed**" in text
    assert "100 (90.00 to 900.00)" in text or "100 (90 to 900)" in text
    assert "| enqueue_one | pgqueuer | 1.000 | 0.791 | +26% |" in text
    assert chart(results).startswith("<svg")

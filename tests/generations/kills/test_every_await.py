"""A worker is killed with SIGKILL before and after each await of the handlers of generations.

Another worker takes over. At the end every prediction belongs to one row, no generation has two
predictions that were not cancelled, the ledger is balanced, and the pictures, their rows and their
files agree.

The awaits are not listed: `await_points` instruments all of them, and a first run of each scenario
shows the points that it reaches.
"""

from collections.abc import AsyncIterator, Iterator

import pytest

from picture_queue.local.stack import LocalSupabase

from .await_points import PACKAGES, ROOT, Point, list_sites
from .project import Project, Victim, open_project
from .scenarios import SCENARIOS

#: The scenarios of `make test`, and the number of points of each.
QUICK = {"several outputs": 12, "cancelled while storing": 12, "all pictures refused": 6}
HANDLERS = "picture_queue.generations"
#: The awaits that no scenario reaches, as the module and a part of the line, with the reason.
NOT_REACHED = {
    ("_tasks", "timeout=_CANCEL_TIMEOUT"): "the task of the handler does not end when cancelled",
    ("handler", "await self._manager.abandon()"): "the lease has ended, so no takeover follows",
    ("handler", '"canceled", "overdue"'): "the provider can neither cancel nor stop",
    ("lost_predictions", "await provider.cancel("): "a create call takes effect after its search",
    ("predictions", "await self._attach_to_recorded("): "a webhook arrives during the search",
    ("predictions", 'await self._store.finish(begun.prediction.id, "canceled")'): "no prediction",
    ("predictions", "The worker has no such provider"): "no prediction",
    ("predictions", '"lost", error=str(error)'): "the provider has lost a paid prediction",
    ("store", "client.version()"): "called at the start of a demo",
    ("store", 'StorageCall("GET", f"bucket/{BUCKET}")'): "called at the start of a demo",
    ("store_images", "await self._store.delete_files(sorted(self._paths))"): "an upload failed",
    ("store_images", "await self._store.save_images(images)"): "the worker stops",
}


@pytest.fixture(scope="module")
def killing_stack() -> Iterator[LocalSupabase]:
    """A stack of its own, so that the ledger has only generations of this test."""
    with LocalSupabase(replicate_seconds=0.05) as stack:
        yield stack


@pytest.fixture
async def project(killing_stack: LocalSupabase) -> AsyncIterator[Project]:
    async with open_project(killing_stack) as project:
        yield project


def choose_points(
    reached: list[tuple[Point, tuple[int, int]]], max_occurrence: int = 1
) -> list[Point]:
    """Return the first and the last point of each step of a task.

    A task is not suspended within a step, so no call has an effect on other processes between two
    points of a step. A poll is the same whenever it is repeated, so later occurrences are left out.
    """
    steps: dict[tuple[int, int], list[Point]] = {}
    for point, step in reached:
        steps.setdefault(step, []).append(point)
    chosen = {point: None for points in steps.values() for point in (points[0], points[-1])}
    return [point for point in chosen if point.occurrence <= max_occurrence]


def quote_line(site: str) -> str:
    """Return a site with its line of the source."""
    module, line, *_ = site.split(":")
    path = ROOT.joinpath(*module.split(".")).with_suffix(".py")
    return f"{site}: {path.read_text().splitlines()[int(line) - 1].strip()}"


def is_excepted(site: str) -> bool:
    """Return whether `NOT_REACHED` has a site."""
    line = quote_line(site)
    return any(f".{module}:" in line and text in line for module, text in NOT_REACHED)


async def kill_at(project: Project, points: list[Point]) -> tuple[list[Victim], set[str]]:
    """Kill a worker at each point and let another take over; return unreached points and sites."""
    victims = [await project.start(point) for point in points]
    unreached = await project.kill(victims)
    sites = await project.take_over(victims)
    problems = await project.find_problems(victims)
    assert not problems, "\n".join([f"{len(problems)} problems:", *problems[:20]])
    return unreached, sites


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", QUICK)
async def test_a_generation_survives_the_death_of_its_worker_at_some_awaits(
    project: Project, name: str
) -> None:
    await project.prepare(name)
    points = choose_points(await project.record())
    assert len(points) >= 40
    sample = points[:: len(points) // QUICK[name]]
    unreached, _ = await kill_at(project, sample)
    assert len(unreached) <= len(sample) // 4


# In `make test`, the test above kills workers at some of these points.
@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", SCENARIOS)
async def test_a_generation_survives_the_death_of_its_worker_at_every_await(
    project: Project, name: str
) -> None:
    await project.prepare(name)
    reached = await project.record()
    points = choose_points(reached, max_occurrence=2)
    unreached, _ = await kill_at(project, points)
    print(f"{name}: killed at {len(points) - len(unreached)} of {len(points)} points", end=", ")
    print(f"of {len({point.site for point, _ in reached})} awaits")
    # The number of polls of a prediction differs between runs.
    assert len(unreached) <= len(points) // 10


@pytest.mark.slow
@pytest.mark.timeout(1200)
async def test_every_await_of_the_handlers_is_reached_by_a_scenario(project: Project) -> None:
    sites = set()
    for name in SCENARIOS:
        await project.prepare(name)
        reached = await project.record()
        sites |= {point.site for point, _ in reached}
        interval = 2 if name == "cancelled while storing" else 8
        _, sites_of_successor = await kill_at(project, choose_points(reached)[::interval])
        sites |= sites_of_successor
    expected = set(list_sites([HANDLERS]))
    assert len(expected) >= 120
    print(f"reached {len(sites & expected)} of {len(expected)} awaits of {HANDLERS}")
    print(f"and {len(sites - expected)} of {len(set(list_sites(PACKAGES)) - expected)} others")
    unreached = [site for site in sorted(expected - sites) if not is_excepted(site)]
    assert not unreached, "\n".join(["no scenario reaches:", *map(quote_line, unreached)])

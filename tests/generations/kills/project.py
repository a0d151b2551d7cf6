"""A project whose workers are killed, and the checks of what their successor leaves."""

import asyncio
import io
import json
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import httpx
from PIL import Image

from picture_queue import AsyncPictureQueue
from picture_queue._transport.base import StorageCall
from picture_queue.generations.delete_pictures import JOB_TYPE as DELETION
from picture_queue.generations.handler import JOB_TYPES, job_type_of
from picture_queue.local.stack import LocalSupabase
from tests.sql.ledger_queries import UNBALANCED, WRONG_ACCOUNTS, WRONG_COSTS

from .await_points import ROOT, Point
from .scenarios import OWN_PROVIDER, SCENARIOS, Scenario

KILLED = -9  # the exit code of a process that SIGKILL has ended
_KILL_TIMEOUT, _TAKEOVER_TIMEOUT = 60, 180  # seconds for a worker
_INSERT_MODEL = """
insert into picture_queue.model (model_id, provider, kind, inputs, price_usd_per_image)
values ($1, $2, 'text-to-image', '[{"name": "prompt", "type": "string", "required": true}]', 0.01)
on conflict do nothing
"""
_INSERT_COMPLETED = """
insert into generations (id, user_id, job_id, model_id, prompt, status)
values ($1, $2, gen_random_uuid(), $3, $4, 'completed')
"""
_JOB_OF_DELETION = "select job_id from picture_queue.deleted_generation where generation_id = $1"
_BUDGET = {"per_minute": 10_000, "per_hour": 10_000, "max_pending": 10_000, "needs_credits": True}
#: Predictions of ended jobs without a final state. They would count as running, and a worker would
#: neither cancel them nor resume them.
_LIVE_ROWS = """
select p.generation_id, p.state, j.status from picture_queue.prediction p
join job_queue j on j.id = p.job_id
where p.state in ('creating', 'created') and j.finished_at is not null
"""
#: The files of a folder, without the copies of inputs, which have no row.
_FILES = """
select name from storage.objects
where bucket_id = 'pictures' and name like $1 || '/%' and (name not like $1 || '/inputs/%' or $2)
"""
_UNFINISHED = """
select id, status, hold, message, error from job_queue where id = any ($1) and finished_at is null
"""


@dataclass
class Victim:
    """A generation whose worker is killed.

    Attributes:
        queue: The queue of its jobs, which only its worker serves.
        prompt: The prompt, which no other generation has.
        generations: The ids of the generation and of the further steps of its chain.
        jobs: The ids of their jobs.
        point: The point at which the worker is killed; None: the worker is not killed.
    """

    queue: str
    prompt: str
    generations: list[UUID]
    jobs: list[UUID]
    point: Point | None


@dataclass
class Program:
    """The program that runs and kills workers; see `__main__`."""

    process: asyncio.subprocess.Process

    async def run(self, plan: dict[str, Any]) -> dict[str, Any]:
        """Run the workers of a plan, and return the answer."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(plan).encode() + b"\n")
        answer: dict[str, Any] = json.loads(await self.process.stdout.readline())
        return answer


class Project:
    """A project with a simulator, for one scenario at a time."""

    def __init__(
        self,
        stack: LocalSupabase,
        sql: Any,
        client: AsyncPictureQueue,
        simulator: httpx.AsyncClient,
        program: Program,
    ) -> None:
        self._stack = stack
        self._sql = sql
        self._client = client
        self._simulator = simulator
        self._program = program
        self._name = ""
        self._user = uuid4()

    @property
    def _scenario(self) -> Scenario:
        return SCENARIOS[self._name]

    async def prepare(self, name: str) -> None:
        """Prepare a scenario: set the faults of the simulator, and create a user with credits."""
        self._name, self._user = name, uuid4()
        for model in {self._scenario.model, *self._scenario.steps}:
            await self._sql.execute(_INSERT_MODEL, model, OWN_PROVIDER)
        await self._sql.execute("""select set_setting('{"backoff_seconds": 0.01}')""")
        budget = json.dumps(_BUDGET)
        await self._sql.execute("select set_budget($1, $2)", f"user:{self._user}", budget)
        await self._sql.execute("select grant_credits($1, 1000)", self._user)
        (await self._simulator.post("reset")).raise_for_status()
        for fault in self._scenario.faults:
            answer = await self._simulator.post("faults", json={"count": 10_000, **fault})
            answer.raise_for_status()

    async def start(self, point: Point | None = None) -> Victim:
        """Start a generation, or a deletion of one, in a queue of its own."""
        queue, prompt = f"kill-{uuid4().hex}", f"a lighthouse {uuid4()}"
        # The policy of a job type decides the queue of its next jobs.
        policies = {
            job_type_of(provider, kind): {"queue": queue}
            for kind in JOB_TYPES
            for provider in ("replicate", OWN_PROVIDER)
        }
        policies[DELETION] = {"queue": queue}
        register = "select register_worker('starter', array[$1], $2)"
        await self._sql.execute(register, queue, json.dumps(policies))
        if self._scenario.deletes:
            generation_id = await self._insert_generation_with_files(prompt)
            await self._client.generations.delete(generation_id)
            job_id = await self._sql.fetchval(_JOB_OF_DELETION, generation_id)
            return Victim(queue, prompt, [generation_id], [job_id], point)
        model_input = dict(self._scenario.input)
        if self._scenario.uploads and not self._scenario.has_upload:
            model_input[self._scenario.uploads] = f"storage:uploads/{self._user}/missing.png"
        elif self._scenario.uploads:
            picture = io.BytesIO()
            Image.new("RGB", (32, 32), "navy").save(picture, "PNG")
            model_input[self._scenario.uploads] = await self._client.generations.upload(
                picture.getvalue(), user_id=self._user
            )
        started = await self._client.generations.start(
            prompt,
            self._scenario.model,
            model_input,
            user_id=self._user,
            then=[{"model_id": model, "prompt": prompt} for model in self._scenario.steps],
        )
        steps = [started, *(started.steps or ())]
        ids, jobs = [step.id for step in steps], [step.job_id for step in steps]
        return Victim(queue, prompt, ids, jobs, point)

    async def _insert_generation_with_files(self, prompt: str) -> UUID:
        """Insert a completed generation, and store two files in its folder."""
        generation_id = uuid4()
        insert = (_INSERT_COMPLETED, generation_id, self._user, self._scenario.model, prompt)
        await self._sql.execute(*insert)
        for name in ("1.png", "inputs/2.png"):
            path = f"object/pictures/{self._user}/{generation_id}/{name}"
            call = StorageCall("POST", path, b"data", {"Content-Type": "image/png"})
            await self._client._backend.storage(call)
        return generation_id

    async def record(self) -> list[tuple[Point, tuple[int, int]]]:
        """Let a worker run a generation to its end; return the points with their steps."""
        victim = await self.start()
        answer = await self._run_workers([self._worker(victim)], _KILL_TIMEOUT)
        assert answer["exit_codes"] == {victim.queue: 0}, answer["exit_codes"]
        problems = await self.find_problems([victim])
        assert not problems, problems
        return [(Point(*point), tuple(step)) for point, step in answer["reached"]]

    async def kill(self, victims: Sequence[Victim]) -> list[Victim]:
        """Run and kill a worker for each victim; return those whose point was not reached."""
        workers = [self._worker(victim) for victim in victims]
        codes = (await self._run_workers(workers, _KILL_TIMEOUT))["exit_codes"]
        assert set(codes.values()) <= {KILLED, 0}, codes
        return [victim for victim in victims if codes[victim.queue] != KILLED]

    async def take_over(self, victims: Sequence[Victim]) -> set[str]:
        """End the leases of the killed workers, and let another worker run all jobs to their end.

        Returns:
            The sites that this worker has reached.
        """
        await self._sql.execute("delete from picture_queue.lease_extension")
        await self._sql.execute(
            "update job_queue set lease_expires_at = now() where lease_expires_at is not null"
        )
        jobs = [job for victim in victims for job in victim.jobs]
        successor = {
            "queues": [victim.queue for victim in victims],
            "jobs": [str(job) for job in jobs],
            "generation_id": None,
            "point": None,
        }
        answer = await self._run_workers([successor], _TAKEOVER_TIMEOUT)
        unfinished = [dict(row) for row in await self._sql.fetch(_UNFINISHED, jobs)]
        assert not unfinished, unfinished
        assert set(answer["exit_codes"].values()) == {0}, answer["exit_codes"]
        return {Point(*point).site for point, _ in answer["reached"]}

    def _worker(self, victim: Victim) -> dict[str, Any]:
        return {
            "queues": [victim.queue],
            "jobs": [str(victim.jobs[-1])],
            "generation_id": str(victim.generations[0]),
            "point": victim.point,
        }

    async def _run_workers(self, workers: list[dict[str, Any]], timeout: int) -> dict[str, Any]:
        plan = {
            "scenario": self._name,
            "api_url": self._stack.api_url,
            "service_key": self._stack.service_role_key,
            "replicate": (self._stack.replicate_token, self._stack.replicate_url),
            "timeout": timeout,
            "workers": workers,
        }
        maintenance = asyncio.create_task(self._maintain())
        try:
            return await self._program.run(plan)
        finally:
            maintenance.cancel()
            await asyncio.wait([maintenance])

    async def _maintain(self) -> None:
        """Do the maintenance, whose lease outlasts the killed worker that holds it."""
        sql = await asyncpg.connect(self._stack.db_url, timeout=10)
        try:
            while True:
                await sql.execute("select picture_queue.maintain()")
                await asyncio.sleep(0.1)
        finally:
            sql.terminate()

    # --- the checks ---

    async def find_problems(self, victims: Iterable[Victim]) -> list[str]:
        """Return the violations of the invariants, each with the point of the kill."""
        await self._sql.execute("select picture_queue.maintain()")
        problems = []
        for query in (UNBALANCED, WRONG_ACCOUNTS, WRONG_COSTS):
            problems += [str(row) for row in json.loads(await self._sql.fetchval(query))]
        answer = (await self._simulator.get("predictions")).raise_for_status()
        predictions: dict[str, list[Any]] = {}
        for prediction in answer.json():
            predictions.setdefault(prediction["input"].get("prompt"), []).append(prediction)
        live = {row["generation_id"]: dict(row) for row in await self._sql.fetch(_LIVE_ROWS)}
        for victim in victims:
            found = [f"not final: {live[id]}" for id in victim.generations if id in live]
            if self._scenario.own_provider is None:
                found += await self._check_predictions(victim, predictions.get(victim.prompt, []))
            for generation_id in victim.generations:
                found += await self._check_generation(generation_id)
            problems += [f"{victim.point}: {problem}" for problem in found]
        return problems

    async def _check_predictions(self, victim: Victim, predictions: list[Any]) -> list[str]:
        """Compare the predictions of the simulator with the rows of the attempts."""
        rows = await self._sql.fetch(
            "select * from picture_queue.prediction where generation_id = any ($1)",
            victim.generations,
        )
        generation_of = {row["prediction_id"]: row["generation_id"] for row in rows}
        problems = []
        owners = Counter(row["prediction_id"] for row in rows if row["prediction_id"])
        stopped = {p["id"] for p in predictions if p["status"] in ("canceled", "aborted")}
        # The id of a prediction that was created and then cancelled may not have been recorded.
        if owners | Counter(stopped) != Counter(prediction["id"] for prediction in predictions):
            problems.append(f"the rows {owners} are not those of the predictions {predictions}")
        paid = Counter(
            generation_of.get(prediction["id"])
            for prediction in predictions
            if prediction["status"] not in ("canceled", "aborted", "failed")
        )
        if any(count > 1 for count in paid.values()):
            problems.append(f"paid more than once: {paid}")
        if any(prediction["status"] in ("starting", "processing") for prediction in predictions):
            problems.append(f"still running: {predictions}")
        return problems

    async def _check_generation(self, generation_id: UUID) -> list[str]:
        """Compare the state, the rows of the pictures and the files with each other."""
        folder = f"{self._user}/{generation_id}"
        found = await self._sql.fetch(_FILES, folder, self._scenario.deletes)
        files = {row["name"] for row in found}
        if self._scenario.deletes:
            return [f"files remain: {files}"] if files else []
        generation = await self._client.generations.get(generation_id)
        status, numbers = str(generation.status), tuple(image.n for image in generation.images)
        problems = []
        if status not in self._scenario.statuses:
            problems.append(f"it is {status}: {generation.error}")
        if status == "completed" and numbers != self._scenario.images:
            problems.append(f"it is completed with the pictures {numbers}")
        paths = {path for i in generation.images for path in (i.path, i.thumbnail_path) if path}
        if files != paths:
            problems.append(f"it is {status}, its files are {files}, its rows have {paths}")
        for image in generation.images:
            if len(await self._client.generations.download(image)) != image.bytes:
                problems.append(f"picture {image.n} has another size than its row")
        return problems


@asynccontextmanager
async def open_project(stack: LocalSupabase) -> AsyncIterator[Project]:
    """Connect to the database, the API and the simulator of a stack, and start the program."""
    sql = await asyncpg.connect(stack.db_url, timeout=10)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.generations.kills"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
        limit=2**26,  # bytes of an answer, which has all points of the successor
    )
    url = httpx.URL(stack.replicate_url).copy_with(raw_path=b"/_simulator/")
    key = {"apikey": stack.secret_key}
    try:
        async with (
            AsyncPictureQueue(stack.api_url, stack.service_role_key) as client,
            httpx.AsyncClient(base_url=url, headers=key, timeout=10) as simulator,
        ):
            yield Project(stack, sql, client, simulator, Program(process))
    finally:
        await sql.close(timeout=5)
        if process.stdin is not None:
            process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), 10)
        except TimeoutError:
            process.kill()

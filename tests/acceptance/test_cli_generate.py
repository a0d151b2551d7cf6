"""``picture-queue generate`` saves the images that ``picture-queue worker`` makes."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from PIL import Image
from typer.testing import Result

from picture_queue import JobStatus, PictureQueue

Cli = Callable[..., Result]
SCHNELL = "black-forest-labs/flux-schnell"
TASKS = """
from pydantic import BaseModel
from picture_queue import Worker

worker = Worker()

class Resize(BaseModel):
    width: int

@worker.handler("{job_type}", max_attempts=1)
def resize(payload: Resize) -> dict:
    return {{"double": payload.width * 2}}
"""


@contextmanager
def running_worker(stack: Any, directory: Path, *args: str) -> Iterator[subprocess.Popen[str]]:
    """Run a worker; yield its process once the worker has registered."""
    name = f"w-{uuid4().hex[:8]}"
    environ = {
        "SUPABASE_URL": stack.api_url,
        "SUPABASE_KEY": stack.service_role_key,
        "REPLICATE_API_TOKEN": stack.replicate_token,
        "REPLICATE_BASE_URL": stack.replicate_url,
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "picture_queue_cli", "worker", "--name", name, *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environ},
        cwd=directory,
    )
    try:
        with PictureQueue(stack.api_url, stack.service_role_key) as pq:
            deadline = time.monotonic() + 20
            while name not in {registered.worker for registered in pq.health().workers}:
                assert process.poll() is None and time.monotonic() < deadline
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            stdout, stderr = process.communicate(timeout=30)
        finally:
            process.kill()
    assert (process.returncode, stdout) == (0, ""), stderr


@pytest.fixture(scope="module", autouse=True)
def image_worker(stack: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Run a worker with the built-in image handlers while this module's tests run."""
    with running_worker(stack, tmp_path_factory.mktemp("worker")):
        yield


@pytest.fixture
def earlier_jobs_finished(stack: Any) -> None:
    """Wait until the generations of earlier tests have finished.

    A fault of the simulator applies to the next prediction, which must be the test's own.
    """
    deadline = time.monotonic() + 20
    with PictureQueue(stack.api_url, stack.service_role_key) as pq:
        # Jobs that other tests claimed without a worker process may never finish.
        while any(
            job.hold is None and (job.worker or "w-").startswith("w-")
            for status in (JobStatus.PENDING, JobStatus.PROCESSING)
            for job in pq.jobs.list(job_type="generate-image", queue="default", status=status)
        ):
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_images_are_saved_and_their_paths_printed(cli: Cli, tmp_path: Path) -> None:
    result = cli("generate", "A lighthouse, at dusk", "--model", SCHNELL)
    assert result.exit_code == 0, result.stderr
    (path,) = [Path(line) for line in result.stdout.splitlines()]
    assert path.parent == Path("outputs")
    assert path.name.startswith("a-lighthouse-at-dusk-")
    with Image.open(tmp_path / path) as picture:
        assert picture.format == "WEBP"
    assert result.stderr.startswith("Generation ")


def test_the_json_of_a_generation_is_complete(cli: Cli, tmp_path: Path) -> None:
    user = str(uuid4())
    result = cli(
        *("generate", "two cats", "--model", SCHNELL, "--out", "pics", "--user-id", user),
        *("--input", "num_outputs=2", "--input", "output_format=png", "--json"),
    )
    report = json.loads(result.stdout)
    assert (result.exit_code, report["status"], report["error"]) == (0, "completed", None)
    assert report["input"] == {"num_outputs": 2, "output_format": "png"}
    assert len(report["pictures"]) == 2
    for picture in report["pictures"]:
        path = tmp_path / picture["path"]
        assert path.parent == tmp_path / "pics"
        assert (picture["mime_type"], picture["bytes"]) == ("image/png", path.stat().st_size)
    job = json.loads(cli("jobs", "show", report["job_id"], "--json").stdout)
    assert (job["user_id"], job["generation_id"]) == (user, report["generation_id"])


def test_a_generation_can_be_watched_later(cli: Cli) -> None:
    result = cli("generate", "a cat", "--model", SCHNELL, "--no-watch")
    generation_id = str(UUID(result.stdout.strip()))
    watched = cli("watch", generation_id, "--json")
    states = [json.loads(line) for line in watched.stdout.splitlines()]
    assert watched.exit_code == 0
    assert (states[-1]["status"], states[-1]["generation_id"]) == ("completed", generation_id)


def test_the_json_of_generate_with_no_watch_has_the_ids(cli: Cli) -> None:
    report = json.loads(cli("generate", "a cat", "--no-watch", "--json").stdout)
    assert report.keys() == {"generation_id", "job_id", "status"}


def test_a_failed_generation_prints_one_line_and_exits_with_1(
    cli: Cli, stack: Any, tmp_path: Path, earlier_jobs_finished: None
) -> None:
    simulator = stack.replicate_url.removesuffix("/v1")
    httpx.post(
        f"{simulator}/_simulator/faults",
        json={"kind": "nsfw"},
        headers={"apikey": stack.secret_key},
    ).raise_for_status()
    result = cli("generate", "a cat", "--model", SCHNELL, "--json")
    report = json.loads(result.stdout)
    assert (result.exit_code, report["status"], report["pictures"]) == (1, "failed", [])
    assert (
        result.stderr.splitlines()[-1] == f"error: Job {report['job_id']} failed: {report['error']}"
    )
    assert not any((tmp_path / "outputs").iterdir())


# --- A worker with the user's own handlers ---


def test_a_users_worker_runs_jobs_and_survives_an_invalid_payload(
    cli: Cli, stack: Any, tmp_path: Path, queue: str
) -> None:
    job_type = f"resize-{queue}"
    (tmp_path / "tasks.py").write_text(TASKS.format(job_type=job_type))
    with running_worker(
        stack, tmp_path, "--app", "tasks:worker", "--queue", queue, "--concurrency", "2"
    ) as process:
        invalid_job = cli("enqueue", job_type, '{"width": "wide"}', "--queue", queue).stdout.strip()
        result = cli("watch", invalid_job)
        assert result.exit_code == 1
        assert "width" in result.stderr
        valid_job = cli("enqueue", job_type, '{"width": 21}', "--queue", queue).stdout.strip()
        assert cli("watch", valid_job).exit_code == 0
        job = json.loads(cli("jobs", "show", valid_job, "--json").stdout)
        assert job["result"] == {"double": 42}
        health = json.loads(cli("health", "--json").stdout)
        (worker,) = [row for row in health["workers"] if row["worker"] == job["worker"]]
        assert (worker["queues"], worker["job_types"]) == ([queue], [job_type])
        assert job["worker"] in cli("health").stdout
        assert process.poll() is None


def test_a_job_of_an_unknown_type_waits_and_is_reported(cli: Cli, queue: str) -> None:
    job_id = cli("enqueue", f"odd-{queue}", "--queue", queue).stdout.strip()
    warning = f"1 job of type odd-{queue} in queue {queue}: "
    assert f"{warning}no running worker has a handler for this type." in cli("health").stdout
    assert json.loads(cli("jobs", "show", job_id, "--json").stdout)["status"] == "pending"


def test_a_chain_is_followed_as_one_and_all_its_pictures_are_saved(
    cli: Cli, tmp_path: Path
) -> None:
    done = cli(
        *("generate", "a red boat", "--json"),
        *("--then", "upscale", "--then", "remove-background"),
    )
    found = json.loads(done.stdout)
    assert (done.exit_code, found["status"], found["completed"]) == (0, "completed", 3)
    kinds = [entry["kind"] for entry in found["generations"]]
    assert kinds == ["text-to-image", "upscale", "background-removal"]
    for entry, words in zip(
        found["generations"],
        ("a-red-boat-", "a-red-boat-upscale-", "a-red-boat-background-removal-"),
        strict=True,
    ):
        (picture,) = entry["pictures"]
        path = tmp_path / picture["path"]
        assert path.name.startswith(words)
        assert path.stat().st_size == picture["bytes"]


def test_prompts_of_a_file_and_seeds_make_a_batch(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a cat\n\n  a dog \n")
    done = cli("generate", "--prompts", "prompts.txt", "--count", "2", "--input", "seed=7")
    assert done.exit_code == 0, done.stderr
    names = [Path(line).name for line in done.stdout.splitlines()]
    assert [name[:5] for name in names] == ["a-cat", "a-cat", "a-dog", "a-dog"]
    assert done.stderr.startswith("Batch ")
    started = cli("generate", "a cat", "--count", "3", "--no-watch", "--json")
    batch = json.loads(started.stdout)
    seeds = {
        json.loads(cli("generations", "show", entry["id"], "--json").stdout)["input"]["seed"]
        for entry in batch["generations"]
    }
    assert len(seeds) == 3
    watched = cli("generations", "batches", "show", batch["id"], "--watch", "--json")
    assert (watched.exit_code, json.loads(watched.stdout)["completed"]) == (0, 3)
    shown = cli("generations", "batches", "show", batch["id"])
    assert "100 %" in shown.stdout
    cancelled = cli("generations", "batches", "cancel", batch["id"], "--json")
    assert json.loads(cancelled.stdout)["cancelled"] == 0


@pytest.mark.parametrize(
    ("args", "error"),
    [
        ((), "PROMPT is missing"),
        (("a cat", "--prompts", "x"), "pass either a prompt or --prompts"),
        (("--prompts", "missing.txt"), "--prompts cannot be read"),
        (("a cat", "--then", "paint"), "'paint' is neither the id of a model nor one of"),
        (("a cat", "--then", "upscale", "--reuse"), "without --then"),
        (("a cat", "--count", "0"), "--count"),
        (("a cat", "--then", SCHNELL), f"--then {SCHNELL}: --model is"),
        (("a cat", "--then", "edit"), "--then edit: PROMPT is empty"),
        (("a cat", "--count", "2", "--input", "go_fast=7"), "--input go_fast is 7"),
        (("a cat", "--count", "2", "--input", "seed=x"), "seed"),
    ],
)
def test_an_invalid_batch_is_refused_with_the_option(
    cli: Cli, args: tuple[str, ...], error: str
) -> None:
    done = cli("generate", *args)
    assert done.exit_code in (2, 3)
    assert error in " ".join(done.stderr.split()), done.stderr

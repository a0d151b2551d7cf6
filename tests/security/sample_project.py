"""A project in use: two signed-up users, one of them with rows that the other must not see."""

import json
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import asyncpg
import httpx

#: A word in every text that the owner writes. No answer to another user may contain it.
SECRET = "xyzzy"


@dataclass
class Answer:
    """An HTTP response, with shortcuts for the checks of the tests."""

    status: int
    text: str
    headers: httpx.Headers

    @property
    def json(self) -> Any:
        return json.loads(self.text) if self.text else None

    @property
    def code(self) -> str | None:
        """The error code: a code of PostgREST, a SQLSTATE, or a PQ code."""
        body = self.json if self.status >= 400 else None
        if not isinstance(body, dict):
            return None
        message = str(body.get("message"))
        return message.partition(":")[0] if message.startswith("PQ_") else body.get("code")


@dataclass
class SampleProject:
    """The HTTP client, the keys of each role, and the ids of the objects that the roles try to use.

    Indexing with a name, as in `project["pending"]`, returns the id of an object.
    """

    api_url: str
    db_url: str
    http: httpx.AsyncClient
    keys: dict[str, dict[str, str]]  # The headers of each role.
    tokens: dict[str, str]  # The token that each role sends to Realtime.
    users: dict[str, str]  # The ids of the owner and of the other user.
    queue: str = field(default_factory=lambda: f"q-{uuid4().hex[:8]}")
    job_type: str = f"{SECRET}-resize"
    prompt: str = f"a {SECRET} cat"
    ids: dict[str, str] = field(default_factory=dict)

    def __getitem__(self, name: str) -> str:
        return self.ids[name]

    async def request(
        self,
        role: str,
        method: str,
        path: str,
        *,
        headers: dict[str, str] | None = None,
        **content: Any,
    ) -> Answer:
        """Send one request as a role; neither redirects nor retries are followed."""
        answer = await self.http.request(
            method, path, headers={**self.keys[role], **(headers or {})}, **content
        )
        return Answer(answer.status_code, answer.text, answer.headers)

    async def rpc(self, role: str, name: str, /, **arguments: Any) -> Answer:
        """Call an SQL function as a role; return the answer, also if it is an error."""
        return await self.request(role, "POST", f"/rest/v1/rpc/{name}", json=arguments)

    async def call(self, role: str, name: str, /, **arguments: Any) -> Any:
        """Call an SQL function as a role; the call must succeed. Return its result."""
        answer = await self.rpc(role, name, **arguments)
        assert answer.status < 300, (name, answer)
        return answer.json

    def hidden_words(self, role: str, request: str) -> set[str]:
        """Return the secret words that no answer to this request of the role may contain.

        Words that the request itself contains are left out, because an answer may repeat them.
        """
        if role in ("owner", "service"):
            return set()
        hidden = {SECRET, self.users["owner"], *self.ids.values()}
        return {word for word in hidden if word not in request}


async def create_sample_project(stack: Any, http: httpx.AsyncClient) -> SampleProject:
    """Sign up two users and add generations, jobs and files for the first one."""
    sessions = {}
    for role in ("owner", "other_user"):
        account = {"email": f"{uuid4().hex}@example.com", "password": "correct horse battery"}
        sessions[role] = (
            await http.post(
                "/auth/v1/signup", json=account, headers={"apikey": stack.publishable_key}
            )
        ).json()
    tokens = {
        "anon": stack.anon_key,
        "service": stack.service_role_key,
        **{role: session["access_token"] for role, session in sessions.items()},
    }
    project = SampleProject(
        stack.api_url,
        stack.db_url,
        http,
        keys={
            "anon": {"apikey": stack.publishable_key},
            "service": {"apikey": stack.secret_key},
            **{
                role: {"apikey": stack.publishable_key, "authorization": f"Bearer {tokens[role]}"}
                for role in sessions
            },
        },
        tokens=tokens,
        users={role: session["user"]["id"] for role, session in sessions.items()},
    )
    await _add_generations(project)
    await _add_jobs(project)
    await _add_files(project)
    return project


async def _add_generations(project: SampleProject) -> None:
    """Start two generations, one of which a worker has claimed."""
    for name in ("generation", "other_generation"):
        started = await project.call("owner", "start_generation", prompt=project.prompt)
        project.ids[name], project.ids[f"{name}_job"] = started["generation_id"], started["job_id"]
        if name == "generation":
            jobs = await project.call(
                "service",
                "claim_jobs",
                worker="generator",
                queues=["default"],
                job_types=["generate-image"],
                max_jobs=1000,
                lease_seconds=3600,
            )
            (job,) = (job for job in jobs if job["id"] == started["job_id"])
            project.ids["generation_lease"] = job["lease_id"]
    ended = await project.call("owner", "start_generation", prompt=project.prompt)
    project.ids["ended_generation"] = ended["generation_id"]
    await project.call("owner", "cancel_generation", generation_id=ended["generation_id"])
    under = {"job_id": project["generation_job"], "lease_id": project["generation_lease"]}
    begun = await project.call("service", "begin_prediction", **under)
    project.ids["prediction"] = begun["prediction"]["id"]
    image = {
        "n": 1,
        "path": owner_image_path(project),
        "mime_type": "image/png",
        "width": 1,
        "height": 1,
    }
    await project.call("service", "save_images", **under, images=[{**image, "bytes": 4}])


async def _add_jobs(project: SampleProject) -> None:
    """Add jobs of the owner in each state that the calls need."""
    common = {
        "job_type": project.job_type,
        "user_id": project.users["owner"],
        "payload": {"note": SECRET},
        "options": {"tags": [SECRET], "metadata": {"note": SECRET}},
    }
    for name in ("running", "failed", "stuck", "legacy"):
        queue = f"{project.queue}-{name}"
        project.ids[name] = await project.call("service", "enqueue_job", **common, queue=queue)
        if name == "legacy":
            (job,) = await project.call("service", "claim_next_job", queue=queue)
        else:
            (job,) = await project.call(
                "service", "claim_jobs", worker="w", queues=[queue], job_types=[project.job_type]
            )
        project.ids[f"{name}_lease"] = job["lease_id"]
    await project.call(
        "service",
        "report_jobs",
        outcomes=[
            {
                "job_id": project["failed"],
                "lease_id": project["failed_lease"],
                "outcome": "failed",
                "error": f"{SECRET} exploded",
                "retryable": False,
            }
        ],
    )
    connection = await asyncpg.connect(project.db_url, timeout=10)
    await connection.execute(
        "update public.job_queue set lease_expires_at = now() - interval '1 second' where id = $1",
        project["stuck"],
    )
    await connection.close(timeout=5)
    for name in ("pending", "spare"):
        project.ids[name] = await project.call(
            "service",
            "enqueue_job",
            **common,
            queue=project.queue,
            idempotency_key=f"{SECRET}-{name}",
            priority=int(name == "pending"),
        )
    # A job without an owner has its own topic for events.
    project.ids["ownerless"] = await project.call(
        "service", "enqueue_job", job_type=project.job_type, queue=project.queue
    )
    batch = await project.call(
        "service",
        "enqueue_batch",
        jobs=[{"job_type": project.job_type, "queue": project.queue}],
        metadata={"note": SECRET},
    )
    project.ids["batch"] = batch["batch_id"]
    requests = [
        {"prompt": project.prompt},
        {"prompt": project.prompt, "then": [{"kind": "upscale"}]},
    ]
    batch = await project.call("owner", "start_generations", requests=requests)
    project.ids["generation_batch"] = batch["batch_id"]
    await project.call(
        "service",
        "set_schedule",
        name=f"{SECRET}-nightly",
        schedule={"cron": "0 3 * * *", "job_type": project.job_type, "queue": project.queue},
    )


async def _add_files(project: SampleProject) -> None:
    """Store four files: three in folders of the owner, and one in a folder without owner."""
    project.ids["bucket"] = f"{SECRET}-{project.queue}"
    created = await project.request(
        "service", "POST", "/storage/v1/bucket", json={"name": project["bucket"]}
    )
    assert created.status == 200, created
    for bucket, name in stored_files(project):
        await store_file(project, bucket, name)


async def store_file(project: SampleProject, bucket: str, name: str) -> None:
    """Store a file with the secret text, in place of an existing one."""
    stored = await project.request(
        "service",
        "POST",
        f"/storage/v1/object/{bucket}/{name}",
        content=SECRET.encode(),
        headers={"content-type": "image/png", "x-upsert": "true"},
    )
    assert stored.status == 200, stored


def owner_image_path(project: SampleProject) -> str:
    """Return the path of the owner's image in the bucket `pictures`."""
    return f"{project.users['owner']}/{project['generation']}/1.png"


def stored_files(project: SampleProject) -> list[tuple[str, str]]:
    """Return the bucket and the name of each stored file."""
    return [
        ("pictures", owner_image_path(project)),
        ("pictures", f"nobody/{SECRET}.png"),
        ("uploads", owner_image_path(project)),
        (project["bucket"], owner_image_path(project)),
    ]

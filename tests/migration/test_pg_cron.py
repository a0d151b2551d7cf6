"""The doctor's check of the runs of pg_cron, with Debian's Postgres 15 and pg_cron."""

import asyncio
import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from picture_queue.errors import PictureQueueError
from picture_queue.installation.database import migrate
from picture_queue.local.migrate import apply_platform
from picture_queue.settings import DatabaseSettings

from ..databases import execute

pytestmark = [pytest.mark.extra, pytest.mark.timeout(180)]
PROGRAMS = Path("/usr/lib/postgresql/15/bin")
CONTROL_FILE = Path("/usr/share/postgresql/15/extension/pg_cron.control")
SETTINGS = {
    "listen_addresses": "",  # other users must not connect: the superuser can run programs
    "shared_preload_libraries": "pg_cron",
    "cron.database_name": "postgres",
    "cron.use_background_workers": "on",  # otherwise pg_cron connects, and needs a password
}
# Supabase grants the same permissions to the role `postgres`.
GRANTS = """
create extension pg_cron;
grant usage on schema cron to postgres;
grant select on all tables in schema cron to postgres;
"""


@pytest.fixture
def url() -> Iterator[str]:
    """The address of a new project with pg_cron, for the role `postgres`."""
    if not CONTROL_FILE.exists():
        pytest.fail("pg_cron is missing: apt-get install postgresql-15-cron", pytrace=False)
    directory = Path(tempfile.mkdtemp(prefix="picture-queue-cron-"))  # closed to other users
    password = secrets.token_urlsafe()
    (directory / "password").write_text(password)
    identity: dict[str, Any] = {}
    if os.getuid() == 0:
        # Postgres refuses to run as root; Debian's package has created this user.
        user = pwd.getpwnam("postgres")
        identity = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        for path in (directory, directory / "password"):
            os.chown(path, user.pw_uid, user.pw_gid)
    data = directory / "data"
    options = ("-A", "scram-sha-256", "-U", "supabase_admin", "--no-sync")
    initdb = [PROGRAMS / "initdb", "-D", data, "--pwfile", directory / "password", *options]
    subprocess.run(initdb, check=True, cwd="/", capture_output=True, timeout=60, **identity)
    settings = SETTINGS | {"unix_socket_directories": str(directory)}
    server = subprocess.Popen(
        [
            PROGRAMS / "postgres",
            *("-D", data),
            *(part for name, value in settings.items() for part in ("-c", f"{name}={value}")),
        ],
        cwd="/",
        stderr=subprocess.DEVNULL,
        **identity,
    )
    rest = f"{password}@/postgres?host={quote(str(directory), safe='')}"
    try:
        asyncio.run(_prepare(f"postgresql://supabase_admin:{rest}", password))
        yield f"postgresql://postgres:{rest}"
    finally:
        server.terminate()
        server.wait(30)
        shutil.rmtree(directory)


async def _prepare(admin: str, password: str) -> None:
    """Wait until Postgres accepts connections, and create the objects of a new project."""
    async with asyncio.timeout(60):
        while True:
            try:
                await apply_platform(admin)
                break
            except PictureQueueError as error:
                if "cannot connect" not in str(error):
                    raise
                await asyncio.sleep(0.05)
    await execute(admin, f"{GRANTS}alter role postgres password '{password}'")


async def test_the_doctor_reports_failed_runs_of_pg_cron(
    url: str, cli: Callable[..., Any], until: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("picture_queue_cli.project.running_stack", lambda: None)
    await asyncio.to_thread(migrate, DatabaseSettings(url), lambda name: None)

    async def examine() -> tuple[int, str]:
        done = await asyncio.to_thread(cli, "doctor", "--db-url", url, "--check", "pg_cron runs")
        return done.exit_code, done.stdout

    code, output = await examine()
    assert (code, "has not run yet" in output) == (1, True)

    # Let one of the two jobs fail. Debian's pg_cron starts jobs once a minute, so wait for both.
    await execute(url, "select cron.schedule('prune-job-queue', '* * * * *', 'select 1 / 0')")

    async def both_ran() -> bool:
        return "has not run yet" not in (await examine())[1]

    await until(both_ran, timeout=100)
    code, output = await examine()
    assert code == 1
    succeeded, failed = (line for line in output.splitlines() if "the last run" in line)
    assert succeeded.startswith("ok") and "process-job-queue" in succeeded
    assert "succeeded" in succeeded
    assert failed.startswith("bad") and "prune-job-queue" in failed
    assert "division by zero" in failed
    assert "run it by hand to see why: select 1 / 0" in output

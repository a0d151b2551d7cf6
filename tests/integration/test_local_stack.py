"""The embedded stack: its services, its restarts, and the cleanup of processes and files."""

import asyncio
import functools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import psutil
import pytest
import websockets

from picture_queue._resources import Migration
from picture_queue.errors import (
    LocalStackError,
    MissingProgram,
    PortTaken,
    StackAlreadyRunning,
    StackNotRunning,
)
from picture_queue.local import LocalSupabase, launch, migrate
from picture_queue.local import stack as local
from picture_queue.local.binaries import _find_parts, find_postgres, find_postgrest
from picture_queue.local.datadir import DataDir
from picture_queue.local.ports import HOST_6, listen
from picture_queue.local.processes import is_running

# Without fsync, the tests are faster. A kill loses no data; only a crash of the machine could.
new_stack = functools.partial(LocalSupabase, durable=False)
STATUS_FIELDS = {
    "API_URL",
    "DB_URL",
    "ANON_KEY",
    "SERVICE_ROLE_KEY",
    "PUBLISHABLE_KEY",
    "SECRET_KEY",
    "JWT_SECRET",
    "REPLICATE_URL",
    "REPLICATE_TOKEN",
    "DATA_DIR",
    "POSTGRES",
    "POSTGREST",
}
# Runs a stack until a signal. Prints the data directory when the stack is ready.
STACK_PROGRAM = """
import signal, sys
from picture_queue.local.stack import LocalSupabase
with LocalSupabase(sys.argv[1] if len(sys.argv) > 1 else None, durable=False) as stack:
    print(stack.data_dir, flush=True)
    signal.pause()
"""


@pytest.fixture
def empty_dir() -> Iterator[Path]:
    """A data directory that the service user can reach."""
    path = local._temporary_directory()
    yield path
    local.reset(path)
    assert not path.exists()


@pytest.fixture(scope="module")
def used_dir() -> Iterator[Path]:
    """A data directory in which the tests of this module start their stacks in turn."""
    path = local._temporary_directory()
    yield path
    local.reset(path)


@pytest.fixture
def data_dir(used_dir: Path) -> Iterator[Path]:
    """The shared data directory, with the data of earlier tests but no running stack."""
    yield used_dir
    is_running_still = DataDir(used_dir).is_locked()
    if is_running_still:
        local.stop(used_dir)
    assert not is_running_still, "the test did not stop its stack"


@dataclass
class Footprint:
    """The processes and ports of a running stack, to check that none remains after its end.

    Attributes:
        processes: All processes, the daemon first.
        programs: The children of the daemon by name.
        ports: The ports of the gateway, the simulator and Postgres.
    """

    processes: list[psutil.Process]
    programs: dict[str, psutil.Process]
    ports: set[int]

    @classmethod
    def of(cls, data_dir: Path) -> "Footprint":
        daemon = DataDir(data_dir).find_daemon()
        assert daemon is not None
        children = daemon.children()
        # A program is named by its executable, and by its script or first option.
        programs = {
            Path(word).name: child for child in children for word in reversed(child.cmdline()[:3])
        }
        assert {"guard.py", "postgres", "postgrest"} <= set(programs)
        processes = [daemon, *daemon.children(recursive=True)]
        ports = {
            connection.laddr.port
            for process in (daemon, *children)
            for connection in process.net_connections("inet")
            if connection.status == psutil.CONN_LISTEN
        }
        assert len(ports) == 3
        return cls(processes, programs, ports)

    async def wait_until_gone(self, seconds: float = 15) -> None:
        """Wait until no process runs and no port answers."""
        deadline = time.monotonic() + seconds
        while remaining := self._remaining():
            assert time.monotonic() < deadline, f"still running: {remaining}"
            await asyncio.sleep(0.02)

    def _remaining(self) -> list[str]:
        processes = [str(process) for process in self.processes if is_running(process)]
        return processes + [f"port {port}" for port in self.ports if _accepts_connections(port)]


def _accepts_connections(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def _start_program(*arguments: str) -> tuple[subprocess.Popen[str], Path]:
    """Start a program with a stack in a new process group; return it and the data directory."""
    process = subprocess.Popen(
        [sys.executable, "-c", STACK_PROGRAM, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout
    return process, Path(process.stdout.readline().strip())


async def _fetch_value(dsn: str, sql: str) -> Any:
    connection = await asyncpg.connect(dsn, timeout=10)
    try:
        return await connection.fetchval(sql)
    finally:
        await connection.close()


async def _insert_token(dsn: str) -> UUID:
    """Insert a row with a new token; return the token."""
    await _fetch_value(dsn, "create table if not exists public.tokens (token uuid)")
    token: UUID = await _fetch_value(
        dsn, "insert into public.tokens values (gen_random_uuid()) returning token"
    )
    return token


async def _has_token(dsn: str, token: UUID) -> bool:
    return bool(
        await _fetch_value(
            dsn, f"select exists (select from public.tokens where token = '{token}')"
        )
    )


async def _call_version(api_url: str, key: str) -> httpx.Response:
    async with httpx.AsyncClient(base_url=api_url, headers={"apikey": key}) as client:
        return await client.post("/rest/v1/rpc/picture_queue_version", json={})


async def _wait_until(check: Any, seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while not await check():
        assert time.monotonic() < deadline, "the condition was not met in time"
        await asyncio.sleep(0.05)


async def test_status_has_the_fields_of_the_cli(stack: LocalSupabase) -> None:
    status = stack.status()
    assert set(status) == STATUS_FIELDS
    assert stack.api_url == status["API_URL"]
    assert str(stack.data_dir) == status["DATA_DIR"]
    assert status["POSTGREST"].split()[0].count(".") == 2
    assert int(status["POSTGRES"].split(".")[0]) >= 15
    assert re.fullmatch(r"sb_publishable_[\w-]{22}_[\w-]{8}", stack.publishable_key)
    assert re.fullmatch(r"sb_secret_[\w-]{22}_[\w-]{8}", stack.secret_key)


async def test_the_api_accepts_service_keys_and_refuses_other_keys(stack: LocalSupabase) -> None:
    answers = [
        (await _call_version(stack.api_url, key)).status_code
        for key in (stack.service_role_key, stack.secret_key, stack.anon_key, "nonsense")
    ]
    # The database refuses the call of the role anon. The gateway refuses an invalid key.
    assert answers == [200, 200, 401, 401]


def test_psql_accepts_the_db_url(stack: LocalSupabase) -> None:
    psql = find_postgres().path / "psql"
    query = "select rolname, rolsuper, rolbypassrls, rolcreaterole from pg_roles"
    answer = subprocess.run(
        [psql, stack.db_url, "-Atc", f"{query} where rolname = current_user"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert answer.stdout.strip() == "postgres|f|t|t"


async def test_the_simulator_accepts_only_the_token_of_the_stack(stack: LocalSupabase) -> None:
    token = stack.replicate_token
    async with httpx.AsyncClient() as client:
        for value, status in ((token, 200), (token[:-1] + "-", 401), ("r8_x", 401)):
            headers = {"authorization": f"Bearer {value}"}
            answer = await client.get(f"{stack.replicate_url}/account", headers=headers)
            assert answer.status_code == status, value


async def test_a_refused_websocket_is_not_logged_as_an_error(stack: LocalSupabase) -> None:
    log = DataDir(stack.data_dir).log_path("daemon")
    before = len(log.read_text())
    url = stack.api_url.replace("http", "ws", 1) + "/realtime/v1/websocket"
    foreign = {"apikey": stack.anon_key, "origin": "https://foreign.test"}
    for headers, status in (({"apikey": "nonsense"}, 401), (foreign, 403)):
        with pytest.raises(websockets.InvalidStatus) as refused:
            await websockets.connect(url, additional_headers=headers)
        assert refused.value.response.status_code == status

    async def is_logged() -> bool:
        return "refused a WebSocket with status 403" in log.read_text()[before:]

    await _wait_until(is_logged)
    assert "ERROR" not in log.read_text()[before:]


async def test_postgrest_is_configured_as_on_the_platform(stack: LocalSupabase) -> None:
    async with httpx.AsyncClient(
        base_url=f"{stack.api_url}/rest/v1", headers={"apikey": stack.service_role_key}
    ) as client:
        connection = await asyncpg.connect(stack.db_url)
        try:
            await connection.execute(_CREATE_PROBES)
            rows = await _call_when_known(client, "/rpc/stack_probe_rows")
            limit = await client.post("/rpc/stack_probe_limit", json={})
            hoisted = await client.post("/rpc/stack_probe_hoisted", json={})
        finally:
            await connection.execute(_DROP_PROBES)
            await connection.close()
    assert len(rows.json()) == 1000
    assert limit.json() == "8s"
    # PostgREST applies the statement_timeout of the function before the call. Postgres itself
    # applies this setting only within the statement, which is too late to end the statement.
    assert hoisted.json()["code"] == "57014"


_CREATE_PROBES = """
create function public.stack_probe_rows() returns setof int
  language sql as 'select generate_series(1, 1200)';
create function public.stack_probe_limit() returns text
  language sql volatile as 'select current_setting(''statement_timeout'')';
create function public.stack_probe_hoisted() returns void
  language sql volatile set statement_timeout = '50ms' as 'select pg_sleep(2)';
grant execute on function public.stack_probe_rows(), public.stack_probe_limit(),
  public.stack_probe_hoisted() to service_role;
notify pgrst, 'reload schema';
"""
_DROP_PROBES = """
drop function public.stack_probe_rows(), public.stack_probe_limit(), public.stack_probe_hoisted();
notify pgrst, 'reload schema';
"""


async def _call_when_known(client: httpx.AsyncClient, path: str) -> httpx.Response:
    """Repeat a call until PostgREST knows the function."""
    deadline = time.monotonic() + 10
    while True:
        answer = await client.post(path, json={})
        if answer.status_code != 404 or time.monotonic() > deadline:
            return answer
        await asyncio.sleep(0.02)


async def test_the_background_stack_keeps_its_data_until_reset(empty_dir: Path) -> None:
    async def start() -> dict[str, str]:
        return await asyncio.to_thread(local.start_background, empty_dir, port=0, worker=False)

    first = await start()
    assert local.status(empty_dir) == first
    assert (empty_dir / "state.json").stat().st_mode & 0o777 == 0o600
    with pytest.raises(StackAlreadyRunning, match=f"local stop --data-dir {empty_dir}"):
        await start()
    token = await _insert_token(first["DB_URL"])
    footprint = Footprint.of(empty_dir)

    local.stop(empty_dir)
    await footprint.wait_until_gone(0)
    with pytest.raises(StackNotRunning, match=f"local start --data-dir {empty_dir}"):
        local.status(empty_dir)
    with pytest.raises(StackNotRunning):
        local.stop(empty_dir)

    second = await start()
    assert await _has_token(second["DB_URL"], token)
    # The table of the Supabase CLI lists each migration once.
    applied = "select count(*) from supabase_migrations.schema_migrations"
    assert await _fetch_value(second["DB_URL"], applied) == len(migrate.migrations())
    assert await migrate.apply_migrations(second["DB_URL"]) == []
    assert (empty_dir / "logs" / "daemon.log.1").exists()

    local.reset(empty_dir)
    assert not await asyncio.to_thread(empty_dir.exists)


async def test_two_stacks_run_side_by_side(stack: LocalSupabase) -> None:
    async with LocalSupabase() as other:
        assert other.api_url != stack.api_url
        await _fetch_value(other.db_url, "create table public.only_here ()")
        table_exists = "select to_regclass('public.only_here') is not null"
        assert await _fetch_value(other.db_url, table_exists)
        assert not await _fetch_value(stack.db_url, table_exists)
        assert (await _call_version(other.api_url, other.secret_key)).status_code == 200
        footprint = Footprint.of(other.data_dir)
    await footprint.wait_until_gone(0)
    assert not other.data_dir.exists()
    with pytest.raises(StackNotRunning):
        other.status()


def test_the_error_names_a_taken_port_and_no_stack_runs(
    empty_dir: Path, stack: LocalSupabase
) -> None:
    port = httpx.URL(stack.api_url).port
    holder = f"the stack in {stack.data_dir}"
    with pytest.raises(PortTaken, match=rf"{port} is taken by {holder}.*local stop.*--port"):
        new_stack(empty_dir, port=port or 0).start()
    assert not DataDir(empty_dir).is_locked()


def test_the_error_names_another_program_that_has_the_port_on_ipv6(empty_dir: Path) -> None:
    with socket.create_server((HOST_6, 0), family=socket.AF_INET6) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(PortTaken, match=f"{port} is taken by another program"):
            new_stack(empty_dir, port=port).start()


@pytest.mark.parametrize("temporary", [True, False])
async def test_no_process_remains_after_the_parent_is_killed(
    temporary: bool, data_dir: Path
) -> None:
    parent, path = _start_program(*([] if temporary else [str(data_dir)]))
    footprint = Footprint.of(path)
    parent.kill()
    parent.communicate(timeout=10)
    await footprint.wait_until_gone()
    assert path.exists() is not temporary


async def test_ctrl_c_stops_the_stack(data_dir: Path) -> None:
    parent, path = _start_program(str(data_dir))
    footprint = Footprint.of(path)
    os.killpg(parent.pid, signal.SIGINT)
    _, stderr = parent.communicate(timeout=20)
    assert stderr.strip().endswith("KeyboardInterrupt")
    await footprint.wait_until_gone(0)


async def test_a_killed_daemon_leaves_no_process_and_loses_no_data(data_dir: Path) -> None:
    with new_stack(data_dir) as first:
        token = await _insert_token(first.db_url)
        footprint = Footprint.of(data_dir)
        footprint.processes[0].kill()
        await footprint.wait_until_gone()
        with pytest.raises(StackNotRunning):
            first.status()
        with pytest.raises(StackNotRunning):
            local.status(data_dir)
    with new_stack(data_dir) as second:
        assert await _has_token(second.db_url, token)


async def test_a_start_waits_for_the_processes_of_a_killed_stack(data_dir: Path) -> None:
    with new_stack(data_dir):
        footprint = Footprint.of(data_dir)
        footprint.processes[0].kill()
        async with new_stack(data_dir) as second:
            assert await _fetch_value(second.db_url, "select 1") == 1
            await footprint.wait_until_gone(0)


async def test_orphans_keep_their_ports_until_the_next_start_ends_them(data_dir: Path) -> None:
    with new_stack(data_dir, worker=True) as first:
        token = await _insert_token(first.db_url)
        footprint = Footprint.of(data_dir)
        # Kill the guard too, so that no process can clean up. Suspend it before, so that it does
        # not react to the end of the daemon.
        footprint.programs["guard.py"].suspend()
        footprint.processes[0].kill()
        footprint.programs["guard.py"].kill()
    # `Footprint` names the worker `-m`, since its command begins with: python -P -m.
    orphans = [footprint.programs[name] for name in ("postgres", "postgrest", "-m")]
    assert not is_running(footprint.processes[0]) and all(map(is_running, orphans))
    # The orphaned worker still sends its keys to these ports. No other program may get the ports.
    for port in footprint.ports:
        with pytest.raises(PortTaken):
            listen(port)
    port = httpx.URL(first.api_url).port
    with new_stack(data_dir, port=port or 0) as second:
        assert not any(map(is_running, orphans))
        assert await _has_token(second.db_url, token)


@pytest.mark.parametrize("end", [local.stop, local.reset])
async def test_a_stop_and_a_reset_end_orphans(end: Callable[[Path], None], empty_dir: Path) -> None:
    with new_stack(empty_dir, worker=True) as stack:
        footprint = Footprint.of(empty_dir)
        footprint.programs["guard.py"].suspend()
        footprint.processes[0].kill()
        footprint.programs["guard.py"].kill()
    command = f"local stop --data-dir {empty_dir}"
    with pytest.raises(StackNotRunning, match=rf"programs of it still run.*{command}"):
        local.status(empty_dir)
    port = httpx.URL(stack.api_url).port or 0
    with pytest.raises(PortTaken, match=rf"{port} is taken by the stack in {empty_dir}.*{command}"):
        listen(port)
    end(empty_dir)
    await footprint.wait_until_gone(0)
    with pytest.raises(StackNotRunning, match="No stack is running"):
        local.stop(empty_dir)


async def test_a_stop_waits_for_the_guard_of_a_killed_stack(data_dir: Path) -> None:
    with new_stack(data_dir):
        footprint = Footprint.of(data_dir)
        footprint.processes[0].kill()
        footprint.processes[0].wait()
        local.stop(data_dir)
        await footprint.wait_until_gone(0)


@pytest.mark.parametrize("program", ["postgrest", "postgres"])
async def test_a_killed_program_is_restarted(program: str, data_dir: Path) -> None:
    with new_stack(data_dir) as stack:
        killed = Footprint.of(data_dir).programs[program]
        killed.kill()

        async def has_ended() -> bool:
            return not is_running(killed)

        async def api_answers() -> bool:
            return (await _call_version(stack.api_url, stack.secret_key)).status_code == 200

        await _wait_until(has_ended)
        await _wait_until(api_answers)


# Replaces the worker, and prints its pid, arguments and settings.
FAKE_WORKER = """
import json, os, pathlib, signal, sys
names = ("SUPABASE_URL", "SUPABASE_KEY", "REPLICATE_BASE_URL", "REPLICATE_API_TOKEN")
report = json.dumps([os.getpid(), sys.argv[1:], {name: os.environ[name] for name in names}])
print(report, flush=True)
signal.pause()
"""


async def test_the_worker_gets_the_stacks_settings_and_is_restarted(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "picture_queue_cli"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(FAKE_WORKER)
    os.chmod(tmp_path, 0o755)  # the service user must be able to import the package
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("SUPABASE_URL", "https://somewhere.else")
    monkeypatch.setenv("REPLICATE_API_TOKEN", "r8_of_a_real_account")
    log = DataDir(data_dir).log_path("worker")

    async def has_reports(count: int) -> bool:
        return log.exists() and len(log.read_text().splitlines()) == count

    with new_stack(data_dir, worker=True) as stack:
        await _wait_until(lambda: has_reports(1))
        pid, arguments, environment = json.loads(log.read_text())
        assert arguments == ["worker"]
        assert environment == {
            "SUPABASE_URL": stack.api_url,
            "SUPABASE_KEY": stack.service_role_key,
            "REPLICATE_BASE_URL": stack.replicate_url,
            "REPLICATE_API_TOKEN": stack.replicate_token,
        }
        os.kill(pid, signal.SIGKILL)
        await _wait_until(lambda: has_reports(2))
        second = psutil.Process(json.loads(log.read_text().splitlines()[1])[0])
    assert not is_running(second)


async def test_a_stack_stops_if_its_guard_is_killed(data_dir: Path) -> None:
    with new_stack(data_dir):
        footprint = Footprint.of(data_dir)
        footprint.programs["guard.py"].kill()
        await footprint.wait_until_gone()


async def test_a_data_directory_keeps_its_postgres_version(
    empty_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, newest = find_postgres(16), find_postgres()
    monkeypatch.setenv("PICTURE_QUEUE_POSTGRES_BIN", str(other.path))
    with new_stack(empty_dir) as first:
        assert first.postgres.startswith("16.")
        token = await _insert_token(first.db_url)
    monkeypatch.setenv("PICTURE_QUEUE_POSTGRES_BIN", str(newest.path))
    with pytest.raises(MissingProgram, match=r"created by Postgres 16.*local reset"):
        new_stack(empty_dir).start()
    monkeypatch.delenv("PICTURE_QUEUE_POSTGRES_BIN")
    with new_stack(empty_dir) as second:
        assert second.postgres == first.postgres.replace("PICTURE_QUEUE_POSTGRES_BIN", other.origin)
        assert await _has_token(second.db_url, token)


def test_programs_in_an_unreadable_home_are_copied(
    empty_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The service user cannot read programs below /root, for example.
    tmp_path.chmod(0o700)
    wheel = find_postgres().path
    root, parts = _find_parts(wheel)
    for part in parts:
        shutil.copytree(part, tmp_path / part.relative_to(root), symlinks=True)
    moved = tmp_path / wheel.relative_to(root)
    monkeypatch.setenv("PICTURE_QUEUE_POSTGRES_BIN", str(moved))
    monkeypatch.setenv("PICTURE_QUEUE_POSTGREST", str(find_postgrest().path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(empty_dir / "cache"))
    with new_stack(empty_dir / "data") as stack:
        # Only root runs Postgres as another user, who needs the copies.
        parent = empty_dir / "cache" if os.geteuid() == 0 else tmp_path
        assert str(parent) in stack.postgres
    shutil.rmtree(empty_dir)


async def test_a_start_after_an_interrupted_first_start_succeeds(empty_dir: Path) -> None:
    DataDir(empty_dir).mark()
    (empty_dir / "initdb-started").touch()
    (empty_dir / "postgres").mkdir()
    (empty_dir / "postgres" / "PG_VERSION").write_text("18\n")
    async with new_stack(empty_dir) as stack:
        assert await _fetch_value(stack.db_url, "select 1") == 1


async def test_the_error_for_a_missing_program_names_the_fix(
    empty_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PICTURE_QUEUE_POSTGRES_BIN", "/nowhere")
    with pytest.raises(MissingProgram, match=r"PICTURE_QUEUE_POSTGRES_BIN=/nowhere.*initdb"):
        new_stack(empty_dir).start()
    monkeypatch.setenv("PICTURE_QUEUE_POSTGREST", "/nowhere/postgrest")
    with pytest.raises(MissingProgram, match="PICTURE_QUEUE_POSTGREST=/nowhere"):
        new_stack(empty_dir).start()


async def test_a_failing_migration_is_rolled_back_and_its_line_is_named(
    stack: LocalSupabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [
        Migration("20200101000000_good.sql", "create table public.good ();"),
        Migration("20200101000001_bad.sql", "create table public.half ();\n\nselect nonsense;"),
    ]
    monkeypatch.setattr(migrate, "migrations", lambda: files)
    await _fetch_value(stack.db_url, "create database stack_probe")
    dsn = stack.db_url.removesuffix("postgres") + "stack_probe"
    try:
        with pytest.raises(LocalStackError, match=r"20200101000001_bad\.sql.*Line 3"):
            await migrate.apply_migrations(dsn)
        assert await _fetch_value(dsn, "select to_regclass('public.good') is not null")
        assert await _fetch_value(dsn, "select to_regclass('public.half') is null")
    finally:
        await _fetch_value(stack.db_url, "drop database stack_probe")


async def test_a_cancelled_start_leaves_no_stack(data_dir: Path) -> None:
    stack = new_stack(data_dir)
    starting = asyncio.create_task(stack.__aenter__())
    while not DataDir(data_dir).is_locked():  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert not DataDir(data_dir).is_locked()
    with pytest.raises(StackNotRunning):
        stack.status()


def test_a_second_start_is_refused_and_a_stop_without_a_start_is_ignored(
    stack: LocalSupabase,
) -> None:
    with pytest.raises(StackAlreadyRunning):
        stack.start()
    LocalSupabase().stop()


async def test_a_daemon_that_does_not_stop_is_killed(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with new_stack(data_dir):
        footprint = Footprint.of(data_dir)
        monkeypatch.setattr(local, "_STOP_TIMEOUT", 0.1)
        footprint.processes[0].suspend()
        await asyncio.to_thread(local.stop, data_dir)
        await footprint.wait_until_gone(0)


@pytest.mark.parametrize(
    ("script", "error"),
    [
        ("echo 'no such module' >&2; exit 1", r"did not start: it ended unexpectedly.*no such mod"),
        ("exec sleep 60", r"did not start: not ready after"),
    ],
)
def test_the_error_for_a_daemon_that_does_not_start_contains_its_log(
    script: str,
    error: str,
    empty_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setattr(launch, "_START_TIMEOUT", 0.3)
    with pytest.raises(LocalStackError, match=error):
        new_stack(empty_dir).start()


def test_the_error_names_a_data_directory_that_cannot_be_created() -> None:
    with pytest.raises(LocalStackError, match=r"/dev/null.*--data-dir"):
        LocalSupabase("/dev/null/data").start()


def test_only_files_of_the_stack_are_deleted(empty_dir: Path) -> None:
    (empty_dir / "thesis.txt").write_text("keep me")
    DataDir(empty_dir).mark()
    DataDir(empty_dir).make_subdirectories()
    local.reset(empty_dir)
    assert [entry.name for entry in empty_dir.iterdir()] == ["thesis.txt"]
    (empty_dir / "thesis.txt").unlink()

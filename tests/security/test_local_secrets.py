"""Secrets of the embedded stack: each stack has its own, and other users cannot read them.

Earlier versions had a public superuser password, with which other users of the machine could run
code as the user of the stack. They also had a page that contained the secret key.
"""

import asyncio
import contextlib
import errno
import json
import os
import re
import shutil
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import asyncpg
import httpx
import jwt
import psutil
import pytest

from picture_queue.errors import PortTaken
from picture_queue.local import stack as local
from picture_queue.local.binaries import find_postgres, find_postgrest, make_reachable
from picture_queue.local.datadir import DataDir
from picture_queue.local.keys import Secrets
from picture_queue.local.paths import ServiceUser, service_user
from picture_queue.local.processes import is_running
from picture_queue.local.stack import LocalSupabase

from ..databases import execute

#: The public secrets of `supabase start`, which earlier versions used.
PUBLIC_SECRETS = {
    "jwt_secret": "super-secret-jwt-token-with-at-least-32-characters-long",
    "publishable_key": "sb_publishable_ACJWlzQHlZjBrEguHvfOxg_3BJgxAaH",
    "secret_key": "sb_secret_N7UND0UgjKTVK-Uodkm0Hg_xSvEMPvz",
}
ROLES = (
    "supabase_admin",
    "supabase_auth_admin",
    "supabase_realtime_admin",
    "supabase_storage_admin",
    "authenticator",
    "postgres",
)
TOKEN = "r8_the-developers-own-token"
#: Variables of root's environment for other programs, and for another project.
FOREIGN = {
    "SUPABASE_SERVICE_ROLE_KEY": "the-key-of-the-real-project",
    "PICTURE_QUEUE_DATABASE_URL": "postgresql://postgres:of-the-real-project@db.example/postgres",
    "AWS_SECRET_ACCESS_KEY": "the-key-of-another-service",
}
needs_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="only root can act as another user of the machine"
)
LOOPBACK = {"127.0.0.1": socket.AF_INET, "::1": socket.AF_INET6}
NOBODY = {"user": 65534, "group": 65534, "extra_groups": []}


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    """A data directory that the tests of this file use one after the other."""
    path = local._temporary_directory()
    yield path
    local.reset(path)


@pytest.fixture(scope="module")
def running(directory: Path) -> Iterator[LocalSupabase]:
    """A stack with a worker, started by a developer with a token of Replicate."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REPLICATE_API_TOKEN", TOKEN)
        for name, value in FOREIGN.items():
            patch.setenv(name, value)
        with LocalSupabase(directory, worker=True, durable=False) as stack:
            yield stack


def list_processes(stack: LocalSupabase) -> list[psutil.Process]:
    daemon = DataDir(stack.data_dir).find_daemon()
    assert daemon is not None
    return [daemon, *daemon.children(recursive=True)]


def secrets_of(stack: LocalSupabase) -> set[str]:
    stored = json.loads((stack.data_dir / "secrets.json").read_text())
    return {*stored.values(), stack.anon_key, stack.service_role_key} - {stack.publishable_key}


async def can_connect(url: str, role: str, password: str) -> bool:
    parts = urlsplit(url)
    try:
        connection = await asyncpg.connect(
            host=parts.hostname, port=parts.port, user=role, password=password, database="postgres"
        )
    except (asyncpg.InvalidPasswordError, asyncpg.InvalidAuthorizationSpecificationError):
        return False
    await connection.close()
    return True


@pytest.mark.parametrize("role", ROLES)
async def test_no_public_password_opens_the_database(running: LocalSupabase, role: str):
    for password in ("postgres", "", "supabase", role):
        assert not await can_connect(running.db_url, role, password)


async def test_the_database_closes_connections_that_send_no_password(running: LocalSupabase):
    connection = await asyncpg.connect(running.db_url)
    assert await connection.fetchval("show authentication_timeout") == "10s"
    await connection.close()


async def test_public_keys_are_refused(running: LocalSupabase):
    claims = {"iss": "supabase-demo", "role": "service_role", "exp": 1983812996}
    forged = jwt.encode(claims, PUBLIC_SECRETS["jwt_secret"], algorithm="HS256")
    async with httpx.AsyncClient(base_url=running.api_url) as http:
        for key in (forged, PUBLIC_SECRETS["secret_key"], PUBLIC_SECRETS["publishable_key"]):
            for path in ("/rest/v1/", "/auth/v1/admin/users", "/_faults"):
                answer = await http.get(path, headers={"apikey": key})
                assert answer.status_code in (401, 403), (path, answer.text)


def test_each_stack_has_its_own_secrets_and_keeps_them(directory: Path, running: LocalSupabase):
    first = running.status()
    with LocalSupabase(durable=False) as other:
        names = ("JWT_SECRET", "PUBLISHABLE_KEY", "SECRET_KEY", "ANON_KEY", "SERVICE_ROLE_KEY")
        assert not {first[name] for name in names} & {other.status()[name] for name in names}
        passwords = [urlsplit(url).password for url in (running.db_url, other.db_url)]
        assert passwords[0] != passwords[1]
        assert urlsplit(other.db_url).password != urlsplit(other.superuser_url).password
        data_dir = other.data_dir
        assert not secrets_of(running) & secrets_of(other)
    assert not data_dir.exists()
    before = secrets_of(running)
    running.stop()
    with running:
        assert secrets_of(running) == before
    running.start()


def test_keys_have_the_platforms_format(running: LocalSupabase):
    assert re.fullmatch(
        r"sb_publishable_[A-Za-z0-9_-]{22}_[A-Za-z0-9_-]{8}", running.publishable_key
    )
    assert re.fullmatch(r"sb_secret_[A-Za-z0-9_-]{22}_[A-Za-z0-9_-]{8}", running.secret_key)
    for key, role in ((running.anon_key, "anon"), (running.service_role_key, "service_role")):
        claims = jwt.decode(key, running.jwt_secret, algorithms=["HS256"])
        assert (claims["iss"], claims["role"]) == ("supabase-demo", role)


def test_all_files_are_closed_to_other_users(running: LocalSupabase):
    assert stat.S_IMODE(running.data_dir.stat().st_mode) == 0o700
    for name in ("secrets.json", "state.json", "lock"):
        assert stat.S_IMODE((running.data_dir / name).stat().st_mode) == 0o600
    for name in ("logs", "postgres", "storage"):
        assert stat.S_IMODE((running.data_dir / name).stat().st_mode) & 0o077 == 0


def test_command_lines_and_logs_contain_no_secret(running: LocalSupabase):
    hidden = secrets_of(running) | {TOKEN}
    words = "\n".join(word for process in list_processes(running) for word in process.cmdline())
    logs = "\n".join(file.read_text() for file in (running.data_dir / "logs").iterdir())
    assert "postgres" in words and logs
    assert not [secret for secret in hidden if secret in words or secret in logs]


def read_processes(
    stack: LocalSupabase, read: Callable[[psutil.Process], Any]
) -> list[tuple[str, Any]]:
    """Return the name of each running program of a stack, and a value read from it."""
    found = []
    for process in list_processes(stack):
        with contextlib.suppress(psutil.NoSuchProcess):
            found.append((process.name(), read(process)))
    return found


def list_listening_ports(stack: LocalSupabase, program: str) -> set[int]:
    """Return the ports on which programs of this name listen."""
    found = read_processes(stack, lambda process: process.net_connections("inet"))
    assert program in {name for name, _ in found}
    return {
        connection.laddr.port
        for name, connections in found
        if name == program
        for connection in connections
        if connection.status == psutil.CONN_LISTEN
    }


def test_no_program_has_the_token_in_its_environment(running: LocalSupabase):
    # Every program of the stack's user can read the environments.
    found = dict(read_processes(running, lambda process: process.environ()))
    assert {"postgres", "postgrest"} < set(found)
    assert TOKEN not in str(found)


def test_no_program_has_the_secrets_of_root(running: LocalSupabase):
    # The user may be `postgres` or `nobody`, whose other programs can read the environments.
    found = str(read_processes(running, lambda process: process.environ()))
    # The programs of an ordinary user may inherit variables for other software, such as AWS.
    forbidden = FOREIGN if os.geteuid() == 0 else FOREIGN.keys() - {"AWS_SECRET_ACCESS_KEY"}
    assert not [name for name in forbidden if FOREIGN[name] in found]


def test_no_port_reveals_the_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Check that PostgREST opens no port.

    Versions after 12.0 show `jwt-secret` and `db-uri` on their admin port. An API port would accept
    requests of web pages without a key, and a program that took it would get service tokens.
    """
    newer = tmp_path / "postgrest"
    real = make_reachable(find_postgrest(), service_user()).path
    newer.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo "PostgREST 14.1" || exec {real}\n')
    newer.chmod(0o755)
    monkeypatch.setenv("PICTURE_QUEUE_POSTGREST", str(newer))
    with LocalSupabase(durable=False) as stack:
        assert stack.postgrest.startswith("14.1 ")
        key = {"apikey": stack.secret_key}
        answer = httpx.post(f"{stack.api_url}/rest/v1/rpc/picture_queue_version", headers=key)
        assert answer.status_code == 200
        assert list_listening_ports(stack, "postgrest") == set()
        socket_file = stack.data_dir / "postgrest.sock"
        assert stat.S_IMODE(socket_file.stat().st_mode) == 0o600
        transport = httpx.HTTPTransport(uds=str(socket_file))
        with httpx.Client(transport=transport, base_url="http://postgrest") as http:
            assert http.get("/").status_code == 200
            for path in ("/config", "/schema_cache", "/metrics"):
                assert http.get(path).status_code == 404


async def test_another_program_on_the_port_gets_no_password(tmp_path: Path):
    """Listen on the port after the API's; the stack must not take it for the database."""
    for _ in range(20):
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        try:
            occupied = socket.create_server(("127.0.0.1", port + 1))
            break
        except OSError:
            continue
    with occupied:
        occupied.setblocking(False)
        async with LocalSupabase(port=port, durable=False) as stack:
            assert urlsplit(stack.db_url).port != port + 1
            connection = await asyncpg.connect(stack.superuser_url)
            assert await connection.fetchval("select inet_server_addr() is null"), "not a socket"
            await connection.close()
            tcp_users = await _list_tcp_users(stack)
            with pytest.raises(BlockingIOError):
                occupied.accept()
    assert tcp_users == []


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_program_that_takes_the_databases_port_during_the_start_stops_it(
    host: str, monkeypatch: pytest.MonkeyPatch
):
    """Listen on one address after the stack has chosen the port and before Postgres listens.

    Postgres would then use only the other address, and clients would send us the password.
    """
    if not _can_listen(host, 0):
        pytest.skip("this machine has no IPv6")
    real = make_reachable(find_postgres(), service_user()).path
    directory = local._temporary_directory()
    directory.chmod(0o777)
    (directory / "initdb").write_text(f'#!/bin/sh\nexec "{real}/initdb" "$@"\n')
    (directory / "postgres").write_text(
        f"""#!/bin/sh
        case "$*" in *listen_addresses*)
            echo "$*" > "{directory}/words.new"; mv "{directory}/words.new" "{directory}/words"
            while [ ! -e "{directory}/taken" ]; do sleep 0.05; done
        esac
        exec "{real}/postgres" "$@"
        """
    )
    for program in ("initdb", "postgres"):
        (directory / program).chmod(0o755)
    listeners: list[socket.socket] = []

    def take_port() -> None:
        """Wait until the stack starts Postgres; then listen on the port that it chose."""
        words = directory / "words"
        while not words.exists() and directory.exists():
            time.sleep(0.05)
        found = re.search(r"port=(\d+)", words.read_text())
        assert found
        listeners.append(socket.create_server((host, int(found[1])), family=LOOPBACK[host]))
        (directory / "taken").touch()

    monkeypatch.setenv("PICTURE_QUEUE_POSTGRES_BIN", str(directory))
    taking = threading.Thread(target=take_port)
    taking.start()
    try:
        with pytest.raises(PortTaken, match="is taken by another program"):
            LocalSupabase(durable=False).start()
    finally:
        shutil.rmtree(directory)
        taking.join()
        for listener in listeners:
            listener.close()


async def test_idle_connections_of_a_page_do_not_use_up_those_of_the_database(
    running: LocalSupabase,
):
    """Open as many connections as a page in Chromium can, with `<link rel=preconnect>`."""
    address = urlsplit(running.db_url)
    assert address.port
    with contextlib.ExitStack() as opened:
        for _ in range(256):
            client = socket.create_connection(("127.0.0.1", address.port))
            opened.enter_context(client)
        connection = await asyncpg.connect(running.db_url)
        await connection.close()


def _can_listen(host: str, port: int) -> bool:
    try:
        with socket.create_server((host, port), family=LOOPBACK[host]):
            return True
    except OSError as error:
        assert error.errno in (errno.EADDRINUSE, errno.EADDRNOTAVAIL)
        return False


@pytest.mark.skipif(not _can_listen("::1", 0), reason="this machine has no IPv6")
def test_no_other_program_can_listen_for_localhost(running: LocalSupabase):
    """Try also to listen on ::1, which a browser tries first for `localhost`."""
    urls = (running.api_url, running.replicate_url, running.db_url)
    for port, host in product((urlsplit(url).port or 0 for url in urls), LOOPBACK):
        assert not _can_listen(host, port)
    api = running.api_url.replace("127.0.0.1", "[::1]")
    simulator = running.replicate_url.replace("127.0.0.1", "[::1]")
    assert httpx.get(f"{api}/auth/v1/health").status_code == 200
    assert httpx.get(f"{simulator}/account").status_code == 401


def test_the_ports_of_a_killed_stack_stay_in_use_until_its_worker_ends():
    """Suspend the worker, which sends the service key to the ports of the stack."""
    with LocalSupabase(worker=True, durable=False) as stack:
        ports = [urlsplit(url).port or 0 for url in (stack.api_url, stack.replicate_url)]
        daemon, *children = list_processes(stack)
        worker = next(process for process in children if "worker" in process.cmdline())
        worker.suspend()  # The guard waits some seconds for it.
        daemon.kill()
        tries, taken = 0, set()
        while is_running(worker):
            for port, host in product(ports, LOOPBACK):
                tries += 1
                if _can_listen(host, port):
                    taken.add((host, port))
            time.sleep(0.05)
        assert tries > 10
    assert taken == set()


def test_a_long_path_also_uses_a_socket():
    """Use a path that is too long for a socket, whose limit is 103 to 107 bytes."""
    directory = local._temporary_directory()
    try:
        data_dir = directory.joinpath(*["d" * 60] * 4)
        with LocalSupabase(data_dir, durable=False) as stack:
            assert list_listening_ports(stack, "postgrest") == set()
            key = {"apikey": stack.secret_key}
            answer = httpx.post(f"{stack.api_url}/rest/v1/rpc/picture_queue_version", headers=key)
            assert answer.status_code == 200
            assert asyncio.run(_list_tcp_users(stack)) == []
            (sockets,) = parse_qs(urlsplit(stack.superuser_url).query)["host"]
            info = os.stat(sockets)
            assert stat.S_IMODE(info.st_mode) == 0o700
            assert info.st_uid == data_dir.stat().st_uid
        assert not Path(sockets).exists()
        local.reset(data_dir)
    finally:
        shutil.rmtree(directory)


def test_secrets_of_an_older_version_are_kept_and_extended():
    secrets = Secrets.generate().as_json()
    old = {name: value for name, value in secrets.items() if name != "simulator_token"}
    first, second = (Secrets.from_json(old).as_json() for _ in range(2))
    assert re.fullmatch("r8_[A-Za-z0-9]{37}", first["simulator_token"])
    assert first["simulator_token"] != second["simulator_token"] != secrets["simulator_token"]
    assert {name: first[name] for name in old} == old
    assert Secrets.from_json(secrets).as_json() == secrets


async def _list_tcp_users(stack: LocalSupabase) -> list[str]:
    """Return the users of the connections to the database over TCP instead of the socket."""
    connection = await asyncpg.connect(stack.superuser_url)
    found = await connection.fetch(
        "select usename from pg_stat_activity where client_addr is not null"
    )
    await connection.close()
    return [row[0] for row in found]


def _create_old_data(directory: Path) -> None:
    """Create the data of an older version, with a table that must be kept."""
    passwords = "".join(f"alter role {role} password 'postgres';" for role in ROLES)
    with LocalSupabase(directory, durable=False) as stack:
        asyncio.run(execute(stack.superuser_url, f"create table public.kept (); {passwords}"))
    (directory / "secrets.json").unlink()
    directory.chmod(0o755)
    if os.geteuid() == 0:
        for entry in (directory, *directory.rglob("*")):
            if (directory / "postgres") not in (entry, *entry.parents):
                os.chown(entry, 0, 0, follow_symlinks=False)


async def test_data_of_an_older_version_gets_new_secrets():
    directory = local._temporary_directory()
    try:
        await asyncio.to_thread(_create_old_data, directory)
        async with LocalSupabase(directory, durable=False) as stack:
            for role in ROLES:
                assert not await can_connect(stack.db_url, role, "postgres")
            connection = await asyncpg.connect(stack.db_url)
            assert await connection.fetchval("select to_regclass('public.kept') is not null")
            await connection.close()
            assert not set(PUBLIC_SECRETS.values()) & {*stack.status().values()}
            assert stat.S_IMODE(os.stat(directory).st_mode) == 0o700
            first = secrets_of(stack)
        async with LocalSupabase(directory, durable=False) as stack:
            assert secrets_of(stack) == first
    finally:
        local.reset(directory)


def test_the_output_of_env_is_valid_for_a_shell_and_for_dotenv(
    directory: Path, running: LocalSupabase
):
    command = [sys.executable, "-m", "picture_queue_cli", "local", "env", "--data-dir", directory]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    lines = dict(
        line.removeprefix("export ").split("=", 1)
        for line in printed.splitlines()
        if line.startswith("export ")
    )
    status = running.status()
    status |= {
        "SUPABASE_URL": status["API_URL"],
        "SUPABASE_SERVICE_ROLE_KEY": status["SERVICE_ROLE_KEY"],
    }
    assert {"API_URL", "DB_URL", "ANON_KEY", "SUPABASE_URL", "JWT_SECRET"} <= lines.keys()
    # Between double quotes, these characters have no special meaning in a shell or a .env file.
    assert {name: value.strip('"') for name, value in lines.items()} == {
        name: status[name] for name in lines
    }
    assert all(re.fullmatch(r'"[\w./:@?=&%+-]+"', value) for value in lines.values())
    shown = subprocess.run(
        ["sh", "-c", f'eval "$1"; {"; ".join(f"echo ${name}" for name in lines)}', "sh", printed],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert shown.stdout.splitlines() == [status[name] for name in lines]


@needs_root
def test_the_output_of_env_for_root_contains_no_shell_code(directory: Path, running: LocalSupabase):
    """Forge the state file: the user of the stack can write it, and root reads it."""
    state = directory / "state.json"
    stored = state.read_text()
    command = [sys.executable, "-m", "picture_queue_cli", "local", "env", "--data-dir", directory]
    try:
        for value in ("http://x$(id)", "http://x`id`", 'x"; id; "', "x\nid", "\\", "${PATH}", ""):
            forged = json.loads(stored)
            forged["status"]["API_URL"] = value
            state.write_text(json.dumps(forged))
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode != 0 and done.stdout == "", value
            assert "API_URL" in done.stderr
    finally:
        state.write_text(stored)


@needs_root
def test_nothing_of_a_stack_that_root_started_runs_as_root(running: LocalSupabase):
    found = {process.pid: process.uids() for process in list_processes(running)}
    # These are the daemon, the guard, the worker, PostgREST, Postgres and its child processes.
    assert len(found) > 8
    assert all(0 not in (*uids,) for uids in found.values()), found
    groups = [Path(f"/proc/{pid}/status").read_text() for pid in found]
    assert all(re.search(r"^Groups:\s*$", text, re.M) for text in groups)


#: A program that prints the files, sockets and processes of the stack that it could use.
_INTRUDER = """
import os, socket, sys
pids, files, sockets = sys.argv[1].split(","), sys.argv[2].split(","), sys.argv[3].split(",")
got = []
memory = [f"/proc/{pid}/{name}" for pid in pids for name in ("environ", "mem", "cwd/lock")]
for path in [*memory, *files]:
    try:
        with open(path, "rb") as file:
            if file.read(1) or path not in files: got.append(path)
    except (OSError, ValueError):
        pass
for path in [*files, *sockets]:
    for flags in (os.O_WRONLY, os.O_WRONLY | os.O_CREAT):
        try:
            os.close(os.open(path + ("" if flags == os.O_WRONLY else ".planted"), flags))
            got.append("wrote " + path)
        except OSError:
            pass
for path in sockets:
    try:
        socket.socket(socket.AF_UNIX).connect(path)
        got.append(path)
    except OSError:
        pass
for pid in pids:
    try:
        os.kill(int(pid), 0)
        got.append("signal " + pid)
    except OSError:
        pass
print(got, len(pids), len(files), len(sockets))
"""


@needs_root
def test_another_user_can_read_and_write_no_file(running: LocalSupabase):
    data = running.data_dir
    pids = [process.pid for process in list_processes(running)]
    files = [str(path) for path in data.rglob("*") if path.is_file() and "base" not in path.parts]
    sockets = [str(path) for path in data.rglob("*") if path.is_socket()]
    assert sockets and f"{data}/secrets.json" in files
    done = subprocess.run(
        ["/usr/bin/env", "python3", "-c", _INTRUDER]
        + [",".join(map(str, part)) for part in (pids, files, sockets)],
        capture_output=True, text=True, cwd="/", env={"PATH": "/usr/bin:/bin"}, **NOBODY,
    )  # fmt: skip
    assert done.stdout.strip() == f"[] {len(pids)} {len(files)} {len(sockets)}", done.stderr


@needs_root
async def test_another_user_cannot_run_code_with_public_secrets(running: LocalSupabase, tmp_path):
    """Try to log in with the old public password and to run a program."""
    psql = make_reachable(find_postgres(), ServiceUser("nobody", 65534, 65534)).path / "psql"
    parts = urlsplit(running.db_url)
    query = "create temp table t (x text); copy t from program 'id'; select * from t"
    for role in ROLES:
        done = await asyncio.to_thread(
            subprocess.run,
            [psql, "-h", "127.0.0.1", "-p", str(parts.port), "-U", role, "-c", query, "postgres"],
            capture_output=True, text=True, cwd="/",
            env={"PGPASSWORD": "postgres", "PATH": "/usr/bin:/bin"}, **NOBODY,
        )  # fmt: skip
        assert done.returncode != 0 and "uid=" not in done.stdout
        assert "password authentication failed" in done.stderr

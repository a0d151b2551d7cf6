"""A real PgBouncer in transaction mode, in front of a database."""

import os
import pwd
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

INSTALL_COMMAND = "apt-get install pgbouncer"
_CONFIGURATION = """
[databases]
{name} = host={host} port={server_port} dbname={name} user={user} password={password}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {users_file}
pool_mode = transaction
default_pool_size = 3
server_reset_query =
"""


def find_pgbouncer() -> str | None:
    """Return the path of PgBouncer; None if it is not installed."""
    return shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")


@contextmanager
def run_pgbouncer(url: str) -> Iterator[str]:
    """Run PgBouncer in front of the database of a URL; yield the URL of PgBouncer."""
    program = find_pgbouncer()
    if program is None:
        raise FileNotFoundError(f"PgBouncer is missing: {INSTALL_COMMAND}")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    server = urlsplit(url)
    name = server.path.lstrip("/") or "postgres"
    # A password protects the port, which every user of the machine can reach. It is passed in a
    # file, because every user can also read command lines.
    password = secrets.token_urlsafe()
    with TemporaryDirectory(prefix="pooler-") as directory:
        configuration_file = Path(directory) / "pgbouncer.ini"
        users_file = Path(directory) / "users.txt"
        users_file.write_text(f'"{server.username}" "{password}"\n')
        configuration_file.write_text(
            _CONFIGURATION.format(
                name=name,
                host=server.hostname,
                server_port=server.port or 5432,
                user=server.username,
                password=server.password,
                port=port,
                users_file=users_file,
            )
        )
        identity: dict[str, Any] = {}
        if os.getuid() == 0:
            # PgBouncer refuses to run as root.
            nobody = pwd.getpwnam("nobody")
            identity = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        for path in (configuration_file, users_file, Path(directory)):
            path.chmod(0o700 if path.is_dir() else 0o600)
            if identity:
                os.chown(path, identity["user"], identity["group"])
        process = subprocess.Popen(
            [program, configuration_file], stderr=subprocess.DEVNULL, **identity
        )
        try:
            _wait_until_listening(port)
            yield f"postgresql://{server.username}:{password}@127.0.0.1:{port}/{name}"
        finally:
            process.terminate()
            process.wait(10)


def _wait_until_listening(port: int) -> None:
    for _ in range(200):  # 10 seconds, with the pause of 0.05 s.
        with socket.socket() as probe:
            probe.settimeout(0.1)
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise TimeoutError("PgBouncer does not listen")

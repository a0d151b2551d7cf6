"""The options of an embedded stack, and their form on the command line of its daemon."""

import argparse
from dataclasses import dataclass
from pathlib import Path

from picture_queue.local.binaries import Program


@dataclass(frozen=True)
class Options:
    """The options of one stack.

    Args:
        data_dir: The data directory.
        postgres: The Postgres to run.
        postgrest: The PostgREST to run.
        port: Port of the API; 0 takes a free one.
        worker: Whether the stack also runs a worker.
        durable: False makes Postgres faster, but a power failure may lose data.
        lifeline: Stop when standard input closes, which means that the process that started the
            stack has ended.
        migrations: Whether to apply the migrations of picture-queue. Without them, the stack is
            like a new Supabase project.
        temporary: Whether the data directory is deleted at the end, by the process that started
            the stack. If that process dies first, the stack deletes the directory.
        replicate_seconds: Duration of the simulator's predictions; None: as long as real models.
        real_replicate: Whether the worker uses the real Replicate, which costs money.
        allowed_origins: Origins, besides loopback, whose pages may call the API.
    """

    data_dir: Path
    postgres: Program
    postgrest: Program
    port: int = 0
    worker: bool = False
    durable: bool = True
    lifeline: bool = False
    temporary: bool = False
    migrations: bool = True
    replicate_seconds: float | None = None
    real_replicate: bool = False
    allowed_origins: tuple[str, ...] = ()

    def arguments(self) -> list[str]:
        """Return the arguments from which `parse` makes these options."""
        arguments = ["--data-dir", str(self.data_dir), "--port", str(self.port)]
        for name, program in (("--postgres", self.postgres), ("--postgrest", self.postgrest)):
            place = "cache" if program.is_stored else "system"
            arguments += [name, str(program.path), program.version, program.origin, place]
        if self.replicate_seconds is not None:
            arguments += ["--replicate-seconds", str(self.replicate_seconds)]
        for origin in self.allowed_origins:
            arguments += ["--allow-origin", origin]
        switches = {
            "--real-replicate": self.real_replicate,
            "--worker": self.worker,
            "--not-durable": not self.durable,
            "--lifeline": self.lifeline,
            "--temporary": self.temporary,
            "--no-migrations": not self.migrations,
        }
        return arguments + [switch for switch, is_on in switches.items() if is_on]


def parse(arguments: list[str]) -> Options:
    """Parse the daemon's command line."""
    parser = argparse.ArgumentParser(prog="python -m picture_queue.local.daemon")
    parser.add_argument("--data-dir", type=Path, required=True)
    for name in ("--postgres", "--postgrest"):
        metavar = ("PATH", "VERSION", "ORIGIN", "PLACE")
        parser.add_argument(name, nargs=4, required=True, metavar=metavar)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--replicate-seconds", type=float)
    parser.add_argument("--allow-origin", dest="allowed_origins", action="append", default=[])
    parser.add_argument("--real-replicate", action="store_true")
    parser.add_argument("--worker", action="store_true")
    parser.add_argument("--not-durable", dest="durable", action="store_false")
    parser.add_argument("--lifeline", action="store_true")
    parser.add_argument("--temporary", action="store_true")
    parser.add_argument("--no-migrations", dest="migrations", action="store_false")
    values = vars(parser.parse_args(arguments))
    for name in ("postgres", "postgrest"):
        path, version, origin, place = values[name]
        values[name] = Program(Path(path), version, origin, is_stored=place == "cache")
    values["allowed_origins"] = tuple(values["allowed_origins"])
    return Options(**values)

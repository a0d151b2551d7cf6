"""The embedded stack's files: whose they are, and that nobody else can prepare or exchange them.

Case S7 was root with a data directory that somebody else had made, with symlinks in it: the stack
wrote and served files of root elsewhere.
"""

import json
import os
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from picture_queue.errors import LocalStackError
from picture_queue.local import stack as local
from picture_queue.local.datadir import DataDir
from picture_queue.local.ownership import expect_safe_path, open_own
from picture_queue.local.paths import cache_dir, service_user
from picture_queue.local.stack import LocalSupabase

IS_ROOT = os.geteuid() == 0
needs_root = pytest.mark.skipif(
    not IS_ROOT, reason="only root can give files to another user of the machine"
)
NOBODY = 65534


@pytest.fixture
def place() -> Iterator[Path]:
    """An empty directory that everybody may enter, deleted with all that is in it."""
    path = local._temporary_directory()
    path.chmod(0o755)
    yield path
    subprocess.run(["rm", "-rf", path], check=True)


def refused(path: Path, *words: str) -> None:
    """A start is refused in words that name the directory, and nothing was touched."""
    before = _listing(path)
    with pytest.raises(LocalStackError) as caught:
        LocalSupabase(path, durable=False).start()
    for word in words:
        assert word in str(caught.value)
    assert "/tmp " not in f"{caught.value.hint} "
    assert _listing(path) == before


def _listing(path: Path) -> list[tuple[str, int, int]]:
    if not path.exists():
        return []
    entries = [path, *sorted(path.rglob("*"))]
    return [(str(e), e.lstat().st_uid, e.lstat().st_mode) for e in entries]


@needs_root
def test_a_directory_of_somebody_else_is_refused(place: Path):
    data = place / "data"
    data.mkdir(mode=0o755)
    os.chown(data, NOBODY, NOBODY)
    for action in (local.status, local.stop, local.reset):
        with pytest.raises(LocalStackError, match=r"belongs to nobody, and you are root"):
            action(data)
    refused(data, "belongs to nobody", "owner nobody, mode 0755", "--data-dir")


@pytest.mark.skipif(IS_ROOT, reason="everything is root's to use")
def test_a_directory_of_root_is_refused_for_an_ordinary_user():
    refused(Path("/usr"), "belongs to root", "owner root")


@needs_root
def test_the_attack_of_s7_writes_nowhere(place: Path):
    """Somebody makes the directory with symlinks in it, then root starts a stack there."""
    target = place / "target"
    target.mkdir()
    data = place / "data"
    (data / "storage").mkdir(parents=True)
    (data / "logs").mkdir()
    (data / "storage" / "objects").symlink_to(target)
    (data / "logs" / "daemon.log").symlink_to(target / "written")
    for entry in (data, *data.rglob("*")):
        os.chown(entry, NOBODY, NOBODY, follow_symlinks=False)
    refused(data, "belongs to nobody")
    # The same where only the directory itself was given to root.
    os.chown(data, 0, 0)
    refused(data, "a file of another user")
    assert os.listdir(target) == []


@pytest.mark.parametrize("planted", ["logs", "storage", "logs/daemon.log", "lock", "state.json"])
def test_symlinks_in_the_directory_are_refused(place: Path, planted: str):
    target = place / "target"
    target.mkdir()
    data = place / "data"
    (data / planted).parent.mkdir(parents=True)
    (data / planted).symlink_to(target if "." not in planted else target / "written")
    refused(data, "symlink")
    assert os.listdir(target) == []


def test_symlinks_in_a_closed_directory_are_not_followed_either(place: Path):
    """They are found when the file is opened: a closed directory is not searched at each start."""
    data = DataDir(place / "data")
    with LocalSupabase(data.path, durable=False):
        pass
    for planted in (data.log("daemon"), data.path / "lock"):
        planted.unlink()
        planted.symlink_to(place / "written")
        with pytest.raises(LocalStackError, match="is a symlink"):
            LocalSupabase(data.path, durable=False).start()
        planted.unlink()
    assert not (place / "written").exists()


def test_a_file_with_a_second_name_is_not_written(tmp_path: Path):
    mine = tmp_path / "mine"
    mine.touch()
    os.link(mine, tmp_path / "log")
    with pytest.raises(LocalStackError, match="not a file of this stack"):
        open_own(tmp_path / "log", os.O_WRONLY)
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(LocalStackError, match="not a file of this stack"):
        open_own(tmp_path / "fifo", os.O_RDONLY)


def test_a_symlink_for_the_directory_is_refused(place: Path):
    (place / "real").mkdir()
    (place / "data").symlink_to(place / "real")
    refused(place / "data", "is a symlink", f"-> {place}/real")
    assert os.listdir(place / "real") == []


def test_a_way_that_others_can_exchange_is_refused(place: Path):
    (place / "open").mkdir()
    (place / "open").chmod(0o777)
    refused(place / "open" / "data", "Other users can replace", "mode 0777")
    # A sticky directory, as /tmp, protects what is ours.
    (place / "open").chmod(0o1777)
    with LocalSupabase(place / "open" / "data", durable=False):
        pass
    local.reset(place / "open" / "data")


@needs_root
def test_a_way_through_links_of_others_is_refused(place: Path):
    (place / "safe").mkdir()
    (place / "shared").mkdir(mode=0o755)
    (place / "shared").chmod(0o1777)
    link = place / "shared" / "link"
    link.symlink_to(place / "safe")
    expect_safe_path(link / "data")
    os.chown(link, NOBODY, NOBODY, follow_symlinks=False)
    refused(link / "data", "Other users can replace", "owner nobody")
    (place / "shared" / "theirs").mkdir()
    os.chown(place / "shared" / "theirs", NOBODY, NOBODY)
    refused(place / "shared" / "theirs" / "data", "owner nobody")
    (place / "loop").symlink_to("loop")
    with pytest.raises(LocalStackError, match="too many symlinks"):
        expect_safe_path(place / "loop" / "data")


def test_an_open_directory_with_other_files_is_refused_and_a_closed_one_taken(place: Path):
    data = place / "data"
    data.mkdir(mode=0o755)
    (data / "thesis.txt").write_text("keep me")
    refused(data, "contains other files", "mode 0755", "--data-dir")
    if IS_ROOT:
        data.chmod(0o700)  # it would be given to the service user, with the thesis
        refused(data, "contains other files")
    (data / "thesis.txt").unlink()
    (data / "lock").touch()
    data.chmod(0o777)
    refused(data, "Other users can write into the data directory", "mode 0777")


def test_an_open_directory_of_an_older_version_is_closed(place: Path):
    data = place / "data"
    data.mkdir(mode=0o755)
    (data / "logs").mkdir()
    with LocalSupabase(data, durable=False):
        info = data.stat()
        user = service_user()
        assert stat.S_IMODE(info.st_mode) == 0o700
        assert info.st_uid == (user.uid if user else os.geteuid())
        assert (data / "logs").stat().st_uid == info.st_uid


@needs_root
def test_a_directory_out_of_reach_is_named_with_its_owner_and_mode(place: Path):
    place.chmod(0o700)
    with pytest.raises(LocalStackError) as caught:
        LocalSupabase(place / "data", durable=False).start()
    assert f"cannot enter {place}: {place} (owner root, mode 0700)" in str(caught.value)
    assert "/var/lib" in str(caught.value) and "/tmp," not in str(caught.value.hint)


def test_reset_follows_no_symlink(place: Path):
    (place / "target").mkdir()
    (place / "target" / "thesis.txt").touch()
    data = place / "data"
    data.mkdir()
    (data / "storage").symlink_to(place / "target")
    local.reset(data)
    assert os.listdir(place / "target") == ["thesis.txt"] and not data.exists()


def test_a_lock_that_names_a_process_of_others_stops_nothing(place: Path):
    """Root would end what the service user writes into its lock file."""
    data = DataDir(place / "data")
    data.prepare(None)
    user = service_user()
    # For root a process of root, in a file that the service user wrote; else root's first.
    victim = psutil.Process(os.getpid() if user else 1)
    lock = data.path / "lock"
    lock.write_text(json.dumps({"pid": victim.pid, "started": victim.create_time()}))
    if user:
        for entry in (lock, data.path):
            os.chown(entry, user.uid, user.gid)
    holder = subprocess.Popen(
        [sys.executable, "-c", "import fcntl, sys; f = open(sys.argv[1]); "
         "fcntl.flock(f, fcntl.LOCK_EX); print(flush=True); sys.stdin.read()", lock],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert holder.stdout and holder.stdout.readline()
    assert data.locked()
    assert data.daemon() is None
    holder.communicate()


def test_nothing_in_the_working_directory_is_imported(place: Path, monkeypatch: pytest.MonkeyPatch):
    """`picture-queue local start` in a directory where somebody else left modules."""
    for name in ("uvloop", "psutil", "jwt", "sitecustomize"):
        (place / f"{name}.py").write_text("open('imported', 'w'); raise SystemExit(1)")
    place.chmod(0o777)
    monkeypatch.chdir(place)
    with LocalSupabase(worker=True, durable=False) as stack:
        log = stack.data_dir / "logs" / "worker.log"
        deadline = time.monotonic() + 30
        while not (log.exists() and log.read_text()):
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert not (place / "imported").exists()


def test_the_cache_is_writable_for_its_owner_alone(place: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(place))
    cache = cache_dir()
    assert cache == place / "picture-queue"
    assert stat.S_IMODE(cache.stat().st_mode) == (0o755 if IS_ROOT else 0o700)
    monkeypatch.setattr("tempfile.tempdir", "/dev/null")
    cache.chmod(0o775)
    os.chown(cache, -1, NOBODY) if IS_ROOT else cache.chmod(0o777)
    with pytest.raises(LocalStackError, match=r"mode 0?77.*XDG_CACHE_HOME"):
        cache_dir()
    cache.chmod(0o755)
    place.chmod(0o777)
    with pytest.raises(LocalStackError, match="Other users can replace"):
        cache_dir()

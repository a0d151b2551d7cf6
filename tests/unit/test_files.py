"""Picture files are written safely in directories that other users of the machine can change."""

import os
import stat
from pathlib import Path

import pytest
import typer

from picture_queue._files import replace_file
from picture_queue_cli.pictures import make_directory

needs_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="only root can give files to another user of the machine"
)
NOBODY_UID = 65534


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_file_is_replaced_and_keeps_its_permissions(tmp_path: Path) -> None:
    previous_umask = os.umask(0o022)
    try:
        replace_file(tmp_path / "new", b"1")
        assert mode(tmp_path / "new") == 0o644
        (tmp_path / "new").chmod(0o600)
        os.link(tmp_path / "new", tmp_path / "other name")
        replace_file(tmp_path / "new", b"2")
    finally:
        os.umask(previous_umask)
    assert (tmp_path / "new").read_bytes() == b"2" and mode(tmp_path / "new") == 0o600
    assert (tmp_path / "other name").read_bytes() == b"1"
    assert sorted(os.listdir(tmp_path)) == ["new", "other name"]


def test_a_symlink_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "target").write_bytes(b"mine")
    (tmp_path / "link").symlink_to("target")
    (tmp_path / "dangling").symlink_to("missing")
    for name in ("link", "dangling"):
        with pytest.raises(OSError, match="is a symlink") as raised:
            replace_file(tmp_path / name, b"picture")
        assert raised.value.filename == str(tmp_path / name)
    # If another user creates the symlink after the check, the symlink itself is replaced. Here the
    # check looks at a path that does not exist.
    lstat = Path.lstat
    monkeypatch.setattr(Path, "lstat", lambda path: lstat(tmp_path / "absent"))
    replace_file(tmp_path / "link", b"picture")
    monkeypatch.undo()
    assert (tmp_path / "target").read_bytes() == b"mine"
    assert (tmp_path / "link").read_bytes() == b"picture"
    assert not (tmp_path / "link").is_symlink() and not (tmp_path / "missing").exists()


def test_a_failed_write_changes_nothing(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "directory").mkdir()
    for name in ("fifo", "directory"):
        with pytest.raises(OSError, match="is not a regular file"):
            replace_file(tmp_path / name, b"")
    with pytest.raises(FileNotFoundError):
        replace_file(tmp_path / "absent" / "file", b"")
    (tmp_path / "file").write_bytes(b"1")
    with pytest.raises(TypeError):
        replace_file(tmp_path / "file", "text")  # type: ignore[arg-type]
    assert (tmp_path / "file").read_bytes() == b"1"
    assert sorted(os.listdir(tmp_path)) == ["directory", "fifo", "file"]


def test_a_new_directory_for_pictures_is_never_writable_by_others(tmp_path: Path) -> None:
    previous_umask = os.umask(0)
    try:
        make_directory(tmp_path / "a" / "outputs")
    finally:
        os.umask(previous_umask)
    assert mode(tmp_path / "a") == mode(tmp_path / "a" / "outputs") == 0o755


def test_a_directory_that_others_can_write_gets_no_pictures(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(typer.BadParameter, match=r"Other users can replace .*mode 0777\)"):
        make_directory(tmp_path)
    with pytest.raises(typer.BadParameter, match="Other users can replace"):
        make_directory(tmp_path / "outputs")
    assert os.listdir(tmp_path) == []
    # In a directory with the sticky bit, such as /tmp, users cannot replace files of others.
    tmp_path.chmod(0o1777)
    make_directory(tmp_path)


@needs_root
def test_a_directory_of_another_user_gets_no_pictures(tmp_path: Path) -> None:
    """Check a directory, and a symlink to a directory of this user, that belong to another user."""
    target, outputs, link = (tmp_path / name for name in ("target", "outputs", "link"))
    target.mkdir()
    outputs.mkdir()
    link.symlink_to(target)
    for path in (outputs, link):
        make_directory(path)
        os.chown(path, NOBODY_UID, NOBODY_UID, follow_symlinks=False)
        for directory in (path, path / "below"):
            with pytest.raises(typer.BadParameter, match="Other users can replace"):
                make_directory(directory)
        assert os.listdir(target) == []


@needs_root
def test_a_directory_of_another_user_gets_pictures_if_it_is_named_as_safe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    os.chown(checkout, NOBODY_UID, NOBODY_UID)
    checkout.chmod(0o775)
    variable = f"PICTURE_QUEUE_SAFE_DIRECTORY={checkout}"
    with pytest.raises(typer.BadParameter, match=f"run the command as nobody.* {variable}"):
        make_directory(checkout / "a" / "outputs")
    monkeypatch.setenv("PICTURE_QUEUE_SAFE_DIRECTORY", str(checkout))
    make_directory(checkout / "a" / "outputs")
    assert (checkout / "a" / "outputs").is_dir()

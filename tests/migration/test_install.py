"""`picture-queue install` writes the migrations as files into a project."""

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from picture_queue._files import OpenDirectory
from picture_queue._resources import Migration, migrations
from picture_queue.errors import InstallationRefused, SettingsError
from picture_queue.installation import folder

IS_ROOT = hasattr(os, "geteuid") and os.geteuid() == 0
NOW = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
FIRST = Migration("20261123000000_pre_one.sql", "select 1;\n")
SECOND = Migration("20261201000000_post_two.sql", "select 'ü';\n")
THIRD = Migration("20270101000000_pre_three.sql", "select 3;\n")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Create the files of `supabase init`."""
    (tmp_path / "supabase").mkdir()
    return tmp_path / "supabase"


@pytest.fixture(autouse=True)
def ship_two_migrations(ship: Any) -> None:
    ship(FIRST, SECOND, instead=True)


def install(project: Path, now: datetime = NOW) -> folder.Installation:
    return folder.install(project, "9.9.9", now)


def names(project: Path) -> list[str]:
    """Return the names of all files of the project, including hidden files."""
    return sorted(
        str(path.relative_to(project)).removeprefix("migrations" + os.sep)
        for path in project.rglob("*")
        if path.name != "migrations"
    )


def test_all_migrations_are_written_with_ascending_timestamps(project: Path, ship: Any) -> None:
    ship()
    done = folder.install(project, "9.9.9", NOW)
    shipped = migrations()
    assert [path.name for path in done.written] == [
        f"{20300102030405 + position}_{file.file_name}" for position, file in enumerate(shipped)
    ]
    for path, file in zip(done.written, shipped, strict=True):
        header, _, rest = path.read_text("utf-8").partition("\n")
        assert rest == file.sql
        assert header.startswith(f"-- {file.file_name} of picture-queue 9.9.9, sha256 ")
    assert names(project) == [path.name for path in done.written]


def test_a_second_install_writes_nothing(project: Path) -> None:
    first = install(project)
    again = install(project, NOW.replace(year=2031))
    assert (again.written, again.present, again.edited) == ((), first.written, ())


def test_a_later_version_adds_new_migrations_after_existing_files(project: Path, ship: Any) -> None:
    install(project)
    (project / "migrations" / "20300601000000_mine.sql").touch()
    ship(FIRST, SECOND, THIRD, instead=True)
    done = install(project)
    assert [path.name for path in done.written] == ["20300601000001_20270101000000_pre_three.sql"]
    assert len(done.present) == 2


@pytest.mark.parametrize(
    ("existing", "stamp"),
    [
        ("20300102030404_a.sql", "20300102030405"),
        ("20300102030405_a.sql", "20300102030406"),
        ("20991231235959_a.sql", "20991231235960"),
        ("0001_a.sql", "20300102030405"),
        # The Supabase CLI ignores both files.
        ("notes.txt", "20300102030405"),
        ("20991231235959-a.sql", "20300102030405"),
    ],
)
def test_the_timestamp_is_later_than_now_and_the_newest_file(
    project: Path, existing: str, stamp: str
) -> None:
    (project / "migrations").mkdir()
    (project / "migrations" / existing).touch()
    assert install(project).written[0].name == f"{stamp}_{FIRST.file_name}"


def test_a_file_that_sorts_after_every_timestamp_is_refused(project: Path) -> None:
    (project / "migrations").mkdir()
    (project / "migrations" / "999_a.sql").touch()
    with pytest.raises(InstallationRefused, match="does not have fourteen digits") as refused:
        install(project)
    assert refused.value.detail == "999"
    assert names(project) == ["999_a.sql"]


def test_a_migration_that_was_copied_by_hand_is_recognised(project: Path) -> None:
    (project / "migrations").mkdir()
    (project / "migrations" / FIRST.file_name).write_text(FIRST.sql, "utf-8")
    done = install(project)
    assert [path.name for path in done.present] == [FIRST.file_name]
    assert [path.name for path in done.written] == [f"20300102030405_{SECOND.file_name}"]


def test_no_symlink_of_another_user_is_followed(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another user who may write to the project adds symlinks to the staging directory."""
    target = tmp_path / "target"
    target.write_text("important")
    make_directory = OpenDirectory.make_directory

    def make_directory_with_symlinks(directory: OpenDirectory, name: str) -> None:
        make_directory(directory, name)
        if name.startswith("."):
            for migration in (FIRST, SECOND):
                for stamp in (20300102030405, 20300102030406):
                    link = directory.path / name / f"{stamp}_{migration.file_name}"
                    link.symlink_to(target)

    monkeypatch.setattr(OpenDirectory, "make_directory", make_directory_with_symlinks)
    with pytest.raises(SettingsError, match="cannot be written"):
        install(project)
    assert target.read_text() == "important"


def test_a_project_that_others_can_write_is_refused(project: Path) -> None:
    (project / "migrations").mkdir()
    for directory in (project / "migrations", project):
        directory.chmod(0o777)
        with pytest.raises(SettingsError, match="Other users can replace") as refused:
            install(project)
        assert "mode 0777" in (refused.value.detail or "") and refused.value.hint
        directory.chmod(0o755)
        assert names(project) == []


@pytest.mark.parametrize("level", [0, 1])
def test_a_project_whose_parent_others_can_write_is_refused(tmp_path: Path, level: int) -> None:
    """They could rename the parent of the project, and create another project in its place."""
    project = tmp_path / "a" / "b" / "supabase"
    project.mkdir(parents=True)
    parent = project.parents[level]
    parent.chmod(0o777)
    with pytest.raises(SettingsError, match=f"Other users can replace `{parent}`"):
        install(project)
    (tmp_path / "link").symlink_to(project)
    with pytest.raises(SettingsError, match=f"Other users can replace `{parent}`"):
        install(tmp_path / "link")
    assert names(project) == []


def exchange(directory: Path, replacement: Path) -> None:
    """Move a directory away, and another to its path."""
    directory.rename(directory.with_name("moved"))
    replacement.rename(directory)


@pytest.mark.parametrize("name", ["project", "project/supabase", "project/supabase/migrations"])
def test_a_directory_that_was_exchanged_before_the_check_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Another user who may do so exchanges a directory after it was opened."""
    project, checked = tmp_path / "project" / "supabase", []
    for parent in (project, tmp_path / "other" / "supabase"):
        (parent / "migrations").mkdir(parents=True)
    expect_safe = folder._expect_safe

    def exchange_and_check(directory: OpenDirectory) -> None:
        if directory.path.name == ("migrations" if "migrations" in name else "supabase"):
            exchange(tmp_path / name, tmp_path / name.replace("project", "other"))
        checked.append(directory.path)
        expect_safe(directory)

    monkeypatch.setattr(folder, "_expect_safe", exchange_and_check)
    with pytest.raises(SettingsError, match="was replaced"):
        install(project)
    assert checked
    assert not list(tmp_path.rglob("*.sql"))


@pytest.mark.parametrize("name", ["project", "project/supabase", "project/supabase/migrations"])
def test_nothing_is_written_into_a_directory_that_was_exchanged_after_the_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    project, target = tmp_path / "project" / "supabase", tmp_path / "other"
    for parent in (project, target / "supabase"):
        (parent / "migrations").mkdir(parents=True)
    install_files = folder._install

    def exchange_and_install(*arguments: Any) -> folder.Installation:
        exchange(tmp_path / name, tmp_path / name.replace("project", "other"))
        return install_files(*arguments)

    monkeypatch.setattr(folder, "_install", exchange_and_install)
    install(project)
    written = list(tmp_path.rglob("*.sql"))
    assert len(written) == 2
    assert all("moved" in path.parts for path in written)


@pytest.mark.skipif(not IS_ROOT, reason="only root can give files to another user of the machine")
def test_root_installs_into_the_checkout_of_another_user_if_the_checkout_is_named_as_safe(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a container, root often works in a checkout of the host's user, with umask 002."""
    checkout = project.parent
    for directory in (checkout, project):
        os.chown(directory, 12345, 12345)
        directory.chmod(0o775)
    for value in ("", str(project), str(checkout) + "x"):
        monkeypatch.setenv("PICTURE_QUEUE_SAFE_DIRECTORY", value)
        with pytest.raises(SettingsError, match=f"can replace `{checkout}`") as refused:
            install(project)
        assert refused.value.detail == f"{checkout} (owner 12345, mode 0775)"
        assert "run the command as 12345" in (refused.value.hint or "")
        assert f"PICTURE_QUEUE_SAFE_DIRECTORY={checkout}" in (refused.value.hint or "")
    assert names(project) == []
    monkeypatch.setenv("PICTURE_QUEUE_SAFE_DIRECTORY", f"/nowhere:{checkout}")
    assert len(install(project).written) == 2


def test_a_safe_directory_does_not_cover_its_parents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / "open" / "supabase"
    project.mkdir(parents=True)
    project.parent.chmod(0o777)
    monkeypatch.setenv("PICTURE_QUEUE_SAFE_DIRECTORY", str(project))
    with pytest.raises(SettingsError, match="Other users can replace"):
        install(project)


def test_a_safe_directory_must_be_absolute(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PICTURE_QUEUE_SAFE_DIRECTORY", "supabase")
    with pytest.raises(SettingsError, match="'supabase', which is not an absolute path"):
        install(project)


@pytest.mark.skipif(not IS_ROOT, reason="only root can give files to another user of the machine")
def test_a_project_of_another_user_is_refused(project: Path, tmp_path: Path) -> None:
    os.chown(project, 65534, 65534)
    with pytest.raises(SettingsError, match="Other users can replace"):
        install(project)
    os.chown(project, 0, 0)
    (tmp_path / "link").symlink_to(project)
    os.chown(tmp_path / "link", 65534, 65534, follow_symlinks=False)
    with pytest.raises(SettingsError, match="Other users can replace"):
        install(tmp_path / "link")
    assert names(project) == []


def test_only_own_files_are_deleted_afterwards(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another user exchanges the staging directory for a directory of the caller."""
    (project / "functions").mkdir()
    (project / "functions" / "index.ts").write_text("important")
    move = folder._move

    def move_and_exchange(
        staging: OpenDirectory, directory: OpenDirectory, names: list[str]
    ) -> list[Path]:
        moved = move(staging, directory, names)
        staging.path.rename(project / "gone")
        (project / "functions").rename(staging.path)
        return moved

    monkeypatch.setattr(folder, "_move", move_and_exchange)
    install(project)
    assert (project / folder._STAGING / "index.ts").read_text() == "important"


def test_a_line_without_end_is_not_read_completely(project: Path) -> None:
    (project / "migrations").mkdir()
    for name in ("20250101000000_large.sql", f"20250101000001_{FIRST.file_name}"):
        with (project / "migrations" / name).open("wb") as file:
            file.truncate(8_000_000_000)  # a sparse file
    done = install(project)
    assert [path.name for path in done.edited] == [f"20250101000001_{FIRST.file_name}"]


def test_an_edited_file_is_reported_and_not_changed(project: Path) -> None:
    first, second = install(project).written
    edited = first.read_text("utf-8") + "drop table users;\n"
    first.write_text(edited, "utf-8")
    done = install(project)
    assert (done.edited, done.present, done.written) == ((first,), (second,), ())
    assert first.read_text("utf-8") == edited


def test_windows_line_endings_do_not_count_as_an_edit(project: Path) -> None:
    first = install(project).written[0]
    first.write_bytes(first.read_bytes().replace(b"\n", b"\r\n"))
    assert install(project).edited == ()


def test_a_file_of_another_unreleased_version_is_refused_with_a_hint(
    project: Path, ship: Any
) -> None:
    before = install(project)
    ship(Migration(FIRST.file_name, "select 'rewritten';\n"), SECOND, instead=True)
    with pytest.raises(InstallationRefused, match="another version of picture-queue") as refused:
        install(project)
    assert "docs/supabase.md" in (refused.value.hint or "")
    assert names(project) == [path.name for path in before.written]


def test_a_folder_of_a_newer_package_is_refused(project: Path, ship: Any) -> None:
    ship(FIRST, SECOND, THIRD, instead=True)
    install(project)
    ship(FIRST, SECOND, instead=True)
    with pytest.raises(InstallationRefused, match="newer version of picture-queue"):
        install(project)


def test_a_missing_file_is_refused(project: Path) -> None:
    install(project).written[0].unlink()
    with pytest.raises(InstallationRefused, match=r"pre_one is missing, but .*post_two"):
        install(project)


def test_a_duplicate_file_is_refused(project: Path) -> None:
    first = install(project).written[0]
    first.with_name(f"20310101000000_{FIRST.file_name}").write_text(first.read_text())
    with pytest.raises(InstallationRefused, match="pre_one is installed twice"):
        install(project)


def test_timestamps_out_of_order_are_refused(project: Path) -> None:
    first = install(project).written[0]
    first.rename(first.with_name(f"20310101000000_{FIRST.file_name}"))
    with pytest.raises(InstallationRefused, match="out of order"):
        install(project)


def test_a_failed_install_leaves_no_file(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    move_file = OpenDirectory.move_file

    def move_on_full_disk(staging: OpenDirectory, name: str, target: OpenDirectory) -> None:
        if SECOND.file_name in name:
            raise OSError(28, "No space left on device", name)
        move_file(staging, name, target)

    monkeypatch.setattr(OpenDirectory, "move_file", move_on_full_disk)
    with pytest.raises(SettingsError, match="No space left on device"):
        install(project)
    assert names(project) == []
    monkeypatch.undo()


def test_a_concurrent_install_is_refused(project: Path) -> None:
    with OpenDirectory(project) as directory, folder._staging(directory):
        with pytest.raises(InstallationRefused, match="Another installation") as refused:
            install(project)
        assert str(project) in (refused.value.detail or "")
    assert len(install(project).written) == 2


def test_the_error_for_a_missing_project_has_a_hint(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="is not a directory") as refused:
        install(tmp_path / "supabase")
    assert "supabase init" in (refused.value.hint or "")


def test_the_parent_of_the_supabase_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "supabase").mkdir()
    (tmp_path / "supabase" / "config.toml").touch()
    with pytest.raises(SettingsError, match="is not the directory") as refused:
        install(tmp_path)
    assert refused.value.hint == f"Use --dir {tmp_path / 'supabase'}"
    assert not (tmp_path / "migrations").exists()

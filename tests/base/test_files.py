import os
import stat
from concurrent.futures import ThreadPoolExecutor

import pytest

from rarememory.base import files
from rarememory.base.files import write_atomically


def test_a_file_is_written_under_the_name_that_it_will_have(tmp_path):
    names = []
    write_atomically(tmp_path / "a.npz", lambda path: names.append(path.name) or path.touch())
    assert names == ["a.npz"] and os.listdir(tmp_path) == ["a.npz"]


def test_a_writer_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a"
    path.write_text("old")

    def fail(temporary):
        temporary.write_text("half")
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        write_atomically(path, fail)
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_disk_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, step):
    path = tmp_path / "a"
    path.write_text("old")

    def fail(*_):
        raise OSError("the disk is full")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match="full"):
        write_atomically(path, lambda temporary: temporary.write_text("new"))
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a"]


def test_the_content_is_on_the_disk_before_the_file_has_its_name(tmp_path, monkeypatch):
    path, order, fsync, replace = tmp_path / "a", [], os.fsync, os.replace

    def flush(handle):
        order.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", flush)
    monkeypatch.setattr(os, "replace", lambda *paths: order.append("name") or replace(*paths))
    write_atomically(path, lambda temporary: temporary.write_text("new"))
    assert order == (["file", "name", "folder"] if os.name == "posix" else ["file", "name"])


def test_of_writers_at_once_one_wins_whole(tmp_path):
    path, contents = tmp_path / "a", [letter * 200_000 for letter in "abcdefgh"]

    def write(content):
        write_atomically(path, lambda temporary: temporary.write_text(content))
        return path.read_text()

    with ThreadPoolExecutor(len(contents)) as pool:
        assert set(pool.map(write, contents)) <= set(contents)
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.skipif(os.name != "posix", reason="permissions as POSIX has them")
def test_a_new_file_has_the_permissions_of_open_and_an_old_one_keeps_its_own(tmp_path):
    path, before = tmp_path / "a", os.umask(0o022)
    try:
        write_atomically(path, lambda temporary: temporary.write_text("new"))
        assert stat.S_IMODE(path.stat().st_mode) == 0o644
        path.chmod(0o600)
        write_atomically(path, lambda temporary: temporary.write_text("newer"))
        assert stat.S_IMODE(path.stat().st_mode) == 0o600 and path.read_text() == "newer"
    finally:
        os.umask(before)


def test_missing_folders_are_created_only_if_asked_for(tmp_path):
    path = tmp_path / "b" / "c" / "a"
    with pytest.raises(FileNotFoundError):
        write_atomically(path, lambda temporary: temporary.touch())
    write_atomically(path, lambda temporary: temporary.touch(), parents=True)
    assert path.exists()


posix = pytest.mark.skipif(os.name != "posix", reason="locks and links as POSIX has them")


@posix
def test_a_save_removes_what_killed_ones_have_left_and_nothing_else(tmp_path):
    path = tmp_path / "a"
    others = [tmp_path / ".a.backup", tmp_path / ".b.12345678.draft", tmp_path / ".a.draft.txt"]
    for left in (tmp_path / ".a.12345678.draft", tmp_path / ".a.87654321.draft", *others):
        left.mkdir()
        (left / "a").write_text("half")
    file = tmp_path / ".a.kea.draft"
    file.touch()
    write_atomically(path, lambda temporary: temporary.write_text("new"))
    assert {*tmp_path.iterdir()} == {path, file, *others}


@posix
def test_a_save_leaves_alone_what_another_is_writing(tmp_path):
    path, drafts = tmp_path / "a", []

    def write(temporary):
        temporary.write_text("first")
        write_atomically(path, lambda other: drafts.append(other) or other.write_text("second"))
        assert temporary.read_text() == "first" and path.read_text() == "second"
        drafts.append(temporary)

    write_atomically(path, write)
    assert path.read_text() == "first" and len({*drafts}) == 2
    assert os.listdir(tmp_path) == ["a"]


@posix
def test_a_draft_that_another_takes_for_abandoned_is_made_again(tmp_path, monkeypatch):
    made, mkdtemp = [], files.mkdtemp

    def gone(**options):
        made.append(mkdtemp(**options))
        if len(made) == 1:
            os.rmdir(made[0])
        return made[-1]

    monkeypatch.setattr(files, "mkdtemp", gone)
    write_atomically(tmp_path / "a", lambda temporary: temporary.write_text("new"))
    assert len(made) == 2 and os.listdir(tmp_path) == ["a"]


@posix
def test_a_draft_that_another_removes_before_it_is_locked_is_made_again(tmp_path, monkeypatch):
    removed, flock = [], files.fcntl.flock

    def late(lock, how):
        if not removed:
            removed.extend(tmp_path.iterdir())
            os.rmdir(removed[0])
        flock(lock, how)

    monkeypatch.setattr(files.fcntl, "flock", late)
    write_atomically(tmp_path / "a", lambda temporary: temporary.write_text("new"))
    assert len(removed) == 1 and os.listdir(tmp_path) == ["a"]


@posix
@pytest.mark.parametrize("there", [True, False])
def test_a_link_stays_one_and_its_target_is_replaced(tmp_path, there):
    for folder in ("disk", "links"):
        (tmp_path / folder).mkdir()
    target, link = tmp_path / "disk" / "a", tmp_path / "links" / "b"
    second = tmp_path / "links" / "c"
    link.symlink_to("../disk/a")
    second.symlink_to(link)
    if there:
        target.write_text("old")
        target.chmod(0o600)
    write_atomically(second, lambda temporary: temporary.write_text("new"))
    assert link.is_symlink() and second.is_symlink() and not target.is_symlink()
    assert target.read_text() == second.read_text() == "new"
    assert not there or stat.S_IMODE(target.stat().st_mode) == 0o600
    assert os.listdir(target.parent) == ["a"]


@posix
def test_links_in_a_circle_are_refused(tmp_path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(OSError, match="symbolic links"):
        write_atomically(tmp_path / "a", lambda temporary: temporary.write_text("new"))
    assert (tmp_path / "a").is_symlink()


@posix
def test_a_folder_that_cannot_be_read_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    path, opened = tmp_path / "a", os.open
    path.write_text("old")

    def refuse(name, flags, *rest):
        if os.fspath(name) == os.fspath(tmp_path):
            raise PermissionError(13, "Permission denied", os.fspath(name))
        return opened(name, flags, *rest)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(PermissionError, match="Permission denied"):
        write_atomically(path, lambda temporary: temporary.write_text("new"))
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a"]


def test_a_long_name_has_room_for_its_draft(tmp_path):
    path = tmp_path / ("é" * 127)
    write_atomically(path, lambda temporary: temporary.write_text("new"))
    assert path.read_text() == "new"

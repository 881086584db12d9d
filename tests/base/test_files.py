import os
import stat
from concurrent.futures import ThreadPoolExecutor

import pytest

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

"""Atomic writes: the old content or the new one, nothing half-written, nothing through a link."""

import os
import stat

import pytest

from scalevit.artifacts import atomic_write
from scalevit.artifacts.atomic_write import atomic_path, atomic_write_text, fsync_folder
from scalevit.artifacts.cache_folder import cache_folder, cache_location


def test_a_failure_leaves_the_old_content_and_no_temporary_file(tmp_path):
    target = tmp_path / "deep" / "a.txt"
    atomic_write_text(target, "old")
    with pytest.raises(ZeroDivisionError), atomic_path(target) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert target.read_text() == "old"
    assert [path.name for path in target.parent.iterdir()] == ["a.txt"]


def test_the_file_is_synced_before_it_is_renamed_and_the_folder_after(tmp_path, monkeypatch):
    calls, fsync = [], os.fsync

    def traced_fsync(descriptor):
        calls.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    monkeypatch.setattr(atomic_write.os, "fsync", traced_fsync)
    original = type(tmp_path).replace
    monkeypatch.setattr(type(tmp_path), "replace", lambda a, b: (calls.append("rename"), original(a, b))[1])
    atomic_write_text(tmp_path / "a", "new")
    assert calls == ["file", "rename", "folder"]


def test_a_link_is_replaced_and_not_written_through(tmp_path):
    (tmp_path / "secret").write_text("untouched")
    (tmp_path / "a").symlink_to(tmp_path / "secret")
    atomic_write_text(tmp_path / "a", "new")
    assert (tmp_path / "secret").read_text() == "untouched"
    assert not (tmp_path / "a").is_symlink() and (tmp_path / "a").read_text() == "new"


def test_permissions_follow_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        atomic_write_text(tmp_path / "a", "x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


def test_a_folder_that_cannot_be_synced_is_no_error(tmp_path, monkeypatch):
    def refuse(descriptor):
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(atomic_write.os, "fsync", refuse)
    fsync_folder(tmp_path)


def test_the_cache_folder_rule(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SCALEVIT_CACHE", "")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_location() == tmp_path / "home/.cache/scalevit"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_location() == tmp_path / "xdg/scalevit"
    monkeypatch.setenv("SCALEVIT_CACHE", str(tmp_path / "own"))
    assert cache_folder("native") == tmp_path / "own/native"
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SCALEVIT_CACHE", str(tmp_path / "file"))
    assert cache_folder("native") is None

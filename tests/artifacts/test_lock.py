"""Locks: one process at a time, whatever the file system; asking disturbs nobody."""

import errno
import fcntl
import json
import os
import subprocess
import sys
import threading
import time

import pytest

from scalevit.artifacts import lock as module
from scalevit.artifacts.lock import LockedError, describe_process, is_alive, is_locked, lock


def no_locks(monkeypatch, number):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(module.fcntl, "fcntl", refuse)


def test_one_holder_at_a_time_and_none_after(tmp_path):
    path = tmp_path / ".lock"
    assert not is_locked(path)
    with lock(path):
        assert is_locked(path)
        with pytest.raises(LockedError, match="another process"), lock(path):
            pass
    assert not is_locked(path)
    with lock(path):
        pass


def test_the_lock_goes_with_a_process_that_is_killed(tmp_path):
    program = (
        "import sys, time; from pathlib import Path; from scalevit.artifacts.lock import lock\n"
        "with lock(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    words = [sys.executable, "-c", program, str(tmp_path / ".lock")]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline() == b"held\n"
        assert is_locked(tmp_path / ".lock")
        other.kill()
        other.wait()
    assert not is_locked(tmp_path / ".lock")
    with lock(tmp_path / ".lock"):
        pass


def test_asking_creates_nothing_and_never_refuses_a_claim(tmp_path):
    path, done, asked = tmp_path / ".lock", threading.Event(), []
    assert not is_locked(path) and not list(tmp_path.iterdir())

    def ask():
        while not done.is_set():
            asked.append(is_locked(path))

    askers = [threading.Thread(target=ask) for _ in range(2)]
    for asker in askers:
        asker.start()
    for _ in range(300):
        with lock(path):
            pass
    done.set()
    for asker in askers:
        asker.join()
    assert len(asked) > 100


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to leave a file of another user")
def test_a_lock_file_of_another_user_does_not_lock_out(tmp_path, monkeypatch):
    path = tmp_path / ".lock"
    path.write_text("")
    opened, real = [], os.open

    def as_owner(name, flags, *mode):
        if not opened and flags & os.O_RDWR:
            opened.append(name)
            raise PermissionError(errno.EACCES, "Permission denied", str(name))
        return real(name, flags, *mode)

    monkeypatch.setattr(module.os, "open", as_owner)
    with lock(path):
        assert is_locked(path)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF])
def test_without_locks_a_file_names_the_owner(tmp_path, monkeypatch, number):
    no_locks(monkeypatch, number)
    said, path = [], tmp_path / ".lock"
    with lock(path, said.append):
        assert is_locked(path)
        with pytest.raises(LockedError, match=f"process {os.getpid()} on "), lock(path):
            pass
    assert "has no locks" in said[0]
    assert not is_locked(path) and not path.with_name(".lock.owner").exists()


def test_a_dead_owner_has_lost_the_lock(tmp_path, monkeypatch):
    no_locks(monkeypatch, errno.ENOLCK)
    path, owner = tmp_path / ".lock", tmp_path / ".lock.owner"
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    owner.write_text(json.dumps({**describe_process(), "pid": done.pid}))
    assert not is_locked(path)
    owner.write_text(json.dumps({**describe_process(), "started": "1"}))  # the number was given away again
    assert not is_locked(path)
    with lock(path):
        assert json.loads(owner.read_text())["pid"] == os.getpid()


def test_an_owner_elsewhere_is_watched(tmp_path, monkeypatch):
    no_locks(monkeypatch, errno.ENOLCK)
    monkeypatch.setattr(module, "STALE", 0.6)
    path, owner = tmp_path / ".lock", tmp_path / ".lock.owner"
    owner.write_text(json.dumps({"host": "elsewhere", "pid": 1}))
    done = threading.Event()

    def touch():
        while not done.wait(0.05):
            os.utime(owner)

    toucher = threading.Thread(target=touch)
    toucher.start()
    try:
        with pytest.raises(LockedError, match="process 1 on elsewhere"), lock(path):
            pass
    finally:
        done.set()
        toucher.join()
    began = time.monotonic()
    with lock(path):
        assert time.monotonic() - began >= 0.5


def test_processes_are_told_apart():
    mine = describe_process()
    assert is_alive(mine) is True
    assert is_alive({**mine, "started": "1"}) is False
    assert is_alive({**mine, "host": "elsewhere"}) is None
    assert is_alive({**mine, "pid": -1}) is False
    assert fcntl.F_OFD_GETLK != fcntl.F_OFD_SETLK

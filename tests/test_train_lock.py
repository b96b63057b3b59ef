"""One run per folder: the lock names its owner, and a dead owner does not keep it."""

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from drspo.errors import UserError
from train import lock
from train.lock import FolderLock

HOLD = """
import sys, time
from train.lock import FolderLock
FolderLock(sys.argv[1]).acquire()
print("held", flush=True)
time.sleep(300)
"""


@pytest.fixture
def holder(tmp_path, repository):
    """Another process that holds the lock of tmp_path."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], cwd=repository, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_a_second_run_is_refused_and_told_who_holds_the_folder(tmp_path, holder):
    with pytest.raises(UserError, match=f"process {holder.pid} on {socket.gethostname()}"):
        FolderLock(tmp_path).acquire()
    assert json.loads((tmp_path / "lock.json").read_text())["pid"] == holder.pid


def test_the_lock_of_a_killed_run_is_taken_over_and_said(tmp_path, holder, caplog):
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    with FolderLock(tmp_path):
        assert f"taking over the lock of process {holder.pid}" in caplog.text
        assert json.loads((tmp_path / "lock.json").read_text())["pid"] == os.getpid()
    assert not (tmp_path / "lock.json").exists()


def left_by_another_machine(tmp_path, seconds_ago: float) -> None:
    (tmp_path / "lock.json").write_text(json.dumps({"host": "far", "pid": 7, "since": "yesterday"}))
    then = time.time() - seconds_ago
    os.utime(tmp_path / "lock.json", (then, then))


def test_another_machine_that_gives_signs_of_life_keeps_the_folder(tmp_path):
    left_by_another_machine(tmp_path, seconds_ago=lock.SILENCE / 2)
    with pytest.raises(UserError, match="process 7 on far") as caught:
        FolderLock(tmp_path).acquire()
    assert "try again in 2 minutes" in caught.value.hint


def test_another_machine_that_fell_silent_loses_the_folder(tmp_path, caplog):
    left_by_another_machine(tmp_path, seconds_ago=lock.SILENCE + 1)
    with FolderLock(tmp_path):
        assert "taking over the lock of process 7 on far" in caplog.text


def test_an_owner_gives_signs_of_life(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "BEAT", 0.02)
    with FolderLock(tmp_path):
        os.utime(tmp_path / "lock.json", (0, 0))
        deadline = time.monotonic() + 60
        while (tmp_path / "lock.json").stat().st_mtime == 0:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_the_lock_may_be_taken_again_after_it_was_given_back(tmp_path, caplog):
    for _ in range(2):
        with FolderLock(tmp_path):
            pass
    assert "taking over" not in caplog.text


def test_where_the_file_system_keeps_no_locks_signs_of_life_count(tmp_path, monkeypatch):
    def unsupported(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock.fcntl, "flock", unsupported)
    with FolderLock(tmp_path), pytest.raises(UserError, match="another run works in this folder"):
        FolderLock(tmp_path).acquire()
    with FolderLock(tmp_path):
        pass

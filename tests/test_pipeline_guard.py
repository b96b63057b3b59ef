"""The guard counts deaths, not live attempts, and ends what hangs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from drspo.config import dump
from drspo.files.storage import Storage
from pipeline.candidates import guard as guard_module
from pipeline.candidates.guard import (
    EXIT_DEADLINE,
    LOST,
    UNEXPLAINED,
    Attempt,
    Guard,
    PoisonedError,
    process_start,
    read_attempts,
)
from pipeline.settings import GuardSettings
from tests.building import ALLOW, IDEAS, fake_config


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(tmp_path)


def earlier(storage: Storage, count: int = 1, **facts: object) -> None:
    """Leave attempts behind as workers do that did not survive."""
    base = {"session": "s", "host": "elsewhere", "pid": 1, "pid_started": "1", "time": time.time()}
    for index in range(count):
        attempt = Attempt(**{**base, **facts})  # type: ignore[arg-type]
        storage.write(f"attempts/u.g.{time.time_ns()}{index}.json", json.dumps(asdict(attempt)).encode())


def is_refused(storage: Storage, session: str = "s", **settings: float) -> bool:
    guard = Guard(storage, GuardSettings(**settings), session)  # type: ignore[arg-type]
    try:
        with guard.attempt("u", "g"):
            return False
    except PoisonedError:
        return True


def test_an_attempt_is_written_down_while_it_runs_and_gone_after(storage: Storage) -> None:
    guard = Guard(storage, GuardSettings(), "s")
    with guard.attempt("u", "g"):
        (attempt,) = read_attempts(storage)
        assert (attempt.pid, attempt.session) == (os.getpid(), "s")
    with pytest.raises(ValueError), guard.attempt("u", "g"):
        raise ValueError
    assert read_attempts(storage) == []


def test_hangs_and_crashes_count_fully(storage: Storage) -> None:
    earlier(storage, 1, cause="no answer within 5 s")
    assert not is_refused(storage)
    earlier(storage, 1, cause="Segmentation fault")
    assert is_refused(storage)


def test_a_lone_death_without_a_word_may_be_a_lost_machine_and_counts_less(storage: Storage) -> None:
    earlier(storage, 2)
    assert not is_refused(storage)
    earlier(storage, 1)
    assert is_refused(storage)


def test_a_worker_lost_with_its_node_counts_least(storage: Storage) -> None:
    def is_refused_beside(lost: set[str]) -> bool:
        guard = Guard(storage, GuardSettings(attempts=2), "s")
        guard.on_node("here", lost.__contains__)
        try:
            with guard.attempt("u", "g"):
                (mine,) = (one for one in read_attempts(storage) if one.pid == os.getpid())
                assert mine.node == "here"
                return False
        except PoisonedError:
            return True

    earlier(storage, 7, node="gone")
    assert not is_refused_beside({"gone"})
    assert {attempt.cause for attempt in read_attempts(storage)} == {LOST}
    earlier(storage, 1, node="gone")
    assert is_refused_beside({"gone"})


def test_what_a_worker_on_a_leaving_machine_dies_of_is_held_against_no_prompt(storage: Storage) -> None:
    guard = Guard(storage, GuardSettings(), "s")
    with guard.attempt("u", "g"), guard.attempt("v", "g"):
        assert len(read_attempts(storage)) == 2
        guard.excuse()
        assert read_attempts(storage) == []
        with guard.attempt("w", "g"):
            assert read_attempts(storage) == []


def test_a_death_together_with_the_driver_is_not_the_prompts(storage: Storage) -> None:
    earlier(storage, 50, session="before", time=time.time() - 1e6)
    assert not is_refused(storage)


def test_a_worker_that_died_while_its_driver_lived_is_remembered_by_later_drivers(storage: Storage) -> None:
    earlier(storage, 2)
    assert not is_refused(storage)  # this driver saw that they had died alone
    assert {attempt.cause for attempt in read_attempts(storage)} == {UNEXPLAINED}
    assert not is_refused(storage, "a later driver")
    earlier(storage, 1, session="a later driver")
    assert is_refused(storage, "a later driver")


def test_a_driver_that_went_while_the_kernel_killed_for_memory_counts_as_a_lone_death(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    kills = [4]
    monkeypatch.setattr(guard_module, "memory_kills", lambda: kills[0])
    mine = {**asdict(Guard(storage, GuardSettings(), "before")._mine()), "pid_started": "12345"}
    assert mine["memory_kills"] == 4
    earlier(storage, 3, **mine)
    assert not is_refused(storage), "nothing was killed for memory meanwhile"
    kills[0] = 5
    assert is_refused(storage)


def test_the_ledger_of_an_earlier_version_is_understood(storage: Storage) -> None:
    old = {"session": "before", "host": "elsewhere", "pid": 1, "pid_started": "1", "time": 0.0, "cause": ""}
    storage.write("attempts/u.g.1.json", json.dumps(old).encode())
    assert [attempt.memory_kills for attempt in read_attempts(storage)] == [-1]
    assert not is_refused(storage)


def test_a_live_attempt_of_another_copy_is_no_death(storage: Storage) -> None:
    earlier(storage, 10, session="other copy, another machine")
    here = Guard(storage, GuardSettings(), "other copy, this machine")._mine()
    earlier(storage, 10, **asdict(here))
    assert not is_refused(storage)


def test_a_dead_pid_here_is_a_death_even_when_its_number_is_used_again(storage: Storage) -> None:
    guard = Guard(storage, GuardSettings(), "s")
    mine = guard._mine()
    assert not Guard(storage, GuardSettings(), "another")._over(mine)
    assert Guard(storage, GuardSettings(), "another")._over(replace(mine, pid_started="12345"))


def test_a_process_that_ended_has_no_start() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    assert process_start(os.getpid()) != ""
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # ended, and nobody has taken notice
    assert process_start(child.pid) == ""
    child.wait()
    assert process_start(child.pid) == ""


def test_the_watchdog_says_why_and_ends_the_worker(storage: Storage) -> None:
    ended = threading.Event()
    guard = Guard(storage, GuardSettings(deadline=0.05), "s", on_deadline=ended.set)
    with guard.attempt("u", "g"):
        assert ended.wait(120)
        (attempt,) = read_attempts(storage)
        assert attempt.cause == "no answer within 0.05 s"


def test_an_attempt_in_time_is_left_alone(storage: Storage) -> None:
    ended = threading.Event()
    guard = Guard(storage, GuardSettings(deadline=60), "s", on_deadline=ended.set)
    before = set(threading.enumerate())
    with guard.attempt("u", "g"):
        (watchdog,) = [t for t in set(threading.enumerate()) - before if isinstance(t, threading.Timer)]
    watchdog.join(120)
    assert not watchdog.is_alive() and not ended.is_set()


WORKER = """
import ctypes, sys, time
from drspo.files.storage import Storage
from pipeline.candidates.guard import Guard
from pipeline.settings import GuardSettings
deadline = 0.2 if sys.argv[2] == "hang" else 100
with Guard(Storage(sys.argv[1]), GuardSettings(deadline=deadline), "s").attempt("u", "g"):
    time.sleep(60) if sys.argv[2] == "hang" else ctypes.string_at(0)
"""


@pytest.mark.parametrize(
    ("how", "code", "cause"), [("hang", EXIT_DEADLINE, "no answer"), ("crash", -11, "Segm")]
)
def test_the_cause_of_a_real_death_reaches_the_dead_row(
    storage: Storage, how: str, code: int, cause: str, repository: Path
) -> None:
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", WORKER, storage.base, how], cwd=repository, capture_output=True
        )
        assert done.returncode == code
    with pytest.raises(PoisonedError, match=f"took 2 workers down: {cause}"):
        with Guard(storage, GuardSettings(), "another session").attempt("u", "g"):
            pytest.fail("a poisoned prompt must not be tried again")


@pytest.mark.timeout(600)
def test_eight_killed_drivers_leave_no_healthy_prompt_dead(tmp_path: Path, repository: Path) -> None:
    config = fake_config(tmp_path, tmp_path / "out", IDEAS[:2])
    (tmp_path / "config.yaml").write_text(dump(config))
    command = [sys.executable, "-m", "dataset_builder", "--config", str(tmp_path / "config.yaml"), *ALLOW]
    slow = {**os.environ, "FAKE_SECONDS": "60"}
    for kill in range(8):
        known = set((tmp_path / "out").glob("attempts/*.json"))
        driver = subprocess.Popen(command, cwd=repository, env=slow, stderr=subprocess.DEVNULL)
        until(lambda known=known: set((tmp_path / "out").glob("attempts/*.json")) - known, driver)
        driver.kill()
        assert driver.wait() == -signal.SIGKILL, kill
    assert len(list((tmp_path / "out").glob("attempts/*.json"))) == 8
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "0 prompts dead" in done.stdout
    assert not list((tmp_path / "out").glob("dead/*"))


def until(condition: Callable[[], object], process: subprocess.Popen[bytes], seconds: float = 120) -> None:
    ends = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None and time.monotonic() < ends
        time.sleep(0.02)

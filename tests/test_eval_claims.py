"""Many processes on one run folder: each task is done once, and what a dead one claimed is taken over."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from drspo.files.storage import Storage
from eval.benchmark.claims import FOLDER, Claims, share

S3 = {
    "AWS_ACCESS_KEY_ID": "test-key",
    "AWS_SECRET_ACCESS_KEY": "test-secret-5b1f",
    "AWS_DEFAULT_REGION": "us-east-1",
}


def working(storage, done, tasks, *, beat=0.05, silence=0.5, slow=0.0):
    """One worker's share of the tasks, each marked in `done` (a list of (worker, task)) and by a file."""

    def work(task):
        time.sleep(slow)
        done.append((threading.get_ident(), task))
        storage.write(f"made/{task}", b"x")

    def present():
        return {name.removeprefix("made/") for name in storage.list("made/")}

    claims = Claims(storage, beat=beat, silence=silence)
    share(claims, tasks, present, work, wait=0.02)


@pytest.fixture(params=["local", "s3"])
def storage(request, tmp_path):
    if request.param == "local":
        return Storage(tmp_path)
    import boto3

    endpoint, patch = request.getfixturevalue("s3_endpoint"), request.getfixturevalue("monkeypatch")
    for name, value in S3.items():
        patch.setenv(name, value)
    patch.setenv("AWS_ENDPOINT_URL", endpoint)
    bucket = f"claims-{os.getpid()}-{time.monotonic_ns()}"
    boto3.client("s3", endpoint_url=endpoint).create_bucket(Bucket=bucket)
    return Storage(f"s3://{bucket}/run")


def test_many_workers_do_each_task_once_and_leave_no_claim(storage):
    tasks = [f"t{number:02d}" for number in range(12)]
    done: list = []
    workers = [
        threading.Thread(target=working, args=(storage, done, tasks), kwargs={"slow": 0.02, "silence": 60})
        for _ in range(3)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert sorted(task for _, task in done) == tasks
    assert not storage.list(FOLDER)


def test_a_living_owner_keeps_its_claim_and_a_silent_one_loses_it(tmp_path):
    storage = Storage(tmp_path)
    alive = Claims(storage, beat=0.05, silence=2.0)
    other = Claims(storage, beat=0.05, silence=2.0)
    with alive.hold("a") as ours:
        assert ours
        for _ in range(50):
            with other.hold("a") as theirs:
                assert not theirs
            time.sleep(0.05)
    storage.create(f"{FOLDER}b/0.json", b'{"owner": "dead", "beat": 3}')
    ended = time.monotonic() + 120
    while True:
        with other.hold("b") as theirs:
            if theirs:
                break
        assert time.monotonic() < ended
        time.sleep(0.05)


def test_of_many_that_find_an_owner_dead_one_takes_over_and_a_sleeper_takes_nothing_back(tmp_path):
    storage = Storage(tmp_path)
    sleeper = Claims(storage, beat=600)
    holding = sleeper.hold("a")
    assert holding.__enter__()
    waiting = [Claims(storage, beat=600, silence=0.0) for _ in range(4)]
    for one in waiting:  # each hears the same last sign
        with one.hold("a") as ours:
            assert not ours
    time.sleep(0.01)
    entered = [one.hold("a") for one in waiting]
    got = [block.__enter__() for block in entered]
    assert got == [True, False, False, False]
    holding.__exit__(None, None, None)  # wakes and ends: the new owner's claim stays
    with Claims(storage).hold("a") as ours:
        assert not ours
    for block in entered:
        block.__exit__(None, None, None)
    assert not storage.list(FOLDER)


def test_a_store_that_fails_for_a_moment_does_not_end_the_signs_of_life(tmp_path, monkeypatch):
    storage = Storage(tmp_path)
    written = threading.Event()
    answers = iter([OSError("away"), None])

    def write(name, data):
        answer = next(answers, None)
        if answer is not None:
            raise answer
        written.set()

    monkeypatch.setattr(storage, "write", write)
    with Claims(storage, beat=0.01).hold("a"):
        assert written.wait(120)


DOOMED = """
import sys, time
from drspo.files.storage import Storage
from eval.benchmark.claims import Claims
with Claims(Storage(sys.argv[1]), beat=0.05).hold("task"):
    print("mine", flush=True)
    time.sleep(600)
"""


def test_what_a_killed_process_had_claimed_is_done_by_another(tmp_path, repository):
    process = subprocess.Popen(
        [sys.executable, "-c", DOOMED, str(tmp_path)], cwd=repository, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "mine\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    done: list = []
    working(Storage(tmp_path), done, ["task"])
    assert [task for _, task in done] == ["task"]
    assert not Storage(tmp_path).list(FOLDER)

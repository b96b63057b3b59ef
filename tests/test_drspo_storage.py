"""Storage: the same promises on a local disk, in memory and on an object store."""

from __future__ import annotations

import errno
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from drspo.errors import UserError
from drspo.files import backends
from drspo.files.storage import Storage


@pytest.fixture(params=["local", "memory", "s3"])
def storage(request, tmp_path: Path, monkeypatch) -> Storage:
    if request.param == "local":
        return Storage(tmp_path / "run")
    if request.param == "memory":
        return Storage(f"memory://{tmp_path.name}-{os.getpid()}/run")
    monkeypatch.setenv("AWS_ENDPOINT_URL", request.getfixturevalue("s3_endpoint"))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    import boto3

    bucket = "bucket-" + "".join(letter for letter in tmp_path.name.lower() if letter.isalnum())
    boto3.client("s3").create_bucket(Bucket=bucket)
    return Storage(f"s3://{bucket}/runs/one")


def test_what_was_written_is_read_back_and_the_last_writer_wins(storage):
    storage.write("a/b.bin", b"first")
    storage.write("a/b.bin", b"second")
    assert storage.read("a/b.bin") == b"second"
    with storage.open("a/b.bin") as file:
        assert file.read() == b"second" and file.read() == b""
        assert (file.seek(-3, os.SEEK_END), file.read(2), file.tell(), file.read(9)) == (3, b"on", 5, b"d")


def test_the_first_creator_wins(storage):
    assert storage.create("units/ab/x.parquet", b"first") is True
    assert storage.create("units/ab/x.parquet", b"second") is False
    assert storage.read("units/ab/x.parquet") == b"first"


def test_of_many_racing_creators_exactly_one_wins(storage):
    storage.write("warm", b"")
    wins: list[int] = []
    barrier = threading.Barrier(6)

    def race(number: int) -> None:
        barrier.wait()
        if storage.create("prize", str(number).encode()):
            wins.append(number)

    threads = [threading.Thread(target=race, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(wins) == 1
    assert storage.read("prize") == str(wins[0]).encode()


def test_a_listing_names_every_file_below_the_prefix_in_order(storage):
    for name in ("units/ab/2", "units/aa/1", "units2/x", "other/y", "top"):
        storage.write(name, b"")
    assert storage.list("units/") == ["units/aa/1", "units/ab/2"]
    assert storage.list("units/aa/") == ["units/aa/1"]
    assert storage.list("units") == ["units/aa/1", "units/ab/2", "units2/x"]
    assert storage.list("") == ["other/y", "top", "units/aa/1", "units/ab/2", "units2/x"]
    assert storage.list("nothing/here") == []


def test_one_level_of_a_folder_has_its_files_and_folders(storage):
    for name in ("units/ab/1", "units/ab/2", "units/cd/3", "units/stray", "dead/4"):
        storage.write(name, b"")
    assert storage.level("units/") == ["units/ab/", "units/cd/", "units/stray"]
    assert storage.level("") == ["dead/", "units/"]
    assert storage.level("none/") == []
    assert storage.list("units/a") == ["units/ab/1", "units/ab/2"]


@pytest.mark.parametrize("large", [False, True])
def test_a_spool_file_is_stored_whole_and_leaves_nothing(storage, large, monkeypatch):
    size = 5_000_000
    if large and not storage.base.startswith("s3://"):  # whose client sends large files in parts alone
        monkeypatch.setattr(backends, "_SENT", 1000)
    with storage.spool() as file:
        file.write(b"x" * size)
        storage.put("a/b", file)
        assert not storage.put_new("a/b", file) and storage.put_new("a/c", file)
    assert storage.read("a/b") == storage.read("a/c") == b"x" * size
    assert storage.list() == ["a/b", "a/c"]
    if storage.is_local:
        assert sorted(os.listdir(storage.base)) == ["a"]


def test_a_listing_sees_what_another_instance_wrote_a_moment_ago(storage):
    assert storage.list("units/") == []
    Storage(storage.base).write("units/ab/1", b"")
    assert storage.list("units/") == ["units/ab/1"]


def test_deleting_twice_is_no_error_and_reading_a_missing_file_is(storage):
    storage.write("x", b"1")
    storage.delete("x")
    storage.delete("x")
    assert not storage.exists("x")
    with pytest.raises(FileNotFoundError):
        storage.read("x")


def test_an_instance_travels_to_another_process_as_its_url(storage):
    storage.write("x", b"1")
    copy = pickle.loads(pickle.dumps(storage))
    assert copy.read("x") == b"1" and type(copy) is type(storage)


def test_names_that_leave_the_folder_are_refused(storage):
    for name in ("../x", "/etc/passwd", "a/../../x", ""):
        with pytest.raises(ValueError, match="not a name inside"):
            storage.write(name, b"")


def test_a_temporary_file_that_a_killed_writer_left_is_never_listed(tmp_path):
    storage = Storage(tmp_path)
    storage.write("a", b"1")
    (tmp_path / backends.temporary_name("b")).write_bytes(b"half")
    assert storage.list("") == ["a"]


KILLED = """
import os, signal, sys
os.fsync = lambda file: os.kill(os.getpid(), signal.SIGKILL)
from drspo.files.storage import Storage
getattr(Storage(sys.argv[1]), sys.argv[2])("new", b"0123456789")
"""


@pytest.mark.parametrize("method", ["write", "create"])
def test_a_writer_that_is_killed_leaves_no_file_behind(tmp_path, repository, method):
    done = subprocess.run([sys.executable, "-c", KILLED, tmp_path, method], cwd=repository)
    assert done.returncode == -signal.SIGKILL
    assert os.listdir(tmp_path) == []


def test_where_no_file_can_be_without_a_name_it_has_one_that_no_listing_shows(tmp_path, monkeypatch):
    seen = []
    synced = backends._write_synced

    def write(path: Path, data: bytes) -> None:
        synced(path, data)
        seen.append((path.parent, os.listdir(tmp_path), Storage(tmp_path).list()))

    monkeypatch.setattr(backends, "_write_synced", write)
    monkeypatch.delattr(os, "O_TMPFILE")
    storage = Storage(tmp_path)
    storage.write("a", b"1")
    storage.write("a", b"2")
    assert not storage.create("a", b"3") and storage.create("b", b"4")
    assert (storage.read("a"), storage.read("b")) == (b"2", b"4")
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]
    assert [(folder, len(files), listed) for folder, files, listed in seen] == [
        (tmp_path, 1, []),
        (tmp_path, 2, ["a"]),
        (tmp_path, 2, ["a"]),
    ]


RACE = """
import os, sys
from drspo.files.storage import Storage
storage = Storage(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
print([prize for prize in range(32) if storage.create(f"prize{prize:02}", os.urandom(1000))])
"""


def test_racing_processes_create_a_local_file_once(tmp_path, repository):
    # Not forks of this process, whose threads and signal handlers, left by other tests, can hang a fork.
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACE, str(tmp_path)],
            cwd=repository,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    assert [racer.stdout.readline() for racer in racers] == ["ready\n"] * 4
    for racer in racers:
        racer.stdin.write("go\n")
        racer.stdin.flush()
    wins = [json.loads(racer.communicate(timeout=60)[0]) for racer in racers]
    assert sorted(sum(wins, [])) == list(range(32))
    assert sorted(os.listdir(tmp_path)) == [f"prize{prize:02}" for prize in range(32)]


@pytest.mark.parametrize("method", ["write", "create"])
def test_a_full_disk_names_the_path_and_leaves_nothing_half_written(tmp_path, monkeypatch, method):
    storage = Storage(tmp_path)
    storage.write("old", b"kept")

    def full(path: Path, data: bytes) -> None:
        path.write_bytes(data[: len(data) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(backends, "_write_synced", full)
    with pytest.raises(UserError, match="No space left on device") as caught:
        getattr(storage, method)("new", b"0123456789")
    assert str(tmp_path / "new") in str(caught.value)
    assert "continues" in caught.value.hint
    assert os.listdir(tmp_path) == ["old"]


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.EDQUOT])
def test_a_disk_that_may_not_be_written_is_the_users_to_mend(tmp_path, monkeypatch, number):
    def refused(path: Path, data: bytes) -> None:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(backends, "_write_synced", refused)
    with pytest.raises(UserError, match=os.strerror(number)):
        Storage(tmp_path).write("x", b"")


def test_a_file_in_the_place_of_the_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match=str(tmp_path / "file")):
        Storage(tmp_path / "file" / "run").write("x", b"")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_file_system_without_hard_links_is_refused_rather_than_risked(tmp_path, monkeypatch):
    def no_links(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", no_links)
    with pytest.raises(UserError, match="only if it is absent"):
        Storage(tmp_path).create("x", b"")
    assert os.listdir(tmp_path) == []


def test_a_protocol_nobody_knows_is_the_users_to_mend():
    with pytest.raises(UserError, match="cannot open a nosuch://"):
        Storage("nosuch://bucket/run").read("x")


def test_local_paths_and_urls(tmp_path):
    assert Storage(tmp_path).local_path("a/b") == tmp_path / "a/b"
    assert Storage(f"file://{tmp_path}").url("a") == str(tmp_path / "a")
    assert Storage("memory://x/y").local_path("a") is None
    assert Storage("memory://x/y/").url("a") == "memory://x/y/a"


def test_a_writer_whose_temporary_file_was_swept_by_the_first_has_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, real = Storage(tmp_path), backends._write_synced
    monkeypatch.setattr(backends, "_nameless", lambda _: None)  # as on a system that gives every file a name
    late = []

    def written(path: Path, data: object) -> None:
        real(path, data)
        if not late:
            late.append(path)
            assert storage.create("units/ab/x", b"first")
            storage.sweep("units/ab/")
            assert not path.exists()

    monkeypatch.setattr(backends, "_write_synced", written)
    assert not storage.create("units/ab/x", b"second") and late
    assert storage.read("units/ab/x") == b"first"
    Storage(f"memory://{tmp_path.name}").sweep("units/ab/")  # whose writers leave nothing


def test_a_folder_named_from_here_takes_files_also_where_every_file_has_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(backends, "_nameless", lambda _: None)
    storage = Storage("run")
    assert storage.create("units/x", b"one") and not storage.create("units/x", b"two")
    storage.write("plan", b"old")
    storage.write("plan", b"new")
    assert (storage.read("units/x"), storage.read("plan")) == (b"one", b"new")

"""The journal of a language model: every line once, whatever is killed, merged or damaged."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from drspo.files.storage import Storage
from drspo.hashing import content_hash
from drspo.llm import journal as journals
from drspo.llm.journal import Journal
from drspo.llm.segments import Books, Line, decode, encode


def line(number, kind="ok", **changes):
    known = {"content": f"answer {number}"} if kind == "ok" else {"reason": f"reason {number}"}
    counts = {"requests": 1, "prompt_tokens": 100 + number, "completion_tokens": 7}
    return Line(request_hash=content_hash(number), kind=kind, **{**known, **counts, **changes})


def fill(journal, lines):
    for one in lines:
        journal.write([one])


@pytest.fixture(params=["folder", "object store"])
def storage(request, tmp_path):
    return Storage(tmp_path if request.param == "folder" else f"memory://{tmp_path.name}{time.time_ns()}")


def test_hundreds_of_answers_are_a_few_files_and_each_is_found(storage):
    journal = Journal(storage)
    fill(journal, map(line, range(420)))
    journal.close()
    found = Journal(storage)
    assert [found.get(content_hash(n)).content for n in range(420)] == [f"answer {n}" for n in range(420)]
    assert found.get(content_hash(-1)) is None
    assert len(storage.list("cache/llm/")) <= 16
    expected = sum((line(n).books for n in range(420)), Books())
    assert found.books() == journal.books() == expected


def test_the_sum_is_read_without_reading_an_answer(storage, monkeypatch):
    journal = Journal(storage)
    fill(journal, [replace(line(n), content="x" * 20_000) for n in range(64)])
    read = []
    monkeypatch.setattr(Line, "read", classmethod(lambda cls, data: read.append(data)))
    assert Journal(storage).books().requests == 64 and not read


def test_a_kill_between_a_merged_segment_and_the_old_ones_counts_nothing_twice(storage, monkeypatch):
    monkeypatch.setattr(journals, "FAN_IN", 8)
    monkeypatch.setattr(Storage, "delete", lambda self, name: None)
    journal = Journal(storage)
    fill(journal, map(line, range(70)))
    assert len(storage.list("cache/llm/")) > 70
    found = Journal(storage)
    assert found.books() == sum((line(n).books for n in range(70)), Books())
    assert all(found.get(content_hash(n)) is not None for n in range(70))


def test_lines_that_wait_together_become_one_segment_and_all_are_stored_before_anyone_goes_on(tmp_path):
    journal = Journal(Storage(tmp_path))

    async def add(number):
        await journal.add(line(number))
        return Journal(Storage(tmp_path)).get(content_hash(number)) is not None

    async def everybody():
        return await asyncio.gather(*map(add, range(20)))

    assert all(asyncio.run(everybody()))
    assert len(list((tmp_path / "cache/llm").iterdir())) <= 3


def test_two_writers_learn_from_each_other(storage):
    one, two = Journal(storage), Journal(storage)
    one.refresh(), two.refresh()
    one.write([line(1)])
    two.refresh(0)
    assert two.get(content_hash(1)) == line(1) and two.by_others() == 108 and one.by_others() == 0


def test_a_withdrawn_verdict_is_asked_again_and_its_cost_stays(storage):
    journal = Journal(storage)
    journal.write([line(1), line(2, "refusal"), line(3, "unreadable", requests=0)])
    journal.write([line(4, "lost", estimated=True)])
    before = Journal(storage).books()
    assert Journal(storage).withdraw("reason 2") == 1 and Journal(storage).withdraw("reason 2") == 0
    found = Journal(storage)
    assert found.get(content_hash(2)) is None and found.get(content_hash(3)) is not None
    assert found.withdraw() == 1
    last = Journal(storage)
    assert last.get(content_hash(1)) == line(1) and last.books() == before
    assert before.estimated_tokens == 111 and before.estimated_requests == 1


@pytest.mark.parametrize("seed", range(20))
def test_a_damaged_segment_never_ends_a_run_and_gives_only_whole_lines(tmp_path, seed):
    rng = random.Random(seed)
    storage, lines = Storage(tmp_path), [line(n) for n in range(30)]
    data = bytearray(encode(lines))
    for _ in range(rng.choice((1, 3, 40))):
        data[rng.randrange(len(data))] = rng.randrange(256)
    if seed % 3 == 0:
        del data[rng.randrange(len(data)) :]
    storage.write("cache/llm/0-x-000001.jsonl", bytes(data))
    found = Journal(storage)
    for n in range(30):
        answer = found.get(content_hash(n))
        assert answer is None or answer.request_hash == content_hash(n)
    assert found.books().requests >= 0


def test_a_line_of_another_kind_is_none():
    good = encode([line(1)])
    assert decode(good) == [line(1)]
    for text in (b'{"request_hash": 5, "kind": "ok"}', b'{"kind": "ok"}', b"[1]", b"7", b'{"a": 1}'):
        assert decode(b"0000000000000003\n{}\n" + text + b"\n") == []


WRITER = """
import asyncio, sys
sys.path.insert(0, sys.argv[1])
from tests.test_pipeline_journal import line
from drspo.files.storage import Storage
from drspo.llm import journal as journals
journals.FAN_IN = 4
journal = journals.Journal(Storage(sys.argv[2]))
async def one(number):
    await journal.add(line(number))
    print(number, flush=True)
async def main():
    for start in range(0, 100_000, 3):
        await asyncio.gather(*(one(number) for number in range(start, start + 3)))
asyncio.run(main())
"""


def test_a_kill_at_any_moment_loses_no_line_that_was_stored(tmp_path, repository):
    rng = random.Random(7)
    for kill in range(6):
        folder = tmp_path / str(kill)
        command = [sys.executable, "-c", WRITER, str(repository), str(folder)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ})
        told = [int(process.stdout.readline()) for _ in range(rng.randrange(5, 60))]
        time.sleep(rng.random() / 50)
        process.send_signal(signal.SIGKILL)
        told += [int(word) for word in process.stdout.read().split("\n")[:-1]]
        process.wait()
        found = Journal(Storage(folder))
        assert all(found.get(content_hash(number)) == line(number) for number in told)
        stored = [n for n in range(max(told) + 4) if found.get(content_hash(n)) is not None]
        assert found.books() == sum((line(n).books for n in stored), Books()), "each line counts once"

"""Thirty mutated inputs for each reader of a foreign file: success or one message, and nothing else.

`python -m benchmarks.fuzz` gives a thousand. These are the same ones on every run.
"""

from __future__ import annotations

import random

import pytest

from benchmarks import fuzz, mutations
from benchmarks.fuzz_readers import READERS


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    import logging

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(READERS))
def test_a_mutated_file_ends_in_success_or_one_message(name):
    assert list(fuzz.fuzz(name, count=30, seed=1)) == []


class Careless:
    """A reader with every fault that is looked for."""

    def __init__(self, body):
        self.body = body

    def prepare(self, folder, rng):
        (folder / "input").write_bytes(mutations.mutate_bytes(b"some bytes", rng))

    def read(self, folder):
        self.body(folder)


FAULTS = {
    "exit 1": lambda folder: {}["nothing"],
    "open": lambda folder: (folder.parent / "escaped").write_text("x"),
    "os.remove": lambda folder: (folder.parent / "victim").unlink(),
    "subprocess.Popen": lambda folder: __import__("subprocess").run(["true"]),
    "a traceback in its message": lambda folder: __import__("sys").stderr.write(
        "Traceback (most recent call last)"
    ),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_the_fuzzer_sees_what_it_looks_for(kind, tmp_path):
    fuzz._install()
    (tmp_path / "victim").write_text("precious")
    folder = tmp_path / "case"
    folder.mkdir()

    def read(place):
        FAULTS[kind](place)

    assert kind in fuzz.attempt(Careless(read), folder, random.Random(1))


def test_a_reader_without_a_fault_has_none(tmp_path):
    fuzz._install()
    folder = tmp_path / "case"
    folder.mkdir()
    fine = Careless(lambda place: print(len((place / "input").read_bytes())))
    assert fuzz.attempt(fine, folder, random.Random(1)) == ""


def test_mutations_are_the_same_for_the_same_seed():
    data = bytes(range(200))
    made = [mutations.mutate_bytes(data, random.Random(seed)) for seed in range(50)]
    assert made == [mutations.mutate_bytes(data, random.Random(seed)) for seed in range(50)]
    assert len(set(made)) > 40 and data not in made[:1]

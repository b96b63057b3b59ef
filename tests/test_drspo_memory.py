"""The peak of a process is its own."""

import subprocess
import sys

from drspo.memory import peak_resident

TOLD = "from drspo.memory import peak_resident; print(peak_resident())"


def told(code: str) -> int:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_a_process_does_not_answer_for_the_one_that_started_it():
    here = bytearray(b"\1" * (256 << 20))
    assert peak_resident() > len(here) > 4 * told(TOLD)


def test_what_was_given_back_still_counts():
    bare = told(TOLD)
    more = told(f"held = bytearray(b'1' * {64 << 20}); del held; {TOLD}")
    assert 64 << 20 <= more - bare < 160 << 20

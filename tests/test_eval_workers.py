"""`--workers`: one process for each GPU, each of which sees its own alone."""

import os
import subprocess
import sys
import time

import pytest
import torch

from drspo.errors import UserError
from eval.benchmark import workers
from eval.benchmark.workers import VISIBLE, gpus_for, helpers, pinned
from eval.config import EvalConfig
from eval.program import check

SAYS = "import os, sys, pathlib; pathlib.Path(sys.argv[1], os.environ['CUDA_VISIBLE_DEVICES']).touch()"


@pytest.mark.parametrize(
    ("count", "gpus", "each"),
    [
        (0, ["0", "1", "2"], ["0", "1", "2"]),
        (5, ["0", "1"], ["0", "1", "0", "1", "0"]),
        (2, ["GPU-a", "GPU-b", "GPU-c"], ["GPU-a", "GPU-b"]),
        (0, [], [""]),
        (3, [], ["", "", ""]),
    ],
)
def test_each_process_has_a_gpu_and_ours_the_first(count, gpus, each):
    assert pinned(count, gpus) == each


@pytest.fixture
def saying(monkeypatch):
    """Workers that leave a file called by the GPUs that they see."""
    monkeypatch.setattr(workers, "PROGRAM", ("-c", SAYS))
    monkeypatch.setenv(VISIBLE, "")


def test_started_processes_see_one_gpu_each(tmp_path, saying):
    with helpers([str(tmp_path)], 0, ["4", "5", "GPU-7"]):
        assert os.environ[VISIBLE] == "4", "ours"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["5", "GPU-7"]


def test_one_process_and_processes_without_gpus_are_pinned_to_nothing(tmp_path, saying, monkeypatch):
    monkeypatch.setenv(VISIBLE, "as it was")
    with helpers([str(tmp_path)], 1, ["4", "5"]):
        assert os.environ[VISIBLE] == "as it was" and not list(tmp_path.iterdir())
    with helpers([str(tmp_path)], 2, []):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["as it was"]


def test_an_error_of_ours_ends_the_others(tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "PROGRAM", ("-c", "import time; time.sleep(600)"))
    began = time.monotonic()
    with pytest.raises(UserError, match="ours"), helpers([], 2, []):
        raise UserError("ours")
    assert time.monotonic() - began < 60


def test_only_gpus_that_this_process_may_use_are_shared(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv(VISIBLE, "3,GPU-abc,9")
    assert gpus_for("auto", 0) == gpus_for("cuda", 2) == ["3", "GPU-abc"]
    monkeypatch.delenv(VISIBLE)
    assert gpus_for("auto", 0) == ["0", "1"]
    assert gpus_for("cpu", 0) == gpus_for("mps", 0) == gpus_for("cuda:1", 1) == []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert gpus_for("auto", 4) == []


@pytest.mark.parametrize("count", [0, 2])
def test_several_workers_on_one_named_gpu_are_refused_before_anything_starts(count):
    with pytest.raises(UserError, match="several workers cannot share cuda:1"):
        check(EvalConfig(out="x", device="cuda:1", workers=count))


def test_the_word_worker_is_the_program_that_is_started(repository):
    command = [sys.executable, *workers.PROGRAM, "--help"]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0 and "usage: drspo eval" in done.stdout

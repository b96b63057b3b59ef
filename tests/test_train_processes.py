"""Several processes: every launcher starts them, they learn what one would, and a lost one is noticed."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.train_pairs import pair_rows, write
from tests.train_runs import flags, train, weights
from train.processes import asked_for, started_alone

pytestmark = [pytest.mark.timeout(900), pytest.mark.xdist_group("train_processes")]

ENV = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE")} | {
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
}
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "train")
ACCELERATE = (
    "-m",
    "accelerate.commands.accelerate_cli",
    "launch",
    "--cpu",
    "--num_processes",
    "2",
    "-m",
    "train",
)
TOLD = {"max_steps": 3, "pairs_per_step": 2, "validation__every": 3, "data__sizes": "own"}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    os.environ["DRSPO_CACHE"] = ENV["DRSPO_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    rows = pair_rows(6, (32, 64)) + pair_rows(4, (64, 32), start=6)
    yield write(tmp_path_factory.mktemp("pairs") / "pairs.parquet", rows)
    del os.environ["DRSPO_CACHE"]


@pytest.fixture(scope="module")
def alone(golden, source, tmp_path_factory):
    """One process with two pairs a step, on as many threads as each of two has: products round alike."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("runs") / "one"
    yield train(golden, source, out, **TOLD)
    torch.set_num_threads(before)


@pytest.mark.parametrize("launcher", [TORCHRUN, ACCELERATE], ids=["torchrun", "accelerate"])
def test_two_processes_with_one_pair_each_equal_one_process_with_two(
    golden, source, alone, tmp_path, launcher
):
    argv = [*flags(golden, source, **TOLD), "--out", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, *launcher, *argv], env=ENV, capture_output=True, text=True, timeout=850
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "pairs.json").read_bytes() == (alone / "pairs.json").read_bytes()
    # One pair per process: the sum of two shares is the same in either order, so nothing may differ at all.
    for name in ("metrics.jsonl", "validation.jsonl"):
        assert (tmp_path / name).read_bytes() == (alone / name).read_bytes(), name
    two = weights(tmp_path)
    assert all(torch.equal(two[name], tensor) for name, tensor in weights(alone).items())


@pytest.mark.parametrize(("sent", "minutes"), [(signal.SIGKILL, 30.0), (signal.SIGSTOP, 0.3)])
def test_a_process_that_dies_or_falls_silent_ends_the_other_with_its_reason(
    golden, source, tmp_path, sent, minutes
):
    """Started as on two machines, with no launcher above both that would end one for the other."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    argv = flags(golden, source, max_steps=100_000, pairs_per_step=2, group_timeout=minutes)
    command = [sys.executable, "-m", "train", *argv, "--out", str(tmp_path / "out")]
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "LOCAL_WORLD_SIZE": "2"}
    said = tmp_path / "said.txt"
    with said.open("w") as stream:
        first, second = (
            subprocess.Popen(
                command, env=ENV | group | {"RANK": rank, "LOCAL_RANK": rank}, stdout=stream, stderr=stream
            )
            for rank in "01"
        )
    try:
        wait_for(tmp_path / "out" / "metrics.jsonl", first, said)
        second.send_signal(sent)
        assert first.wait(200) == 2, said.read_text()
    finally:
        for process in (first, second):
            process.kill()
            process.wait()
    assert "another process of this run is gone, or has not answered" in " ".join(said.read_text().split())


def wait_for(metrics: Path, process: subprocess.Popen, said: Path) -> None:
    deadline = time.monotonic() + 400
    while not metrics.exists() or not metrics.read_bytes():
        assert process.poll() is None and time.monotonic() < deadline, said.read_text()
        time.sleep(0.05)


def test_the_number_that_accelerate_was_asked_for_is_read_from_its_command_line():
    assert asked_for(["accelerate", "launch", "--cpu", "--num_processes", "2", "-m", "train"]) == 2
    assert asked_for(["accelerate", "launch", "--num-processes=3", "-m", "train"]) == 3
    assert asked_for(["accelerate", "launch", "--config_file", "a.yaml"]) == 0
    assert asked_for(["accelerate", "launch", "--num_processes"]) == 0


def test_only_the_one_process_of_accelerate_on_a_cpu_counts_as_started_alone():
    single = {"ACCELERATE_USE_CPU": "True", "MASTER_ADDR": "127.0.0.1"}
    assert started_alone(single)
    assert not started_alone(single | {"WORLD_SIZE": "2"}) and not started_alone(
        {"ACCELERATE_USE_CPU": "True"}
    )

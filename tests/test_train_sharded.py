"""A frozen network spread over two processes computes what a whole one does, and learns the same."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from drspo.errors import UserError
from tests.sharded_gradients import CASES
from tests.tiny_transformers import tiny
from tests.train_pairs import pair_rows, write
from tests.train_runs import flags, records, train, weights
from train.checks import check_config, check_launch
from train.command import main
from train.config import TrainConfig
from train.settings import DataConfig, MemoryConfig

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
TOLD = {
    "stage": "highres",
    "max_steps": 2,
    "pairs_per_step": 2,
    "data__validation_pairs": 3,
    "validation__every": 2,
    "samples__every": 2,
    "samples__steps": 2,
    "samples__count": 1,
}


def both(command: list[str]) -> None:
    """Ends when two processes have."""
    root = Path(__file__).parents[1]
    own = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(root)}
    kept = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE")}
    done = subprocess.run(
        [*TORCHRUN, *command], env=kept | own, cwd=root, capture_output=True, text=True, timeout=850
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_each_process_holds_its_part_and_finds_the_errors_and_gradients_of_the_whole(golden, tmp_path):
    both(["tests/sharded_gradients.py", str(golden), str(tiny("flux", golden)), str(tmp_path)])
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert all(set(process) == set(CASES) for process in found)
    for case in CASES:
        whole_size = found[0][case][0]["held"]
        parts = [process[case][1]["held"] for process in found]
        assert sum(parts) == whole_size and max(parts) < 0.6 * whole_size, case
        for process in found:
            same_answers(case, *process[case])


def same_answers(case: str, whole: dict, part: dict) -> None:
    if case.startswith("flux"):
        assert part["errors"] == whole["errors"] and part["gradient"] == whole["gradient"], case
        return
    # With convolutions the forward is the same too, the backward up to float32 rounding.
    assert part["errors"] == pytest.approx(whole["errors"], rel=1e-5, abs=1e-5), case
    one, other = torch.tensor(whole["gradient"]), torch.tensor(part["gradient"])
    assert (one - other).norm() < 1e-5 * one.norm(), case


def test_two_processes_with_half_a_network_each_learn_what_one_with_all_of_it_does(
    golden, tmp_path, monkeypatch
):
    monkeypatch.setenv("DRSPO_CACHE", str(tmp_path / "cache"))
    write(tmp_path / "data" / "train.parquet", pair_rows(4, (32, 64)))
    write(tmp_path / "data" / "validation.parquet", pair_rows(3, (32, 64), start=4))
    source, out = str(tmp_path / "data"), tmp_path / "two"
    alone = train(golden, source, tmp_path / "one", **TOLD)
    told = TOLD | {"memory__shard_weights": True}
    both(["-m", "train", *flags(golden, source, **told), "--out", str(out)])
    # z is half of beta, 2500 here, times a difference of errors of about 1 that are rounded at the 7th digit.
    for name in ("metrics.jsonl", "validation.jsonl"):
        for one, two in zip(records(alone, name), records(out, name), strict=True):
            assert two["error_w"] == pytest.approx(one["error_w"], rel=1e-6)
            assert two["margin"] == pytest.approx(one["margin"], abs=5e-3)
            assert two["accuracy"] == one["accuracy"] or abs(one["margin"]) < 5e-3
    # Two steps of AdamW move a weight by at most 5e-5 + 1e-4 / 2, of which the rounding above is a percent.
    for name, weight in weights(alone).items():
        assert torch.allclose(weights(out)[name], weight, rtol=1e-5, atol=2e-6), name
    assert (out / "samples" / "step-000002" / "00.png").exists()
    assert main(["--resume", str(out), "--memory.shard-weights", "False", "--max-steps", "3"]) == 0
    assert [record["step"] for record in records(out)] == [1, 2, 3]


SHARDED = TrainConfig(
    out="somewhere",
    pairs_per_step=2,
    data=DataConfig(source="pairs.parquet"),
    memory=MemoryConfig(shard_weights=True),
)


def test_one_process_has_nobody_to_share_with():
    with pytest.raises(UserError, match="one process has nobody to share weights with"):
        check_launch(SHARDED, {})
    check_launch(SHARDED, {"WORLD_SIZE": "2"})


@pytest.mark.parametrize("own", [{"sizes": "own"}, {"cache_references": True}])
def test_what_lets_one_process_call_the_network_more_often_is_refused(own):
    check_config(SHARDED)
    with pytest.raises(UserError, match="every process must call the network equally often"):
        check_config(replace(SHARDED, data=replace(SHARDED.data, **own)))

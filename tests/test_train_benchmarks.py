"""The training benchmarks run, count what they claim to count, and meet the memory goal at toy size."""

import importlib.util
import json
import sys

import pytest
import torch
from diffusers import UNet2DConditionModel

from train.lora.adapters import add_lora, lora_parameters


def load(repository, name):
    spec = importlib.util.spec_from_file_location(
        f"benchmark_{name}", repository / "benchmarks" / f"{name}.py"
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def gpu(repository):
    return load(repository, "train_gpu")


def test_the_real_size_step_runs_at_toy_size_and_keeps_four_of_thirteen_windows(gpu, tmp_path, capsys):
    out = tmp_path / "rows.jsonl"
    cases = ["highres/stream", "highres/two_pass+checkpointing", "blueprint/512x2048"]
    rows = gpu.main(["--tiny", "--device", "cpu", "--steps", "1", "--json", str(out), "--case", *cases])
    assert [row.case for row in rows] == cases
    assert [(row.alive_windows, row.windows) for row in rows] == [(4, 13), (1, 13), (1, 1)]
    assert all(row.seconds > 0 and row.tflop > 0 for row in rows)
    stream, two_pass, _ = (row.tflop for row in rows)
    assert 1.2 * stream < two_pass < 2 * stream  # a second forward and recomputed activations
    assert [json.loads(line)["case"] for line in out.read_text().splitlines()] == cases
    assert "measured matrix peak" in capsys.readouterr().out


def test_the_real_size_is_sdxls(gpu):
    with torch.device("meta"):
        unet = UNet2DConditionModel(**gpu.SDXL_UNET)
    assert sum(p.numel() for p in unet.parameters()) == 2_567_463_684


def test_a_gpu_that_is_not_there_and_a_case_that_does_not_exist_are_told(gpu, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for argv in ([], ["--device", "cpu", "--case", "highres/strem"]):
        with pytest.raises(SystemExit) as stopped:
            gpu.main(argv)
        assert stopped.value.code == 2
    assert "no CUDA device" in capsys.readouterr().err


def test_what_autograd_keeps_is_flat_for_stream_and_grows_for_the_loop(repository):
    schedules = load(repository, "schedules")
    unet = schedules.small_unet((8, 16, 16))
    add_lora(unet, rank=4, seed=1)
    parameters, kept = lora_parameters(unet), {}
    for windows in (6, 9):
        problem = schedules.make_problem(unet, windows)
        for name in ("loop", "stream", "two_pass"):
            kept[name, windows] = schedules.peak_bytes(
                lambda run=schedules.RUNS[name], problem=problem: run(problem, parameters), unet
            )[0]
    assert kept["loop", 9] / kept["loop", 6] > 1.4
    assert kept["stream", 9] / kept["stream", 6] < 1.02
    assert kept["two_pass", 9] / kept["two_pass", 6] < 1.02
    assert kept["two_pass", 9] < 0.3 * kept["stream", 9]

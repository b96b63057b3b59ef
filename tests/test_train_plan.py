"""A plan rehearses a pair, writes nothing, and says what the run then takes."""

import re

import pytest

from drspo.cli import execute
from train.command import main
from train.config import TrainConfig, identity
from train.plan import Plan, describe, rehearse

TINY = ["--config", "miniature", "--plan", "--precision", "fp32", "--device", "cpu"]


@pytest.mark.parametrize(("stage", "windows"), [("blueprint", 1), ("highres", 5)])
def test_a_plan_of_either_stage_is_printed_and_writes_nothing(
    golden, tmp_path, capsys, monkeypatch, stage, windows
):
    monkeypatch.chdir(tmp_path)
    size = [
        "--canvas.height",
        "64",
        "--canvas.width",
        "192",
        "--canvas.window",
        "64",
        "--canvas.stride",
        "32",
    ]
    model = ["--model", str(golden / "models" / "tiny-sdxl"), "--stage", stage]
    assert execute(main, [*TINY, *model, *size]) == 0
    said = capsys.readouterr().out
    assert f"stage {stage}" in said and f" {windows} windows" in said
    assert all(word in said for word in ("step  ", "held out  ", "run  ", "memory  "))
    assert not list(tmp_path.iterdir())


def test_the_run_is_its_steps_and_measurements():
    plan = Plan(13, 1000, 2.0, 1.0, 0.5, 3.0, 2048.0, "cpu")
    config = TrainConfig(max_steps=100)
    held_out = config.data.validation_pairs * config.validation.timesteps * 0.5
    measured = 1 + 100 // config.validation.every if config.validation.every else 1
    said = describe(config, plan, share=4)
    hours = (100 * (4 * 2.0 + 1.0) + measured * held_out) / 60
    assert "step      9.00 s: 4 x 2.00 s, update 1.00 s" in said and "2.00 GiB" in said
    assert float(re.search(r"run +([\d.]+) min", said)[1]) == pytest.approx(hours, abs=0.06)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--canvas.width", "100"], "multiple"),
        (["--lora.targets", "nowhere"], "nowhere"),
        (["--noise.t-min", "2000"], "timesteps"),
        (["--model", "nobody"], "nobody"),
    ],
)
def test_a_plan_refuses_what_a_run_would(capsys, flags, said):
    assert execute(main, [*TINY, *flags]) == 2
    assert said in capsys.readouterr().err


def test_planning_belongs_to_no_run():
    assert identity(TrainConfig(plan=True)) == identity(TrainConfig())


def test_a_rehearsal_counts_what_is_trained(golden):
    config = TrainConfig(model=str(golden / "models" / "tiny-sdxl"), device="cpu", precision="fp32")
    found = rehearse(config)
    assert found.windows == 1 and found.parameters > 0 and found.peak_mib > 100
    assert min(found.pair, found.update, found.held_out, found.scroll) > 0

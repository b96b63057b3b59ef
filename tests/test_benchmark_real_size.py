"""What measures published shapes on a card runs at toy size, and asks the trainer for what it knows."""

import pytest

from benchmarks import real_size, real_training, train_costs
from train.command import parse


def test_every_family_is_drawn_planned_painted_and_set_beside_its_pipeline(tmp_path, capsys):
    models = ["flux", "pixart-sigma"]
    folder = tmp_path / "drawn"
    options = ["--tiny", "--device", "cpu", "--rounds", "1", "--folder", str(folder)]
    real_size.main([*options, "--models", *models])
    said = capsys.readouterr().out
    rows = [line for line in said.splitlines() if line.startswith(("| direct", "| multidiffusion"))]
    assert len(rows) == sum(len(real_size.RUNS[model]) for model in models)
    assert said.count("direct / pipeline") == 2
    assert not list(folder.iterdir())  # one checkpoint at a time, and then none


@pytest.mark.parametrize("case", real_training.CASES)
def test_a_case_is_a_run_of_the_papers_preset_that_is_counted_too(case, tmp_path):
    config = parse(real_training.command(case, tmp_path, 4, tiny=False))
    assert case.startswith(config.stage)
    assert (config.optimizer.name, config.lora.rank, config.max_steps) == ("adafactor", 64, 4)
    assert config.memory.gradient_checkpointing == ("checkpointing" in case)
    assert config.memory.schedule == ("two_pass" if "two_pass" in case else "stream")


def test_the_counted_names_are_those_that_are_measured(monkeypatch):
    monkeypatch.setattr(train_costs, "kept", lambda *_: 0)
    assert [name for name, _, _ in train_costs.memories(list(real_training.CASES))] == list(
        real_training.CASES
    )

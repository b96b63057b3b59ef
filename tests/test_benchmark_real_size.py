"""What measures published shapes on a card runs at toy size, and asks the trainer for what it knows."""

import diffusers
import pytest
import torch

from benchmarks import real_size, real_training, shapes, train_costs
from generate.models.family import load_family
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


@pytest.mark.parametrize("name", real_size.RUNS)
def test_networks_of_another_size_take_the_place_of_the_tiny_ones(name, tmp_path, monkeypatch):
    device = torch.device("cpu")
    real_size.drawn(name, tmp_path / "tiny", device, True)
    pipe = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "tiny")
    text = [network for part, network in sorted(pipe.components.items()) if part.startswith("text_encoder")]
    network = pipe.unet if name == "sdxl" else pipe.transformer
    network.register_to_config(drawn_here=True)
    monkeypatch.setitem(real_size.MODELS, name, lambda: shapes.Model(text, network, None, None, 2))
    monkeypatch.setitem(real_size.VAES, name, dict(pipe.vae.config))
    real_size.drawn(name, tmp_path / "drawn", device, False)
    assert load_family(str(tmp_path / "drawn"), device="cpu").network.config.drawn_here

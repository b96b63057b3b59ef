"""`python -m train`: presets, resuming, and errors for people."""

import json
import os
from dataclasses import replace

import pytest
import torch

from drspo.config import presets
from drspo.errors import UserError
from generate.models.specs import ModelSpec
from tests.train_pairs import pair_rows, pickapic_rows, write
from tests.train_runs import flags
from train.canvas import make_canvas
from train.checks import check_config, pairs_per_process
from train.command import begin, main, parse
from train.config import TrainConfig, identity
from train.memory import explain_out_of_memory, next_saving
from train.settings import CanvasConfig, MemoryConfig

SMALL = (32, 64)
SPEC = ModelSpec(base="", window=128, stride=32, scroll=(128, 512), blueprint=(64, 256), factor=8)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DRSPO_CACHE", str(tmp_path / "cache"))


def test_the_paper_preset_holds_the_papers_numbers():
    config = parse(["--config", "paper"])
    optimizer = config.optimizer
    assert (optimizer.name, optimizer.lr, optimizer.warmup_steps) == ("adafactor", 1e-6, 1000)
    assert (config.lora.rank, config.loss.beta, config.pairs_per_step, config.model) == (64, 5000, 1, "sdxl")


@pytest.mark.parametrize("name", sorted(presets("train")))
def test_every_preset_passes_its_own_checks(name):
    check_config(parse(["--config", name, "--out", "x", "--data.source", "y"]))


def test_the_stage_chooses_the_canvas_and_its_windows():
    config = parse(["--config", "miniature"])
    blueprint, highres = make_canvas(config, SPEC), make_canvas(replace(config, stage="highres"), SPEC)
    assert (blueprint.height, blueprint.width, len(blueprint.windows)) == (64, 256, 1)
    assert (highres.height, highres.width, len(highres.windows)) == (128, 512, 13)


def test_a_canvas_asks_the_model_how_many_pixels_make_a_latent():
    coarse = replace(SPEC, factor=16)
    config = TrainConfig(stage="highres", canvas=CanvasConfig(width=520))
    with pytest.raises(UserError, match="width of 520 pixels is no multiple of 16"):
        make_canvas(config, coarse)
    canvas = make_canvas(TrainConfig(stage="highres"), coarse)
    assert canvas.windows[0].shape == (8, 8) and canvas.windows[-1].x1 == 32


def test_a_canvas_of_broken_latents_is_refused():
    with pytest.raises(UserError, match="height is 65"):
        parse(["--config", "miniature", "--canvas.height", "65"])


def test_resuming_needs_the_folder_alone(tmp_path):
    asked = parse(["--config", "miniature", "--out", str(tmp_path / "run"), "--data.source", "pairs.parquet"])
    begin(asked)
    assert parse(["--resume", str(tmp_path / "run")]) == asked
    assert parse(["--resume", str(tmp_path / "run"), "--max-steps", "7"]).max_steps == 7


def test_resuming_nothing_says_so(tmp_path):
    with pytest.raises(UserError, match="no run to resume"):
        parse(["--resume", str(tmp_path)])


def test_a_folder_of_another_configuration_is_refused_with_the_difference(tmp_path):
    asked = parse(["--config", "miniature", "--out", str(tmp_path / "run"), "--data.source", "pairs.parquet"])
    begin(asked)
    checkpoint = tmp_path / "run" / "checkpoints" / "step-000001"
    checkpoint.mkdir(parents=True)
    (checkpoint / "state.json").write_text("{}")
    with pytest.raises(UserError, match=r"lora\.rank: 16 there, 8 asked now"):
        begin(replace(asked, lora=replace(asked.lora, rank=8)))


def test_settings_that_change_no_number_may_change_in_a_continued_run():
    base = TrainConfig()
    assert identity(base) == identity(replace(base, max_steps=5, memory=MemoryConfig(schedule="two_pass")))
    assert identity(base) != identity(replace(base, seed=1))
    assert identity(base) != identity(replace(base, optimizer=replace(base.optimizer, lr=1.0)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data.source", "x"], "no folder to write to"),
        (["--out", "x"], "no pairs to train on"),
        (["--out", "x", "--data.source", "y", "--max-steps", "0"], "max_steps is 0"),
        (
            ["--out", "x", "--data.source", "y", "--noise.t-min", "9", "--noise.t-max", "9"],
            "range of timesteps",
        ),
        (
            ["--out", "x", "--data.source", "y", "--export", "best", "--data.validation-pairs", "0"],
            "held-out pairs",
        ),
    ],
)
def test_contradictions_are_found_before_anything_is_loaded(arguments, message):
    with pytest.raises(UserError, match=message):
        main(arguments)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "the dataset is empty"),
        (pickapic_rows([0.5, 0.5, 0.5], SMALL), "all 3 rows are ties"),
        (pair_rows(2, (24, 64)), "none of 2 rows can be trained on"),
    ],
)
def test_datasets_without_a_usable_pair_end_with_the_reason(golden, tmp_path, rows, message):
    argv = flags(golden, write(tmp_path / "pairs.parquet", rows), max_steps=1)
    with pytest.raises(UserError, match=message):
        main([*argv, "--out", str(tmp_path / "run")])
    assert (tmp_path / "run" / "dropped.jsonl").read_text().count("\n") == len(rows)


def test_broken_rows_are_reported_and_the_rest_is_trained_on(golden, tmp_path, caplog):
    rows = pair_rows(4, SMALL)
    rows[1]["chosen"]["bytes"] = b"\x89PNG broken"
    rows[2]["rejected"]["bytes"] = pair_rows(1, (32, 96))[0]["rejected"]["bytes"]
    rows[3]["prompt"] = "a very long prompt " * 60
    argv = flags(golden, write(tmp_path / "pairs.parquet", rows), max_steps=1, data__validation_pairs=0)
    with caplog.at_level("INFO"):
        assert main([*argv, "--out", str(tmp_path / "run")]) == 0
    dropped = (tmp_path / "run" / "dropped.jsonl").read_text()
    assert dropped.count("\n") == 2 and "broken image" in dropped and "unequal sizes" in dropped
    assert "1 prompts are longer than the tokenizer's window" in caplog.text


def test_a_prompt_longer_than_the_tokenizers_window_is_dropped_where_asked(golden, tmp_path):
    rows = pair_rows(2, SMALL)
    rows[1]["prompt"] = "a very long prompt " * 60
    settings = {"max_steps": 1, "data__validation_pairs": 0, "data__long_prompts": "drop"}
    argv = flags(golden, write(tmp_path / "pairs.parquet", rows), **settings)
    assert main([*argv, "--out", str(tmp_path / "run")]) == 0
    assert "prompt longer than the tokenizer's window" in (tmp_path / "run" / "dropped.jsonl").read_text()
    assert len(json.loads((tmp_path / "run" / "pairs.json").read_text())["train"]) == 1


def test_a_card_too_small_to_encode_a_picture_is_told_the_canvas_to_use(golden, tmp_path, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 GiB.")

    monkeypatch.setattr("train.pairs.prepare.encode_images", full)
    argv = flags(golden, write(tmp_path / "pairs.parquet", pair_rows(2, SMALL)), data__cache=tmp_path / "new")
    with pytest.raises(UserError, match="encoding a picture of 32x64") as caught:
        main([*argv, "--out", str(tmp_path / "run")])
    assert "--canvas.height 16 --canvas.width 32" in caught.value.hint


def test_a_wrong_prediction_target_is_refused(golden, tmp_path):
    argv = flags(golden, write(tmp_path / "pairs.parquet", pair_rows(2, SMALL)), noise__target="v")
    with pytest.raises(UserError, match="scheduler says 'epsilon'"):
        main([*argv, "--out", str(tmp_path / "run")])


def test_a_full_disk_while_saving_ends_the_run_and_keeps_the_checkpoint_before(golden, tmp_path, monkeypatch):
    import errno

    rename = os.rename

    def full(old, new):
        if "step-000004" in str(new):
            raise OSError(errno.ENOSPC, "No space left on device")
        rename(old, new)

    monkeypatch.setattr(os, "rename", full)
    argv = flags(golden, write(tmp_path / "pairs.parquet", pair_rows(3, SMALL)), max_steps=4)
    with pytest.raises(UserError, match="No space left on device"):
        main([*argv, "--out", str(tmp_path / "run")])
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-000002"]


def test_pairs_must_divide_among_the_processes():
    assert pairs_per_process(TrainConfig(pairs_per_step=8), 4) == 2
    with pytest.raises(UserError, match="3 pairs per step cannot be shared by 2 processes"):
        pairs_per_process(TrainConfig(pairs_per_step=3), 2)


def test_out_of_memory_advice_goes_down_one_setting_at_a_time():
    config = replace(parse(["--config", "miniature"]), stage="highres", memory=MemoryConfig(window_batch=4))
    canvas, said = make_canvas(config, SPEC), []
    for memory in (
        MemoryConfig(schedule="autograd"),
        MemoryConfig(window_batch=4),
        MemoryConfig(),
        MemoryConfig(gradient_checkpointing=True),
        MemoryConfig(schedule="two_pass", gradient_checkpointing=True),
    ):
        said.append(next_saving(replace(config, memory=memory), canvas))
    assert said[:4] == [
        "--memory.schedule stream",
        "--memory.window-batch 2",
        "--memory.gradient-checkpointing True",
        "--memory.schedule two_pass",
    ]
    assert said[4].startswith("--canvas.height 64 --canvas.width 256")
    error = explain_out_of_memory(config, canvas, torch.OutOfMemoryError("CUDA out of memory."))
    assert "highres at 128x512 in 13 windows" in error.what and "--memory.window-batch 2" in error.hint

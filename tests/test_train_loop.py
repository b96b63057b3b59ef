"""The training loop on a tiny SDXL: both stages, resuming, several processes, bad steps, early stop."""

import json
import os

import pytest
import torch
from PIL import Image

from drspo.errors import UserError
from tests.forks import Forks
from tests.train_pairs import pair_rows, write
from tests.train_runs import HEAVY, flags, kill_after, records, train, weights
from train import loop
from train.lora.optimizers import learning_rate
from train.objective.pair import PairResult
from train.objective.trainee import Trainee

pytestmark = pytest.mark.xdist_group("train_loop")

SMALL = (32, 64)


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> str:
    os.environ["DRSPO_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield write(tmp_path_factory.mktemp("pairs") / "pairs.parquet", pair_rows(10, SMALL))
    del os.environ["DRSPO_CACHE"]


@pytest.fixture(scope="module")
def blueprint(golden, source, tmp_path_factory):
    """A finished blueprint run of 4 steps with everything on."""
    out = tmp_path_factory.mktemp("runs") / "blueprint"
    samples = {"samples__every": 4, "samples__steps": 2, "samples__count": 1}
    settings = samples | {"ema": 0.5, "tracking__tensorboard": True}
    return train(golden, source, out, max_steps=4, validation__every=2, **settings)


def test_before_training_the_margin_is_exactly_zero_and_the_accuracy_one_half(blueprint):
    for record in (records(blueprint)[0], records(blueprint, "validation.jsonl")[0]):
        assert record["margin"] == 0.0 and record["accuracy"] == 0.5 and record["winner_drift"] == 0.0
        assert record["loss"] == record["preference_loss"] == pytest.approx(0.6931471805599453, abs=0)


def test_every_step_is_recorded_with_metrics_per_timestep_bin(blueprint):
    found = records(blueprint)
    assert [record["step"] for record in found] == [1, 2, 3, 4]
    measured = {
        "loss",
        "preference_loss",
        "z_p10",
        "z_p50",
        "z_p90",
        "accuracy",
        "reward_w",
        "reward_l",
        "margin",
        "winner_drift",
        "loser_drift",
        "gradient_factor",
        "kl_proxy_w",
        "kl_proxy_l",
        "grad_norm_w",
        "grad_norm_l",
        "grad_cosine",
    }
    for record in found:
        assert measured | {"grad_norm", "lr", "skipped_steps"} <= record.keys()
        bins = {name.partition("/")[0] for name in record if "/" in name}
        assert bins and all(f"{part}/{name}" in record for part in bins for name in measured)
    assert [record["step"] for record in records(blueprint, "validation.jsonl")] == [0, 2, 4]
    timings = records(blueprint, "timings.jsonl")
    assert all(record["peak_mib"] > 0 and record["pairs_per_second"] > 0 for record in timings)


def test_a_finished_run_leaves_lora_facts_card_curves_samples_and_kohya(blueprint):
    facts = json.loads((blueprint / "drspo.json").read_text())
    assert (facts["stage"], facts["canvas"], facts["rank"], facts["alpha"]) == ("blueprint", [32, 64], 4, 8)
    card = (blueprint / "README.md").read_text()
    assert "curves.png" in card and "samples/timeline.png" in card and "rank 4, alpha 8" in card
    assert "$" not in card.replace("$(", "")
    assert (blueprint / "kohya.safetensors").is_file()
    assert list((blueprint / "tensorboard").iterdir())
    with Image.open(blueprint / "samples" / "timeline.png") as timeline:
        assert timeline.height == 2 * (256 + 16)  # two rows of pictures 32x64, drawn at a width of 512


def test_the_exported_lora_changes_the_pipeline_that_diffusers_opens(blueprint, golden):
    from diffusers import StableDiffusionXLPipeline

    pipe = StableDiffusionXLPipeline.from_pretrained(golden / "models" / "tiny-sdxl")
    pipe.load_lora_weights(str(blueprint))
    loaded = pipe.unet.peft_config["default_0"]
    assert (loaded.r, loaded.lora_alpha) == (4, 8)


def test_highres_runs_through_windows_and_starts_at_the_reference(golden, source, tmp_path):
    out = train(golden, source, tmp_path / "run", stage="highres", max_steps=2)
    first, second = records(out)
    assert first["margin"] == 0.0 and second["margin"] != 0.0
    facts = json.loads((out / "drspo.json").read_text())
    assert facts["window"] == [32, 32] and facts["stride"] == 16 and facts["time_ids"] == "window"


@pytest.fixture(scope="module")
def starter(repository, source):
    server = Forks(repository, *HEAVY)
    yield server
    server.close()


@pytest.mark.timeout(900)
@pytest.mark.parametrize("stage", ["blueprint", "highres"])
def test_twenty_steps_equal_ten_and_a_kill_and_ten_to_the_bit(
    golden, source, starter, tmp_path, one_thread, stage
):
    if stage == "highres":
        steps, every, kill_at = 8, 4, 6
    else:
        steps, every, kill_at = 20, 10, 13
    settings = {"max_steps": steps, "checkpoint_every": every, "stage": stage, "validation__every": every}
    settings |= {"ema": 0.9, "lora__dropout": 0.1}
    whole, cut = train(golden, source, tmp_path / "whole", **settings), tmp_path / "cut"
    argv = [*flags(golden, source, **settings), "--out", str(cut)]
    kill_after(starter, argv, cut / "metrics.jsonl", kill_at)
    assert not (cut / "pytorch_lora_weights.safetensors").exists()
    from train.command import main

    assert main(["--resume", str(cut)]) == 0
    for name in ("metrics.jsonl", "validation.jsonl", "pairs.json"):
        assert (cut / name).read_bytes() == (whole / name).read_bytes(), name
    last = f"checkpoints/step-{steps:06d}"
    for name in ("lora.safetensors", "ema.safetensors", "optimizer.pt"):
        assert (cut / last / name).read_bytes() == (whole / last / name).read_bytes(), name
    assert all(torch.equal(tensor, weights(whole)[name]) for name, tensor in weights(cut).items())


@pytest.fixture
def one_thread():
    """As many threads as the processes that are started: products are rounded alike."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_the_cache_serves_the_second_run(golden, source, tmp_path, caplog):
    train(golden, source, tmp_path / "first", max_steps=1)
    caplog.clear()
    with caplog.at_level("INFO"):
        train(golden, source, tmp_path / "second", max_steps=1)
    assert "latents: 20 from the cache, 0 encoded" in caplog.text


def test_a_longer_run_continues_a_shorter_one(golden, source, tmp_path):
    from train.command import main

    whole = train(golden, source, tmp_path / "whole", max_steps=4)
    train(golden, source, tmp_path / "grown", max_steps=2)
    assert main(["--resume", str(tmp_path / "grown"), "--max-steps", "4"]) == 0
    assert (tmp_path / "grown" / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()


def test_another_base_model_is_refused_before_any_pair_is_encoded(golden, source, tmp_path, monkeypatch):
    from train.command import main

    out = train(golden, source, tmp_path / "run", max_steps=1)
    weights_before = (out / "checkpoints" / "step-000001" / "lora.safetensors").read_bytes()
    load = loop.load_family

    def retrained(*args, **kwargs):
        family = load(*args, **kwargs)
        family.fingerprint = "another"
        return family

    monkeypatch.setattr(loop, "load_family", retrained)
    monkeypatch.setattr(loop, "prepare_pairs", lambda *_: pytest.fail("pairs were encoded first"))
    with pytest.raises(UserError, match="of another base model"):
        main(["--resume", str(out), "--max-steps", "2"])
    assert (out / "checkpoints" / "step-000001" / "lora.safetensors").read_bytes() == weights_before


@pytest.fixture
def broken_gradients(monkeypatch):
    """Makes chosen steps of a run not finite."""
    original = Trainee.gradients
    bad: set[int] = set()

    def gradients(self, pair, position) -> PairResult:
        result = original(self, pair, position)
        if position in bad:
            result.loss = result.metrics["loss"] = float("nan")
        return result

    monkeypatch.setattr(Trainee, "gradients", gradients)
    return bad


def test_a_step_that_is_not_finite_is_skipped_and_counted(golden, source, tmp_path, broken_gradients):
    broken_gradients.update({1, 2})
    out = train(golden, source, tmp_path / "run", max_steps=4)
    found = records(out)
    assert [record["skipped_steps"] for record in found] == [0, 1, 2, 2]
    assert [record["bad"] for record in found] == [0, 1, 1, 0] and "lr" not in found[1]
    assert all(torch.isfinite(tensor).all() for tensor in weights(out).values())


def test_too_many_bad_steps_in_a_row_end_the_run_with_the_checkpoint_kept(
    golden, source, tmp_path, broken_gradients
):
    broken_gradients.update(range(2, 100))
    with pytest.raises(UserError, match="3 steps in a row were not finite"):
        train(golden, source, tmp_path / "run", max_steps=50, max_bad_steps=3)
    assert (tmp_path / "run" / "checkpoints" / "step-000002").is_dir()


def test_training_stops_when_the_winners_held_out_error_keeps_rising(golden, source, tmp_path, monkeypatch):
    shares = iter([0.0, 0.05, 0.06, 0.07])
    measure = loop.Validator.measure
    monkeypatch.setattr(
        loop.Validator, "measure", lambda self: measure(self) | {"winner_drift_share": next(shares)}
    )
    out = train(
        golden,
        source,
        tmp_path / "run",
        max_steps=9,
        validation__every=1,
        validation__max_winner_drift=0.02,
        validation__patience=2,
    )
    assert len(records(out)) == 2
    assert "Stopped early" in (out / "README.md").read_text()


def test_running_out_of_memory_names_the_setting_to_change(golden, source, tmp_path, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(Trainee, "gradients", full)
    with pytest.raises(UserError, match="out of memory") as caught:
        train(golden, source, tmp_path / "run", max_steps=2)
    assert "--memory.gradient-checkpointing True" in caught.value.hint


def test_export_best_writes_the_weights_of_the_best_measurement(golden, source, tmp_path, monkeypatch):
    losses = iter([0.7, 0.6, 0.5, 0.9])
    measure = loop.Validator.measure
    monkeypatch.setattr(loop.Validator, "measure", lambda self: measure(self) | {"loss": next(losses)})
    out = train(
        golden, source, tmp_path / "run", max_steps=3, validation__every=1, export="best", keep_last=1
    )
    assert json.loads((out / "drspo.json").read_text())["step"] == 2
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == ["step-000002", "step-000003"]


def test_warm_up_is_linear_and_then_constant(blueprint):
    rates = [record["lr"] for record in records(blueprint)]
    assert rates == pytest.approx([0.25e-4, 0.5e-4, 0.75e-4, 1e-4])
    from train.settings import OptimizerSettings

    assert learning_rate(99, OptimizerSettings(lr=1e-4, warmup_steps=4), 100) == 1e-4

"""Pairs of several sizes in one run: each keeps its own, and whatever a pair's size decides follows it."""

from collections import Counter
from dataclasses import replace
from math import gcd

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from drspo.errors import UserError
from generate.canvas.windows import Window
from generate.models.family import load_family
from tests.tiny_transformers import tiny
from tests.train_pairs import pair_rows, png, write
from tests.train_runs import flags, records, train, weights
from train import loop
from train.canvas import TrainingCanvas, make_canvas
from train.command import main
from train.config import TrainConfig, identity
from train.network import make_trainee, wear_lora
from train.objective.trainee import Trainee
from train.pairs.pair_set import EncodedPair
from train.pairs.rows import Dropped
from train.pairs.sizes import own_size
from train.settings import CanvasConfig, DataConfig

WIDE, TALL, ODD, LOW = (32, 64), (64, 32), (40, 48), (24, 80)
OWN = {"data__sizes": "own", "data__validation_pairs": 0}


@pytest.fixture(scope="module")
def one_size(tmp_path_factory) -> str:
    return write(tmp_path_factory.mktemp("pairs") / "pairs.parquet", pair_rows(10, WIDE))


@pytest.fixture(scope="module")
def mixed(tmp_path_factory) -> str:
    """Four sizes that can be trained on, the last as a whole only, and three rows that cannot."""
    rows = pair_rows(3, WIDE) + pair_rows(2, TALL, start=3) + pair_rows(1, ODD, start=5)
    for index, size in enumerate((LOW, (64, 64), (36, 48)), 6):
        rows += pair_rows(1, size, start=index)
    unequal = pair_rows(1, WIDE, start=9)[0]
    unequal["rejected"] = {"bytes": png(1, TALL), "path": None}
    return write(tmp_path_factory.mktemp("pairs") / "mixed.parquet", [*rows, unequal])


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("DRSPO_CACHE", str(tmp_path_factory.getbasetemp() / "cache-of-aspects"))


@pytest.fixture
def seen(monkeypatch) -> list[tuple[str, tuple[int, int]]]:
    """Grows with every pair that is trained on: its id, its size in latents."""
    found, real = [], Trainee.gradients

    def gradients(self, pair, position):
        found.append((pair.pair_id, tuple(pair.latents_w.shape[-2:])))
        return real(self, pair, position)

    monkeypatch.setattr(Trainee, "gradients", gradients)
    return found


@pytest.fixture
def asked(monkeypatch) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Grows with every call of the network: the shape of its crops, the time ids of the first."""
    calls, real = [], loop.wear_lora

    def record(_, args, kwargs):
        calls.append((tuple(args[0].shape), tuple(kwargs["added_cond_kwargs"]["time_ids"][0].int().tolist())))

    def worn(family, config):
        real(family, config)
        family.network.register_forward_pre_hook(record, with_kwargs=True)

    monkeypatch.setattr(loop, "wear_lora", worn)
    return calls


def same(one, other, *names):
    for name in names or ("metrics.jsonl",):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    assert all(torch.equal(weights(other)[name], tensor) for name, tensor in weights(one).items())


@pytest.mark.parametrize("stage", ["blueprint", "highres"])
def test_where_all_pairs_have_the_canvas_size_the_run_is_the_same_to_the_bit(
    golden, one_size, tmp_path, stage
):
    told = {"stage": stage, "max_steps": 3, "validation__every": 3, "loss__region_weight": 0.5}
    plain = train(golden, one_size, tmp_path / "canvas", **told)
    own = train(golden, one_size, tmp_path / "own", data__sizes="own", **told)
    same(plain, own, "metrics.jsonl", "validation.jsonl", "dropped.jsonl")


def test_a_run_on_one_canvas_has_the_identity_it_had_before_there_was_a_choice():
    config = TrainConfig()
    assert identity(config) != identity(replace(config, data=DataConfig(sizes="own")))
    assert identity(config) == "9e1f6c960eec"


def test_every_pair_is_seen_once_an_epoch_at_its_own_size_and_no_call_holds_two_sizes(
    golden, mixed, tmp_path, seen, asked
):
    told = {"pairs_per_step": 7, "max_steps": 2, "memory__window_batch": 2, "canvas__time_ids": "scroll"}
    out = train(golden, mixed, tmp_path / "out", **OWN, **told)
    latents = {(h // 8, w // 8): (h, w) for h, w in (WIDE, TALL, ODD, LOW)}
    for epoch in (seen[:7], seen[7:]):
        assert sorted(name for name, _ in epoch) == [f"pair-{index}" for index in range(7)]
        assert Counter(size for _, size in epoch) == {(4, 8): 3, (8, 4): 2, (5, 6): 1, (3, 10): 1}
    # Winner and loser share a call; with the reference's that is two calls for each pair.
    assert Counter(shape[0] for shape, _ in asked) == {2: 28}
    assert [shape[-2:] for shape, _ in asked[::2]] == [size for _, size in seen]
    for shape, (height, width, *_, target_height, target_width) in asked:
        assert (height, width) == (target_height, target_width) == latents[shape[-2:]]
    reasons = {record["row"]: record["reason"] for record in records(out, "dropped.jsonl")}
    assert reasons.keys() == {7, 8, 9}
    assert reasons[7] == "a size that is not trained on: 64x64: more than the canvas's 2048 pixels"
    assert reasons[8].startswith("a size that is not trained on: 36x48: a height of 36 pixels is no multiple")
    assert reasons[9] == "unequal sizes: chosen 32x64, rejected 64x32"


def test_stage_highres_takes_the_windows_of_each_size_and_drops_what_is_smaller_than_one(
    golden, mixed, tmp_path, seen, asked
):
    told = {"stage": "highres", "max_steps": 6, "canvas__time_ids": "crop", "loss__region_weight": 1.0}
    out = train(golden, mixed, tmp_path / "out", **OWN, **told)
    assert Counter(size for _, size in seen) == {(4, 8): 3, (8, 4): 2, (5, 6): 1}
    assert {shape for shape, _ in asked} == {(1, 4, 4, 4)}
    corners = {ids[2:4] for _, ids in asked}
    assert {(0, 16), (0, 32)} <= corners and {(16, 0), (32, 0)} <= corners
    reasons = {record["row"]: record["reason"] for record in records(out, "dropped.jsonl")}
    assert "The window is 4 high, larger than the canvas, which is 3 high" in reasons[6]


def test_a_run_that_dies_between_checkpoints_goes_on_to_the_bit(golden, mixed, tmp_path, monkeypatch):
    told = OWN | {"pairs_per_step": 2, "data__cache_references": True}
    whole = train(golden, mixed, tmp_path / "whole", max_steps=6, **told)
    real, out = loop.Run.step, tmp_path / "out"

    def dies(self, step):
        if step == 5:
            raise RuntimeError("killed")
        return real(self, step)

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="killed"):
        patch.setattr(loop.Run, "step", dies)
        main([*flags(golden, mixed, max_steps=6, **told), "--out", str(out)])
    assert len(records(out)) == 5
    assert main(["--resume", str(out)]) == 0
    same(whole, out)


def test_held_out_pairs_are_measured_at_their_own_size(golden, mixed, tmp_path, monkeypatch):
    measured, real = [], Trainee.errors

    def errors(self, pair, drawn, recall):
        result = real(self, pair, drawn, recall)
        measured.append((self.canvas.height, self.canvas.width, tuple(drawn.noise_w.shape[-2:])))
        return result

    monkeypatch.setattr(Trainee, "errors", errors)
    training, held_out = pair_rows(2, WIDE), pair_rows(1, TALL, start=2) + pair_rows(1, ODD, start=3)
    write(tmp_path / "data" / "train.parquet", training)
    write(tmp_path / "data" / "validation.parquet", held_out)
    out = train(golden, str(tmp_path / "data"), tmp_path / "out", data__sizes="own", max_steps=1)
    assert Counter(measured) == {(*TALL, (8, 4)): 4, (*ODD, (5, 6)): 4}
    assert all(record["error_w"] > 0 for record in records(out, "validation.jsonl"))


def test_the_log_and_the_card_say_which_sizes_a_run_took(golden, mixed, tmp_path, caplog):
    with caplog.at_level("INFO"):
        out = train(golden, mixed, tmp_path / "out", max_steps=1, **OWN)
    assert "pairs by size: 1 of 24x80, 3 of 32x64, 1 of 40x48, 2 of 64x32" in caplog.text
    assert "any aspect, with no more than 32x64 pixels" in (out / "README.md").read_text()


def test_a_schedule_that_is_shifted_by_the_size_follows_the_pair(golden):
    config = TrainConfig(canvas=CanvasConfig(height=64, width=128), data=DataConfig(sizes="own"))
    family = load_family(str(tiny("flux", golden)), device="cpu", dtype="float32")
    family.scheduler_config["use_dynamic_shifting"] = True
    wear_lora(family, config)
    trainee = make_trainee(family, make_canvas(config, family.spec), config)
    large, small = (trainee.fitted(pair(family, *size)) for size in ((64, 128), (64, 64)))
    assert large is trainee and (small.canvas.height, small.canvas.width) == (64, 64)
    assert (
        small.process.timesteps == large.process.timesteps
        and small.process.noise[500] < large.process.noise[500]
    )


def pair(family, height: int, width: int) -> EncodedPair:
    latents = torch.zeros(1, 4, height // family.factor, width // family.factor)
    return EncodedPair("pair", latents, latents, torch.zeros(1, 1, 1), None)


def fit(size: tuple[int, int]) -> TrainingCanvas:
    """A model that takes sides of whole 16 pixels, up to 512."""
    if size[0] % 16 or size[1] % 16 or max(size) > 512:
        raise UserError("no")
    return TrainingCanvas(*size, (Window(0, 1, 0, 1),), torch.ones(1, 1))


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 40), st.integers(8, 400))
def test_a_reduced_size_is_the_largest_that_is_taken_of_exactly_the_aspect(height, width, times, side):
    size, canvas = (height * times, width * times), TrainingCanvas(side, side, (), torch.ones(1, 1))
    common = gcd(*size)
    aspect = size[0] // common, size[1] // common
    smaller = [(k * aspect[0], k * aspect[1]) for k in range(common, 0, -1)]
    taken = [
        s for s in smaller if s[0] * s[1] <= side * side and max(s) <= 512 and not (s[0] % 16 or s[1] % 16)
    ]
    if taken:
        assert own_size(size, canvas, fit, "downscale") == taken[0]
        if taken[0] == size:
            assert own_size(size, canvas, fit, "none") == size
            return
    else:
        with pytest.raises(Dropped, match="no smaller one of exactly the same aspect"):
            own_size(size, canvas, fit, "downscale")
    with pytest.raises(Dropped, match="a size that is not trained on: "):
        own_size(size, canvas, fit, "none")

"""What a training step is counted to cost, on SDXL's blocks with few channels: its parts agree."""

from __future__ import annotations

import pytest
import torch

from benchmarks import shapes, train_costs
from generate.sampling.synchronise import recomputing

pytestmark = pytest.mark.xdist_group("benchmark_train_costs")

SMALL = shapes.SDXL_UNET | {
    "block_out_channels": (32, 32, 64), "attention_head_dim": (1, 2, 4), "cross_attention_dim": 64,
    "transformer_layers_per_block": (1, 1, 2), "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 6 * 8 + 32,
}  # fmt: skip
SIZE = (32, 32)


@pytest.fixture(scope="module")
def model() -> train_costs.Unet:
    return train_costs.Unet(SMALL, "meta", torch.bfloat16)


@pytest.fixture(scope="module")
def counts(model: train_costs.Unet) -> dict[str, float]:
    count = train_costs.counted
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_costs, "unet", lambda: model)
        patch.setattr(train_costs, "SQUARE", SIZE)
        found = {
            "asked": count(lambda: model.asked(2, SIZE)),
            "trained": count(lambda: model.trained(2, SIZE)),
            "before": count(lambda: train_costs._until_lora(model)),
        }
        with recomputing([model.network], True):
            found["again"] = count(lambda: model.trained(2, SIZE))
    return found


def test_the_backward_of_a_lora_costs_less_than_two_forwards_and_more_than_half_of_one(counts):
    backward = counts["trained"] - counts["asked"]
    assert 0.5 * counts["asked"] < backward < 2 * counts["asked"]


def test_checkpointing_computes_no_more_than_a_forward_again(counts):
    again = counts["again"] - counts["trained"]
    assert 0.7 * counts["asked"] < again < 1.3 * counts["asked"]


def test_what_comes_before_the_first_lora_is_a_part_of_a_forward(counts):
    assert 0 < counts["before"] < 0.5 * counts["asked"]


def test_memory_falls_with_checkpointing_and_grows_with_the_windows_alive(model, monkeypatch):
    monkeypatch.setattr(train_costs, "unet", lambda: model)
    one, four = (train_costs.kept(alive, SIZE, False) for alive in (1, 4))
    assert 2 * one < four < 4 * one
    assert train_costs.kept(1, SIZE, True) < 0.7 * one

"""Optimisers: B leaves zero, the warm-up, and what happens without the optional package."""

import sys
from dataclasses import replace

import pytest
import torch
from torch import nn

from drspo.errors import UserError
from train.config import TrainConfig, identity
from train.lora.optimizers import build_optimizer, learning_rate, set_learning_rate
from train.settings import OptimizerSettings


def b_after(make, steps=200):
    """Mean size of LoRA's B, which starts at 0, after steps of a steady noisy gradient at lr 1e-6."""
    b = nn.Parameter(torch.zeros(16, 4))
    optimizer = make([b])
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        b.grad = 1e-3 * (1 + 0.1 * torch.randn(16, 4, generator=generator))
        optimizer.step()
    return float(b.detach().abs().mean())


@pytest.mark.parametrize("name", ["adafactor", "adamw"])
def test_b_leaves_zero_at_the_rate_of_the_learning_rate(name):
    settings = OptimizerSettings(name=name, lr=1e-6)
    assert b_after(lambda p: build_optimizer(p, settings)) == pytest.approx(200 * 1e-6, rel=0.05)


def test_torchs_own_adafactor_leaves_b_a_thousand_times_behind():
    ours = b_after(lambda p: build_optimizer(p, OptimizerSettings(lr=1e-6)))
    theirs = b_after(lambda p: torch.optim.Adafactor(p, lr=1e-6))
    assert 300 < ours / theirs < 3000


def test_adafactor_keeps_rows_and_columns_instead_of_elements():
    p = nn.Parameter(torch.zeros(64, 320))
    optimizer = build_optimizer([p], OptimizerSettings())
    p.grad = torch.ones_like(p)
    optimizer.step()
    kept = sum(t.numel() for t in optimizer.state[p].values() if torch.is_tensor(t))
    assert kept <= 64 + 320 + 2


def test_the_rate_warms_up_linearly_and_then_stays():
    settings = OptimizerSettings(lr=2.0, warmup_steps=4)
    rates = [learning_rate(step, settings, 100) for step in (0, 1, 2, 3, 4, 99)]
    assert rates == [0.5, 1.0, 1.5, 2.0, 2.0, 2.0]
    assert learning_rate(0, OptimizerSettings(lr=2.0, warmup_steps=0), 100) == 2.0


@pytest.mark.parametrize("decay, middle", [("linear", 1.0), ("cosine", 1.0)])
def test_a_decaying_rate_starts_where_the_warm_up_ends_and_falls_to_nothing_by_the_end(decay, middle):
    settings = OptimizerSettings(lr=2.0, warmup_steps=4, decay=decay)
    rates = [learning_rate(step, settings, 104) for step in range(104)]
    assert rates[3] == rates[4] == 2.0
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert rates[54] == pytest.approx(middle)
    assert 0 < rates[-1] < 0.02 * 2.0
    assert learning_rate(104, settings, 104) == 0.0


def test_the_number_of_steps_is_part_of_a_decaying_runs_identity():
    plain = TrainConfig(max_steps=10)
    decaying = replace(plain, optimizer=OptimizerSettings(decay="cosine"))
    assert identity(plain) == identity(replace(plain, max_steps=20))
    assert identity(decaying) != identity(replace(decaying, max_steps=20))


@pytest.mark.parametrize("name", ["adafactor", "adamw"])
def test_the_rate_set_is_the_rate_used(name):
    p = nn.Parameter(torch.zeros(3))
    optimizer = build_optimizer([p], OptimizerSettings(name=name, lr=1.0))
    set_learning_rate(optimizer, 1e-3)
    p.grad = torch.ones(3)
    optimizer.step()
    assert p.detach().abs().max() == pytest.approx(1e-3, rel=1e-3)


def test_a_missing_bitsandbytes_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(UserError, match="pip install bitsandbytes"):
        build_optimizer([nn.Parameter(torch.zeros(2))], OptimizerSettings(name="adamw8bit"))

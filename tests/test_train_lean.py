"""The LoRA in fewer kernels: peft's numbers to the bit, in every precision, also its gradients."""

import pytest
import torch

from tests.test_train_adapters import load_unet, problem
from tests.test_train_twins import layer, output_and_gradients
from train.lora.adapters import add_lora, lora_layers, lora_parameters, reference
from train.lora.lean import lean
from train.lora.twins import trainable
from train.objective.pair import pair_gradients
from train.settings import LossSettings

SINGLE, HALF = torch.float32, torch.bfloat16


@pytest.mark.parametrize("alpha", [8, 3])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("base", [SINGLE, HALF])
@pytest.mark.parametrize("autocast", [False, True])
def test_a_layer_gives_pefts_bits_and_gradients(alpha, dropout, base, autocast):
    net = layer(32, 48, 8, dtype=SINGLE, alpha=alpha, dropout=dropout)
    lora_layers(net)[0].base.to(base)
    x, pull = torch.randn(2, 9, 32).to(base), torch.randn(2, 9, 48)
    with torch.autocast("cpu", HALF, enabled=autocast):
        pull = pull.to(net(x).dtype)
        theirs = output_and_gradients(net, x, pull)
        with lean(net):
            ours = output_and_gradients(net, x, pull)
            assert torch.equal(net(x[:1]), net(x)[:1]) or dropout  # no second window finds a spent graph
    assert [t.dtype for t in ours] == [t.dtype for t in theirs]
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_a_later_value_is_seen_by_the_next_block():
    net = layer(8, 8, 4, dtype=SINGLE)
    lora_layers(net)[0].base.to(HALF)
    x = torch.randn(1, 3, 8, dtype=HALF)
    with torch.autocast("cpu", HALF):
        with lean(net):
            before = net(x)
        with torch.no_grad():
            lora_layers(net)[0].b.mul_(2)
        with lean(net):
            assert not torch.equal(net(x), before)
        with lean(net), reference(net):
            assert torch.equal(net(x), lora_layers(net)[0].base(x))


def test_a_step_over_windows_has_the_same_bits_with_peft_and_without(golden):
    unet = load_unet(golden)
    add_lora(unet, rank=4)
    with torch.no_grad():
        for parameter in lora_parameters(unet):
            parameter.add_(0.05 * torch.randn_like(parameter))
    found = trainable(unet)
    lean_one = pair_gradients(problem(unet), found, LossSettings())
    with lean(unet):
        pass  # whatever was replaced is peft's again
    plain = pair_gradients(problem(unet), type(found)(found.parameters, found.off), LossSettings())
    assert lean_one.loss == plain.loss
    assert all(torch.equal(a, b) for a, b in zip(lean_one.grads, plain.grads, strict=True))

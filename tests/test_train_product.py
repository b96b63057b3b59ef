"""The LoRA's product in its two orders of work: peft's numbers, peft's gradients."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.test_train_adapters import load_unet, problem
from train.adapters import add_lora, lora_layers, lora_norm, lora_parameters, reference
from train.losses import LossSettings
from train.objective import pair_gradients
from train.product import dense_is_cheaper, halves, lora_products, splits


class OneLayer(nn.Module):
    """What `add_lora` needs of a network, with one projection in it."""

    def __init__(self, width, out, bias=True):
        super().__init__()
        self.to_q = nn.Linear(width, out, bias=bias)

    def add_adapter(self, config, adapter_name):
        from peft import inject_adapter_in_model

        inject_adapter_in_model(config, self, adapter_name)
        self.peft_config = {adapter_name: config}

    def forward(self, x):
        return self.to_q(x)


def layer(width, out, rank, *, dtype=torch.float64, alpha=3.0, dropout=0.0, bias=True):
    torch.manual_seed(0)
    net = OneLayer(width, out, bias).to(dtype)
    add_lora(net, rank, alpha, dtype=dtype, dropout=dropout)
    with torch.no_grad():
        for parameter in lora_parameters(net):
            parameter.copy_(torch.randn_like(parameter))
    return net


def output_and_gradients(net, x, pull):
    torch.manual_seed(1)  # the same dropout mask
    x = x.clone().requires_grad_()
    y = net(x)
    return [y.detach(), *torch.autograd.grad(y, [x, *lora_parameters(net)], pull)]


def assert_equal(ours, theirs, tolerance):
    for a, b in zip(ours, theirs, strict=True):
        assert a.dtype == b.dtype
        assert float((a - b).norm()) <= tolerance * float(b.norm())


def is_dense(net, x):
    made = lora_layers(net)[0]
    return dense_is_cheaper(x, made.base.weight, made.a)


@settings(max_examples=40, deadline=None)
@given(
    width=st.integers(1, 40), out=st.integers(1, 40), rank=st.integers(1, 40), batch=st.integers(1, 3),
    tokens=st.integers(1, 40), bias=st.booleans(), dropout=st.sampled_from([0.0, 0.4]),
)  # fmt: skip
def test_output_and_gradients_are_those_of_peft(width, out, rank, batch, tokens, bias, dropout):
    net = layer(width, out, rank, bias=bias, dropout=dropout)
    x, pull = torch.randn(batch, tokens, width).double(), torch.randn(batch, tokens, out).double()
    theirs = output_and_gradients(net, x, pull)
    with lora_products(net):
        assert_equal(output_and_gradients(net, x, pull), theirs, 1e-12)


def test_a_narrow_layer_goes_through_the_sum_and_a_wide_one_through_the_small_matrices():
    narrow, wide = layer(16, 16, 64), layer(64, 64, 2)
    x = torch.randn(2, 100, 16).double()
    assert is_dense(narrow, x)
    assert not is_dense(narrow, x.bfloat16())
    assert not is_dense(wide, torch.randn(2, 100, 64).double())
    with torch.autocast("cpu", torch.bfloat16):
        assert not is_dense(narrow, x)


@pytest.mark.parametrize("rank", [2, 64])
def test_each_half_of_the_batch_gets_its_own_gradient(rank):
    net = layer(16, 24, rank)
    x, pull = torch.randn(2, 50, 16).double(), torch.randn(2, 50, 24).double()
    alone = [output_and_gradients(net, x[i : i + 1], pull[i : i + 1])[2:] for i in range(2)]
    with halves(net) as second:
        first = output_and_gradients(net, x, pull)[2:]
    assert_equal(first, alone[0], 1e-12)
    assert_equal([second[id(p)] for p in lora_parameters(net)], alone[1], 1e-12)


def test_under_autocast_it_rounds_as_peft_does():
    net = layer(32, 32, 8, dtype=torch.float32)
    lora_layers(net)[0].base.to(torch.bfloat16)
    x, pull = torch.randn(2, 64, 32).bfloat16(), torch.randn(2, 64, 32).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        theirs = output_and_gradients(net, x, pull)
        with lora_products(net):
            ours = output_and_gradients(net, x, pull)
    assert_equal([t.float() for t in ours], [t.float() for t in theirs], 2e-2)
    assert [t.dtype for t in ours] == [t.dtype for t in theirs]


def test_a_layer_whose_adapter_is_off_is_the_base_alone():
    net = layer(16, 16, 4)
    x = torch.randn(2, 5, 16).double()
    with lora_products(net), reference(net):
        assert torch.equal(net(x), lora_layers(net)[0].base(x))


def test_layers_that_are_not_linear_keep_their_product_and_are_not_split(golden):
    unet = load_unet(golden)
    add_lora(unet, rank=2, targets=("to_q", "conv1"))
    assert not splits(unet)
    pair = problem(unet)
    with lora_products(unet):
        result = pair_gradients(pair, lora_parameters(unet), LossSettings(), off=lambda: reference(unet))
    names = [name for name, module in unet.named_modules() if name.endswith("conv1.lora_B.default")]
    assert names and all(torch.isfinite(g).all() for g in result.grads)
    assert all(g.any() for g, p in zip(result.grads, lora_parameters(unet), strict=True) if not p.any())
    assert lora_norm(unet) == 0

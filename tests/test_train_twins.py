"""A LoRA for each scroll of a batch: peft's numbers, and each scroll's own gradients."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.test_train_adapters import load_unet, problem
from train.lora.adapters import add_lora, lora_layers, lora_norm, lora_parameters, reference
from train.lora.twins import can_twin, trainable, twins
from train.objective.pair import pair_gradients
from train.settings import LossSettings


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


def output_and_gradients(net, x, pull, leaves=None):
    torch.manual_seed(1)  # the same dropout mask
    x = x.clone().requires_grad_()
    y = net(x)
    return [y.detach(), *torch.autograd.grad(y, [x, *(leaves or lora_parameters(net))], pull)]


def assert_equal(ours, theirs, tolerance):
    for a, b in zip(ours, theirs, strict=True):
        assert a.dtype == b.dtype
        assert float((a - b).norm()) <= tolerance * float(b.norm())


@settings(max_examples=40, deadline=None)
@given(
    width=st.integers(1, 40),
    out=st.integers(1, 40),
    rank=st.integers(1, 40),
    tokens=st.integers(1, 40),
    bias=st.booleans(),
    scaled=st.booleans(),
)
def test_each_half_has_the_output_and_the_gradients_that_peft_gives_it_alone(
    width, out, rank, tokens, bias, scaled
):
    net = layer(width, out, rank, bias=bias, alpha=3.0 if scaled else rank)
    x, pull = torch.randn(2, tokens, width).double(), torch.randn(2, tokens, out).double()
    alone = [output_and_gradients(net, x[i : i + 1], pull[i : i + 1]) for i in range(2)]
    with twins(net) as leaves:
        y, by_x, *grads = output_and_gradients(net, x, pull, leaves)
    for half, expected in enumerate(alone):
        found = [y[half : half + 1], by_x[half : half + 1], *(g[half] for g in grads)]
        assert_equal(found, expected, 1e-12)


def test_dropout_is_that_of_the_whole_batch():
    net = layer(16, 24, 8, dropout=0.4)
    x, pull = torch.randn(2, 50, 16).double(), torch.randn(2, 50, 24).double()
    y, by_x, *grads = output_and_gradients(net, x, pull)
    with twins(net) as leaves:
        found = output_and_gradients(net, x, pull, leaves)
    assert_equal([*found[:2], *(g.sum(0) for g in found[2:])], [y, by_x, *grads], 1e-12)


def test_under_autocast_it_rounds_as_peft_does():
    net = layer(32, 32, 8, dtype=torch.float32)
    lora_layers(net)[0].base.to(torch.bfloat16)
    x, pull = torch.randn(2, 64, 32).bfloat16(), torch.randn(2, 64, 32).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        y, by_x, *grads = output_and_gradients(net, x, pull)
        with twins(net) as leaves:
            found = output_and_gradients(net, x, pull, leaves)
    theirs, ours = [y, by_x, *grads], [*found[:2], *(g.sum(0) for g in found[2:])]
    assert [t.dtype for t in ours] == [t.dtype for t in theirs]
    assert_equal([t.float() for t in ours], [t.float() for t in theirs], 2e-2)


def test_inside_the_reference_a_twin_is_the_base_alone():
    net = layer(16, 16, 4)
    x = torch.randn(2, 5, 16).double()
    with twins(net), reference(net):
        assert torch.equal(net(x), lora_layers(net)[0].base(x))


def test_a_lora_on_convolutions_trains_one_scroll_at_a_time(golden):
    unet = load_unet(golden)
    add_lora(unet, rank=2, targets=("to_q", "conv1"))
    assert not can_twin(unet)
    result = pair_gradients(problem(unet), trainable(unet), LossSettings())
    names = [name for name, module in unet.named_modules() if name.endswith("conv1.lora_B.default")]
    assert names and all(torch.isfinite(g).all() for g in result.grads)
    assert all(g.any() for g, p in zip(result.grads, lora_parameters(unet), strict=True) if not p.any())
    assert lora_norm(unet) == 0

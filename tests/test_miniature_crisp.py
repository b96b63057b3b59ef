"""The decoder's last training: what its terms weigh, and what it leaves alone."""

from __future__ import annotations

import torch

from miniature.fit_autoencoder import build_autoencoder
from miniature.fit_crisp import Critic, _contest, batch, border_weight, closeness, fit_crisp
from miniature.loop import Task
from miniature.pictures import BLUEPRINT, SQUARE, WIDE, painted


def _pictures(folder):
    return {size: painted(size, 4, folder) for size in (SQUARE, BLUEPRINT, WIDE)}


def test_the_border_weighs_more_than_the_inside():
    weight = border_weight(torch.zeros(1, 3, 64, 128))[0, 0]
    assert weight[0].min() == weight[:, -1].min() == weight.max() > weight[32, 64] == 1


def test_an_error_along_the_border_costs_more_than_the_same_inside():
    shown = torch.zeros(1, 3, 64, 64)
    inside, border = shown.clone(), shown.clone()
    inside[..., 32] = 0.2
    border[..., 1] = 0.2
    assert closeness(border, shown) > 1.5 * closeness(inside, shown) > 0 == closeness(shown, shown)


def test_one_shift_of_all_pixels_costs_less_than_the_same_error_as_a_pattern():
    shown = torch.zeros(1, 3, 64, 64)
    shift, pattern = shown + 0.1, shown + 0.1
    pattern[..., ::2] = -0.1
    assert closeness(pattern, shown) > 2 * closeness(shift, shown)


def test_every_batch_holds_a_picture_without_a_thing_in_it(tmp_path):
    pictures = _pictures(tmp_path)
    for step in range(6):
        plain = batch(pictures, step)[-1]
        assert plain.std(dim=-1).max() < 1e-6  # every row of one colour
        assert batch(pictures, step).abs().max() <= 1


def test_the_decoder_hears_of_the_critic_without_teaching_it():
    torch.manual_seed(0)
    critic, shown = Critic(), torch.rand(2, 3, 64, 64) * 2 - 1
    copy = (0.5 * shown).requires_grad_(True)
    _contest(critic, copy, shown, step=0).backward()
    assert copy.grad is None or copy.grad.abs().max() == 0
    alone = [value.grad.clone() for value in critic.parameters()]
    critic.zero_grad()
    copy.grad = None
    for layer in critic.modules():  # the power iteration moves on at every call; hold it still to compare
        layer.eval()
    _contest(critic, copy, shown, step=0).backward()
    quiet = [value.grad.clone() for value in critic.parameters()]
    critic.zero_grad()
    _contest(critic, copy, shown, step=10_000).backward()
    assert copy.grad.abs().max() > 0
    assert all(torch.allclose(a, b.grad) for a, b in zip(quiet, critic.parameters(), strict=True))
    assert len(alone) == len(quiet)


def test_the_training_moves_the_decoder_and_leaves_the_encoder(tmp_path, monkeypatch):
    import miniature.fit_crisp as module

    monkeypatch.setattr(module, "PICTURES", {SQUARE: 4, BLUEPRINT: 4, WIDE: 4})
    monkeypatch.setattr(module, "Task", lambda *given, **more: Task(*given, **{**more, "sample": None}))
    torch.manual_seed(0)
    model = build_autoencoder()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    after = fit_crisp(model, tmp_path, steps=2).state_dict()
    moved = {name.split(".")[0] for name, value in before.items() if not torch.equal(value, after[name])}
    assert moved == {"decoder", "post_quant_conv"}

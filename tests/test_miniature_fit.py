"""Training the miniature: resumable to the bit, and every loss does what it is for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import miniature
from miniature import loop
from miniature.aesthetics import Damage, aesthetic, degrade, sample_damage
from miniature.detector import COUNTABLE, Detector, find_peaks
from miniature.fit_autoencoder import edge_weight, psnr
from miniature.fit_controlnet import canny
from miniature.fit_detector import peak_loss, target
from miniature.fit_text import AXES, said
from miniature.fit_unet import add_noise, build_scheduler, weighted_error
from miniature.loop import Task, rate_at, train
from miniature.measure import average
from miniature.world import captions, countable, paint, sample_scene


class Killed(Exception):
    pass


def _toy(fail_at: int | None = None) -> Task:
    torch.manual_seed(0)
    model = nn.Linear(4, 1)

    def loss(step: int) -> torch.Tensor:
        if step == fail_at:
            raise Killed
        return model(torch.randn(8, 4)).square().mean()

    return Task("toy", model, loss, steps=12, rate=0.1, warmup=2, average=0.9)


def test_a_killed_training_goes_on_to_the_same_bits(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", -1.0)
    unbroken = train(_toy(), tmp_path / "a").weight.detach()
    with pytest.raises(Killed):
        train(_toy(fail_at=7), tmp_path / "b")
    resumed = train(_toy(), tmp_path / "b").weight.detach()
    assert torch.equal(unbroken, resumed)


def test_a_finished_training_is_not_trained_again(tmp_path):
    first = train(_toy(), tmp_path).weight.detach().clone()
    assert torch.equal(first, train(_toy(fail_at=0), tmp_path).weight)


def test_the_rate_warms_up_and_ends_low():
    task = _toy()
    rates = [rate_at(step, task) for step in range(task.steps + 1)]
    assert rates[0] < rates[1] == pytest.approx(task.rate) and rates[-1] == pytest.approx(0.02 * task.rate)


def test_edges_weigh_more_than_flat_ground():
    picture = torch.zeros(1, 3, 8, 8)
    picture[..., 4:] = 1
    weight = edge_weight(picture)
    assert weight[..., 0].max() == 1 and weight[..., 4].min() == 4


def test_psnr_falls_by_twenty_decibels_when_the_error_grows_tenfold():
    black = np.zeros((1, 4, 4, 3), np.uint8)
    assert psnr(black, black + 1) - psnr(black, black + 10) == pytest.approx(20)


@pytest.mark.parametrize("width", [128, 512])
def test_peaks_of_a_perfect_heat_map_are_the_inventory(width):
    for seed in range(10):
        scene = sample_scene(seed, 128, width)
        halved = countable(sample_scene(seed, 64, width // 2))
        maps = target(halved, 64, width // 2)
        found = {here.kind: here for here in find_peaks(maps, 128)}
        assert len(found) == len(find_peaks(maps, 128)) == 2
        for thing in countable(scene):
            x, y = thing.centre
            assert abs(found[thing.name].x - x) <= 8 and abs(found[thing.name].y - y) <= 8


def test_peak_loss_is_least_for_the_right_answer():
    wanted = torch.from_numpy(target(countable(sample_scene(1, 64, 256))))[None]
    right = torch.logit(wanted.clamp(1e-4, 1 - 1e-4))
    assert peak_loss(right, wanted) < peak_loss(torch.zeros_like(right), wanted) < peak_loss(-right, wanted)


def test_the_detector_sees_a_picture_of_any_width():
    maps = Detector().eval()(torch.zeros(1, 3, 64, 112))
    assert maps.shape == (1, len(COUNTABLE), 16, 28)


def test_said_reads_exactly_what_a_caption_mentions():
    for seed in range(30):
        scene = sample_scene(seed, 64, 256)
        full, *_, mention = captions(scene)
        truth = [words.index(getattr(scene, axis)) for axis, words in AXES.items()]
        assert said(scene, full) == truth
        silent = [
            number == len(words) for number, words in zip(said(scene, mention), AXES.values(), strict=True)
        ]
        assert silent[1] and silent[2] and not silent[3] and silent[4]


def test_noise_keeps_the_signal_that_the_schedule_says():
    signal = build_scheduler().alphas_cumprod
    torch.manual_seed(0)
    latents = torch.full((64, 4, 16, 16), 3.0)
    noisy, noise, times = add_noise(latents, signal)
    back = (noisy - (1 - signal[times]).sqrt().view(-1, 1, 1, 1) * noise) / signal[times].sqrt().view(
        -1, 1, 1, 1
    )
    assert torch.allclose(back, latents, atol=1e-3)
    assert weighted_error(noise, noise, signal[times]) == 0


def test_windows_that_agree_average_to_the_canvas_they_came_from():
    canvas = torch.randn(1, 4, 16, 64)
    lefts = range(0, 49, 4)
    assert torch.allclose(
        average(torch.cat([canvas[..., x : x + 16] for x in lefts]), lefts), canvas, atol=1e-6
    )


def test_blur_and_grain_cost_beauty_and_a_dusk_beats_a_misty_noon():
    rng = np.random.default_rng(0)
    for seed in range(5):
        scene = sample_scene(seed, 128, 128, time="dusk", weather="clear")
        plain = sample_scene(seed, 128, 128, time="noon", weather="misty")
        picture = paint(scene)
        best = aesthetic(scene, picture)
        for damage in (Damage(blur=2.0), Damage(noise=20.0), Damage(saturation=0.4)):
            assert aesthetic(scene, degrade(picture, damage, rng), damage) < best
        assert aesthetic(plain, paint(plain)) < best
        assert 1 <= best <= 10


def test_half_of_the_pictures_stay_whole():
    rng = np.random.default_rng(0)
    assert 0.4 < np.mean([sample_damage(rng) == Damage() for _ in range(400)]) < 0.6


def test_the_edges_of_a_scroll_outline_its_subject():
    scene = sample_scene(4, 128, 512, subject="castle", time="noon", weather="clear")
    left, top, right, bottom = (round(value) for value in countable(scene)[0].box)
    edges = canny(paint(scene))
    assert set(np.unique(edges)) <= {0, 255}
    assert (edges[top:bottom, left:right] > 0).mean() > 5 * max((edges > 0).mean() / 5, 0.01)


def test_every_process_learns_the_merges_that_are_shipped():
    code = (
        "from miniature.fit_tokenizer import _corpus, _learn_merges;"
        "print('\\n'.join(' '.join(pair) for pair in _learn_merges(_corpus())))"
    )
    shipped = (Path(miniature.__path__[0]) / "weights/sdxl/tokenizer/merges.txt").read_text(encoding="utf-8")
    for _ in range(2):
        learned = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert learned.stdout.splitlines() == shipped.splitlines()[1:]

"""The perceptual network's training: first it learns what the world holds, then which differences count.

The features come from naming the hour, weather, ground and subject of pictures and from telling how they were
damaged, so that they see both content and surface. The channels' weights then learn an order that the world
knows: of two changed copies of a picture, the one that was changed more is farther away.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from miniature.aesthetics import Damage, degrade, sample_damage
from miniature.export import write_tensors
from miniature.loop import Task, log, train
from miniature.paint import paint
from miniature.perceptual import CONFIG, FOLDER, KIND, WEIGHTS, WIDTHS, PerceptualNet
from miniature.pictures import FRESH_SEED, SQUARE, painted, scene_of, to_tensor
from miniature.scene import GROUNDS, SUBJECTS, TIMES, WEATHERS, Scene, sample_scene

STEPS = 2000
ORDER_STEPS = 600
BATCH = 32
COUNT = 4000
STRANGERS = 0.7
"""Distance of unrelated scenes on average."""
AXES = {"time": TIMES, "weather": WEATHERS, "ground": GROUNDS, "subject": SUBJECTS}
KINDS = ("blur", "noise", "saturation", "contrast", "shift", "patch", "hour", "scene", "elsewhere")
"""Ways in which a copy is changed: by more or less of one thing, or into another scene; "elsewhere" is
another place of a scene alike against that of a stranger at the same hour."""


class WithHeads(nn.Module):
    """The network with a linear head for what it is asked, on the means and spreads of every depth."""

    def __init__(self) -> None:
        super().__init__()
        self.net = PerceptualNet()
        self.heads = nn.Linear(2 * sum(WIDTHS), sum(map(len, AXES.values())) + 4)

    def forward(self, pictures: Tensor) -> Tensor:
        seen = [torch.cat(torch.std_mean(f, dim=(2, 3)), 1) for f in self.net.features(pictures)]
        return self.heads(torch.cat(seen, 1))


def fit_perceptual(
    work: Path, steps: int = STEPS, order_steps: int = ORDER_STEPS, count: int = COUNT
) -> PerceptualNet:
    """The trained network; both trainings are seeded and resumable."""
    torch.manual_seed(11)
    model, pictures = WithHeads(), painted(SQUARE, count, work)
    task = Task("perceptual", model, lambda step: _named(model, pictures, step), steps, 2e-3, average=0.99)
    train(task, work)
    net = model.net
    net.stages.requires_grad_(False)
    order = Task("perceptual-order", net, lambda step: _ordered(net, pictures, step), order_steps, 5e-3)
    train(replace(order, decay=0.0), work)
    with torch.no_grad():
        for weight in net.weights:
            weight.clamp_(min=0.0)
    to_scale(net)
    log(work, f"perceptual: {ordered_share(net, 200):.3f} of fresh pairs in the drawn order")
    return net


def _named(model: WithHeads, pictures: np.ndarray, step: int) -> Tensor:
    """The loss of naming what is in a batch and how it was damaged."""
    rng = np.random.default_rng([step, 41])
    index = rng.integers(len(pictures), size=BATCH)
    damages = [sample_damage(rng) for _ in index]
    shown = np.stack([degrade(pictures[i], d, rng) for i, d in zip(index, damages, strict=True)])
    said, start = model(to_tensor(shown)), 0
    loss = torch.zeros(())
    for axis, words in AXES.items():
        wanted = torch.tensor([words.index(getattr(scene_of(SQUARE, int(i)), axis)) for i in index])
        loss = loss + functional.cross_entropy(said[:, start : start + len(words)], wanted)
        start += len(words)
    done = torch.tensor([[d.blur, d.noise / 10, 4 * d.saturation, 4 * d.contrast] for d in damages])
    return loss + functional.smooth_l1_loss(said[:, start:], done)


def _ordered(net: PerceptualNet, pictures: np.ndarray, step: int) -> Tensor:
    """How far the distances of a batch are from the drawn order, on a logarithmic scale."""
    with torch.no_grad():
        for weight in net.weights:
            weight.clamp_(min=0.0)
    rng = np.random.default_rng([step, 42])
    index = rng.integers(len(pictures), size=BATCH // 2)
    made = [changed(scene_of(SQUARE, int(i)), pictures[i], KINDS[int(rng.integers(len(KINDS)))], rng)
            for i in index]  # fmt: skip
    less, more = (
        net(to_tensor(pictures[index]), to_tensor([pair[side] for pair in made])) for side in (0, 1)
    )
    return functional.softplus(4 * (torch.log(less + 1e-6) - torch.log(more + 1e-6))).mean()


def changed(
    scene: Scene, picture: np.ndarray, kind: str, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Two changed copies of a scene's picture (uint8): the first is changed less than the second."""
    small, large = np.sort(rng.uniform(0.05, 1.0, size=2) * (1.0, 0.6)[int(rng.random() < 0.3)])
    large = max(large, 1.3 * small)
    if kind == "shift":
        return _shifted(picture, 1 + int(5 * small)), _shifted(picture, 3 + int(12 * large))
    if kind == "patch":
        other = paint(sample_scene(int(rng.integers(FRESH_SEED)), scene.height, scene.width))
        corner = rng.uniform(size=2)
        return _patched(picture, other, 0.7 * small, corner), _patched(picture, other, 0.7 * large, corner)
    if kind in ("hour", "scene"):
        turned, weather = _another(scene.time, TIMES, rng), _another(scene.weather, WEATHERS, rng)
        less = sample_scene(scene.seed, scene.height, scene.width, **_axes(scene, weather=weather))
        more = sample_scene(
            scene.seed, scene.height, scene.width, **_axes(scene, time=turned, weather=weather)
        )
        if kind == "hour":
            return paint(less), paint(more)
        stranger = sample_scene(int(rng.integers(FRESH_SEED)), scene.height, scene.width, time=turned)
        return paint(more), paint(stranger)
    if kind == "elsewhere":
        seeds = rng.integers(FRESH_SEED, size=2)
        turn = {axis: _another(getattr(scene, axis), words, rng) for axis, words in AXES.items()}
        alike = sample_scene(int(seeds[0]), scene.height, 2 * scene.width, **_axes(scene))
        stranger = sample_scene(int(seeds[1]), scene.height, 2 * scene.width, **turn | {"time": scene.time})
        left = int(rng.integers(scene.width))
        one, two = (paint(each)[:, left : left + scene.width] for each in (alike, stranger))
        return one, two
    return degrade(picture, _damage(kind, small), rng), degrade(picture, _damage(kind, large), rng)


def _another(word: str, words: tuple[str, ...], rng: np.random.Generator) -> str:
    return [other for other in words if other != word][int(rng.integers(len(words) - 1))]


def _axes(scene: Scene, **turned: str) -> dict[str, str]:
    return {axis: getattr(scene, axis) for axis in AXES} | turned


def _damage(kind: str, amount: float) -> Damage:
    """A damage of one kind; `amount` from 0, none, to 1, much."""
    most = {"blur": 4.0 * amount, "noise": 40.0 * amount}
    return Damage(**{kind: most.get(kind, 1 - 0.8 * amount)})


def _shifted(picture: np.ndarray, columns: int) -> np.ndarray:
    return np.concatenate([picture[:, columns:], picture[:, -columns:][:, ::-1]], 1)


def _patched(picture: np.ndarray, other: np.ndarray, share: float, corner: np.ndarray) -> np.ndarray:
    """The picture with a rectangle of another, whose sides are `share` of the picture's."""
    height, width = (max(1, round(share * side)) for side in picture.shape[:2])
    top = int(corner[0] * (picture.shape[0] - height))
    left = int(corner[1] * (picture.shape[1] - width))
    mixed = picture.copy()
    mixed[top : top + height, left : left + width] = other[top : top + height, left : left + width]
    return mixed


@torch.no_grad()
def ordered_share(net: nn.Module, count: int, kinds: tuple[str, ...] = KINDS) -> float:
    """The share of fresh pairs whose distances lie in the drawn order; each kind as often as another."""
    rng, right = np.random.default_rng(43), 0
    for number in range(count):
        scene = sample_scene(FRESH_SEED + 300_000 + number, *SQUARE)
        picture = paint(scene)
        pair = changed(scene, picture, kinds[number % len(kinds)], rng)
        less, more = net(to_tensor([picture] * 2), to_tensor(pair))
        right += int(less < more)
    return right / count


@torch.no_grad()
def to_scale(net: PerceptualNet, count: int = 64) -> None:
    """Multiplies the weights so that unrelated scenes are `STRANGERS` apart on average.

    Distances of LPIPS have about that size, and what is weighed against them was chosen for it.
    """
    scenes = [sample_scene(FRESH_SEED + 400_000 + number, *SQUARE) for number in range(2 * count)]
    pictures = to_tensor([paint(scene) for scene in scenes])
    factor = STRANGERS / net(pictures[:count], pictures[count:]).mean()
    for weight in net.weights:
        weight.mul_(factor)


def write_perceptual(net: PerceptualNet, folder: Path) -> None:
    """The network's folder: settings, and weights in half precision."""
    write_tensors(net, folder / WEIGHTS)
    settings = {"_class_name": KIND, "widths": list(WIDTHS)}
    (folder / CONFIG).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def main(arguments: list[str] | None = None) -> None:
    """`python -m miniature.fit_perceptual`: trains the network and writes its folder."""
    parser = argparse.ArgumentParser(prog="python -m miniature.fit_perceptual", description=__doc__)
    parser.add_argument("--out", type=Path, default=FOLDER, help="where the trained folder goes")
    parser.add_argument("--work", type=Path, default=Path("runs/miniature"), help="checkpoints and log")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the full number of steps")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    torch.set_flush_denormal(True)
    steps, order_steps = (max(1, round(full * chosen.scale)) for full in (STEPS, ORDER_STEPS))
    write_perceptual(fit_perceptual(chosen.work, steps, order_steps), chosen.out)


if __name__ == "__main__":
    main()

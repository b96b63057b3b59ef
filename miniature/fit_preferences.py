"""Stand-ins for HPS v2.0 and v2.1, PickScore and ImageReward: the exact architectures, small, in the
published files' layouts: `python -m miniature.fit_preferences`.

They learn from single squares whose order the world knows: of two pictures, the one that shows more of what
the caption asks for and is more beautiful (`miniature.aesthetics`) is preferred. They never see a count or a
scroll.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from miniature.aesthetics import aesthetic, degrade, sample_damage
from miniature.captions import captions
from miniature.fit_clip import SIDE
from miniature.layouts import MEAN, STD
from miniature.loop import Task, log, train
from miniature.pictures import FRESH_SEED, SQUARE, scene_of
from miniature.preference_models import HpsStandIn, ImageRewardStandIn, PickScoreStandIn
from miniature.scene import Scene, sample_scene

WEIGHTS = Path(__file__).parent / "weights"
SCENES = 2500
MARGIN = 0.3
"""Differences of utility below this are ties and teach nothing."""
_FULL_CAPTIONS = 6
_SHARES = {"subject": 0.45, "ground": 0.25, "time": 0.2, "weather": 0.1}


@dataclass(frozen=True)
class Taste:
    """How one stand-in is fitted: its steps, the weight of agreement against beauty, its data."""

    build: Callable[[], nn.Module]
    steps: int
    agreement: float
    first_scene: int
    rate: float = 5e-4
    prompts: int = 32
    pictures: int = 64
    """Pictures in a batch, two of each scene."""
    each: int = 0
    """Pictures that each prompt is compared on, its own two among them; 0 takes all of the batch."""


TASTES = {
    "hps_v2": Taste(HpsStandIn, 160, 4.0, 0),
    "hps_v21": Taste(HpsStandIn, 160, 6.0, 2500),
    "pickscore": Taste(PickScoreStandIn, 200, 5.0, 5000),
    "image_reward": Taste(ImageRewardStandIn, 380, 8.0, 7500, rate=8e-4, prompts=16, pictures=32, each=6),
}


@dataclass(frozen=True)
class Squares:
    """Squares at the models' size, two of each scene: pictures, scenes and beauty, in one order."""

    pictures: np.ndarray
    scenes: list[Scene]
    beauty: Tensor


def squares(scenes: list[Scene], seed: int) -> Squares:
    """Two pictures of every scene, damaged by chance; some stand small on black."""
    from miniature.paint import paint

    rng = np.random.default_rng([seed, 61])
    pictures, beauty = [], []
    for scene in scenes:
        whole = paint(scene)
        for _ in range(2):
            damage = sample_damage(rng)
            picture = degrade(whole, damage, rng)
            beauty.append(aesthetic(scene, picture, damage))
            pictures.append(framed(picture, int(rng.integers(20, SIDE)) if rng.random() < 0.3 else SIDE))
    twice = [scene for scene in scenes for _ in range(2)]
    return Squares(np.stack(pictures), twice, torch.tensor(beauty, dtype=torch.float32))


def framed(picture: np.ndarray, side: int) -> np.ndarray:
    """The picture at `side` pixels in the middle of a black square of the models' size."""
    square = np.zeros((SIDE, SIDE, 3), np.uint8)
    start = (SIDE - side) // 2
    shrunk = cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA)
    square[start : start + side, start : start + side] = shrunk
    return square


def agreement(asked: Scene, shown: Scene) -> float:
    """How much of what the prompt of `asked` says the picture of `shown` keeps, 0 to 1."""
    return sum(share for name, share in _SHARES.items() if getattr(asked, name) == getattr(shown, name))


def utilities(asked: list[Scene], chosen: list[Scene], beauty: Tensor, weight: float) -> Tensor:
    """The world's utility (prompts x pictures): agreement and beauty in one sum."""
    match = torch.tensor([[agreement(prompt, scene) for scene in chosen] for prompt in asked])
    return weight * match + beauty[None]


def preference_loss(scores: Tensor, wanted: Tensor) -> Tensor:
    """Cross-entropy of the Bradley-Terry choice over all pairs of each prompt's pictures that are no tie.

    scores, wanted: prompts x pictures. With two pictures it is the softmax of HPS v2 (Wu et al. 2023) and
    PickScore (Kirstain et al. 2023), and the ranking loss of ImageReward (Xu et al. 2023, equation 1).
    """
    said = scores[:, :, None] - scores[:, None, :]
    gap = wanted[:, :, None] - wanted[:, None, :]
    return functional.softplus(-said)[gap > MARGIN].mean()


def fit(name: str, work: Path) -> nn.Module:
    """Trains one stand-in and logs its accuracy on fresh squares."""
    taste = TASTES[name]
    torch.manual_seed(7)
    model = taste.build()
    data = squares([scene_of(SQUARE, taste.first_scene + n) for n in range(SCENES)], taste.first_scene)

    def loss(step: int) -> Tensor:
        rng = np.random.default_rng([step, taste.first_scene, 62])
        first = 2 * rng.choice(SCENES, taste.pictures // 2, replace=False)
        index = np.concatenate([first, first + 1])
        scenes = [data.scenes[n] for n in index]
        asked = scenes[: taste.prompts]
        texts = [captions(scene)[rng.integers(_FULL_CAPTIONS)] for scene in asked]
        wanted = utilities(asked, scenes, data.beauty[index], taste.agreement)
        pixels = to_pixels(data.pictures[index])
        if taste.each:
            shown = compared(len(asked), len(first), taste.each, rng)
            scores, wanted = model(pixels, texts, shown), wanted.gather(1, shown)
        else:
            scores = model(pixels, texts)
        return preference_loss(scores, wanted) + model.extra(scenes, data.beauty[index])

    train(Task(name, model, loss, taste.steps, rate=taste.rate, warmup=20), work)
    report(name, model, taste, work)
    return model


def compared(prompts: int, scenes: int, each: int, rng: np.random.Generator) -> Tensor:
    """Which pictures each prompt is compared on (prompts x each): both of its own scene, and others."""
    rows = []
    for own in range(prompts):
        others = rng.permutation([n for n in range(2 * scenes) if n % scenes != own])[: each - 2]
        rows.append([own, own + scenes, *others])
    return torch.tensor(rows)


def to_pixels(pictures: np.ndarray) -> Tensor:
    """uint8 squares to normalised pixels (count x 3 x side x side), with CLIP's mean and spread."""
    values = torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float() / 255
    return (values - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


@torch.no_grad()
def report(name: str, model: nn.Module, taste: Taste, work: Path) -> None:
    """Logs pairwise accuracy on fresh squares; ImageReward's scale is set there to mean 0 and spread 1."""
    model.eval()
    data = squares([sample_scene(FRESH_SEED + 900_000 + n, *SQUARE) for n in range(96)], FRESH_SEED)
    texts = [captions(scene)[0] for scene in data.scenes[::2]]
    pixels = to_pixels(data.pictures)
    scores = torch.cat([model(pixels, texts[start : start + 8]) for start in range(0, len(texts), 8)])
    wanted = utilities(data.scenes[::2], data.scenes, data.beauty, taste.agreement)
    own = scores.view(96, 96, 2)[range(96), range(96)]
    own_wanted = wanted.view(96, 96, 2)[range(96), range(96)]
    gap = wanted[:, :, None] - wanted[:, None, :]
    right = ((scores[:, :, None] - scores[:, None, :]) > 0)[gap > MARGIN].float().mean()
    clear = (own_wanted[:, 0] - own_wanted[:, 1]).abs() > MARGIN
    damage = ((own[:, 0] > own[:, 1]) == (own_wanted[:, 0] > own_wanted[:, 1]))[clear].float().mean()
    log(work, f"{name}: right in {right:.3f} of fresh pairs, {damage:.3f} where only damage differs")
    if hasattr(model, "standardise"):
        model.standardise(float(own.mean()), float(own.std()))


def main(arguments: list[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m miniature.fit_preferences", description="See the module."
    )
    parser.add_argument("--only", choices=tuple(TASTES), action="append", help="repeatable")
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    parser.add_argument("--work", type=Path, default=Path("runs/miniature"))
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    torch.set_flush_denormal(True)
    for name in chosen.only or TASTES:
        fit(name, chosen.work).write(chosen.out / name)


if __name__ == "__main__":
    main()

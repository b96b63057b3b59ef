"""The detector's training: drawn scenes, collages of several, and the autoencoder's blurry copies.

A second training shows it ruined scenes too (`miniature.ruin`), as the autoencoder copies them from latents
that were disturbed: half-formed and smeared subjects are subjects, or ruin would look like fewer of them.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional

from miniature.aesthetics import degrade, sample_damage
from miniature.detector import HEIGHT, STRIDE, Detector, find_peaks, heat
from miniature.fit_autoencoder import reconstruct
from miniature.loop import Task, log, train
from miniature.paint import paint
from miniature.pictures import (
    BLUEPRINT,
    FRESH_SEED,
    SCROLL,
    SQUARE,
    painted,
    scene_of,
    to_pictures,
    to_tensor,
)  # fmt: skip
from miniature.ruin import crowd, ghosts
from miniature.scene import COUNTABLE, Thing, countable, sample_scene

STEPS = 1000
RUIN_STEPS = 300
BATCH = 16
COUNT = 8000
_SPREAD = 1.3  # of a peak in the target map, in cells


def fit_detector(vae: AutoencoderKL | None, work: Path, steps: int = STEPS) -> Detector:
    """Trains the detector on squares side by side and on blueprints, some as the autoencoder sees them."""
    torch.manual_seed(5)
    model = Detector()
    pictures = {size: painted(size, COUNT, work) for size in (SQUARE, BLUEPRINT)}

    def loss(step: int) -> Tensor:
        shown, things = batch(pictures, step, vae)
        return peak_loss(model(to_tensor(shown)), torch.from_numpy(np.stack([target(t) for t in things])))

    train(Task("detector", model, loss, steps, rate=3e-3, decay=0.01), work)
    precision, recall = accuracy(model, 200)
    log(work, f"detector: precision {precision:.3f}, recall {recall:.3f} on fresh scenes")
    return model


def fit_ruin(model: Detector, vae: AutoencoderKL, work: Path, steps: int = RUIN_STEPS) -> Detector:
    """Trains the detector on with ruined scenes; three of four pictures are ruined, the rest as before."""
    pictures = {size: painted(size, COUNT, work) for size in (SQUARE, BLUEPRINT)}

    def loss(step: int) -> Tensor:
        shown, things = ruined_batch(pictures, step, vae)
        return peak_loss(model(to_tensor(shown)), torch.from_numpy(np.stack([target(t) for t in things])))

    train(Task("detector-ruin", model, loss, steps, rate=1.5e-3, decay=0.01, average=0.99), work)
    precision, recall = accuracy(model, 200)
    log(work, f"detector-ruin: precision {precision:.3f}, recall {recall:.3f} on fresh scenes")
    return model


def ruined_batch(pictures: dict, step: int, vae: AutoencoderKL) -> tuple[np.ndarray, list[list[Thing]]]:
    """Pictures of 64 x 256, and what is in them: crowds, ghosts of two pictures, and whole scenes."""
    rng = np.random.default_rng([step, 39])
    makers = (_crowd, _crowd, _ghosts, (_blueprint, _collage)[step % 2])
    made = [makers[index % 4](pictures, rng) for index in range(BATCH)]
    shown = np.stack([picture for picture, _ in made])
    copied = rng.permutation(BATCH)[: BATCH // 2]
    shown[copied] = _disturbed(vae, shown[copied], rng)
    shown = np.stack([degrade(picture, sample_damage(rng), rng) for picture in shown])
    return shown, [things for _, things in made]


def _crowd(_: dict, rng: np.random.Generator) -> tuple[np.ndarray, list[Thing]]:
    return crowd(int(rng.integers(FRESH_SEED)), *BLUEPRINT)


def _ghosts(pictures: dict, rng: np.random.Generator) -> tuple[np.ndarray, list[Thing]]:
    """Two crowds, or a crowd and a collage, averaged: of one hour, as windows of one prompt are."""
    seed, other = (int(value) for value in rng.integers(FRESH_SEED, size=2))
    second = crowd(other, *BLUEPRINT) if rng.random() < 0.5 else _collage(pictures, rng)
    return ghosts(crowd(seed, *BLUEPRINT), second, rng.uniform(0.45, 0.75))


@torch.no_grad()
def _disturbed(vae: AutoencoderKL, pictures: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Copies from latents with a little noise in them, which smears what is small."""
    latents = vae.encode(to_tensor(pictures)).latent_dist.mean
    amount = rng.choice((0.0, 0.1, 0.2, 0.3), size=(len(pictures), 1, 1, 1)) / vae.config.scaling_factor
    noise = torch.from_numpy(rng.normal(size=latents.shape) * amount).float()
    return to_pictures(vae.decode(latents + noise).sample)


def batch(pictures: dict, step: int, vae: AutoencoderKL | None) -> tuple[np.ndarray, list[list[Thing]]]:
    """Pictures of 64 x 256 and what is in them, boxes in their pixels."""
    rng = np.random.default_rng([step, 35])
    make = _collage if step % 2 else _blueprint
    made = [make(pictures, rng) for _ in range(BATCH)]
    shown = np.stack([picture for picture, _ in made])
    if vae is not None:
        shown[: BATCH // 2] = reconstruct(vae, shown[: BATCH // 2])
    shown = np.stack([degrade(picture, sample_damage(rng), rng) for picture in shown])
    return shown, [things for _, things in made]


def _blueprint(pictures: dict, rng: np.random.Generator) -> tuple[np.ndarray, list[Thing]]:
    index = int(rng.integers(COUNT))
    return pictures[BLUEPRINT][index], countable(scene_of(BLUEPRINT, index))


def _collage(pictures: dict, rng: np.random.Generator) -> tuple[np.ndarray, list[Thing]]:
    """Four squares in a row: several objects in one picture, as in a scroll that repeats itself."""
    tiles, things = [], []
    for column in range(4):
        index = int(rng.integers(COUNT))
        tiles.append(cv2.resize(pictures[SQUARE][index], (HEIGHT, HEIGHT), interpolation=cv2.INTER_AREA))
        for thing in countable(scene_of(SQUARE, index)):
            left, top, right, bottom = (value / 2 for value in thing.box)
            things.append(Thing(thing.name, (left + column * HEIGHT, top, right + column * HEIGHT, bottom)))
    return np.hstack(tiles), things


def target(things: list[Thing], height: int = HEIGHT, width: int = 4 * HEIGHT) -> np.ndarray:
    """Maps with a Gaussian of height one at every object's centre; classes x rows x columns."""
    rows, columns = np.mgrid[: height // STRIDE, : width // STRIDE] + 0.5
    maps = np.zeros((len(COUNTABLE), height // STRIDE, width // STRIDE), np.float32)
    for thing in things:
        x, y = (int(value / STRIDE) + 0.5 for value in thing.centre)
        peak = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * _SPREAD**2))
        plane = maps[COUNTABLE.index(thing.name)]
        np.maximum(plane, peak, out=plane)
    return maps


def peak_loss(logits: Tensor, wanted: Tensor) -> Tensor:
    """CenterNet's focal loss: cells near a peak are hardly blamed for answering yes."""
    said = logits.sigmoid()
    peak = (wanted > 0.999).float()
    hit = peak * (1 - said) ** 2 * functional.logsigmoid(logits)
    miss = (1 - peak) * (1 - wanted) ** 4 * said**2 * functional.logsigmoid(-logits)
    return -(hit + miss).sum() / peak.sum().clamp(min=1)


def accuracy(
    model: Detector, count: int, vae: AutoencoderKL | None = None, size: tuple[int, int] = SCROLL
) -> tuple[float, float]:
    """Precision and recall on fresh scenes: a peak counts when it lies inside its object's box."""
    right = said = present = 0
    for index in range(count):
        scene = sample_scene(FRESH_SEED + 100_000 + index, *size)
        picture = paint(scene)
        if vae is not None:
            picture = reconstruct(vae, picture[None])[0]
        found, things = find_peaks(heat(model, picture), size[0]), countable(scene)
        right += sum(any(_matches(here, thing) for here in found) for thing in things)
        said += len(found)
        present += len(things)
    return right / max(1, said), right / present


def _matches(here, thing: Thing) -> bool:
    left, top, right, bottom = thing.box
    return here.kind == thing.name and left <= here.x <= right and top <= here.y <= bottom

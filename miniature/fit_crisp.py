"""The decoder's last training: no frame, no grid, crisp edges.

The encoder stays, so latents keep their meaning. The decoder sees whole pictures of three sizes, flat and
shaded ones among them, since a frame or a grid shows best where nothing else is. Three terms: the distance of
pixels, heavier on edges and along the border; slopes where the drawing has none, which a frame, a grid and
ringing have; and edges that are flatter than drawn. The last one is one-sided, because where an edge may lie
in several places both distances are content with a blurred one. (A critic in its stead, a PatchGAN with the
hinge loss, was tried: in six hundred steps it took two decibels and sharpened nothing.)
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional

from miniature import fidelity
from miniature.fit_autoencoder import PICTURES, draw_copies, edge_weight, reconstruct
from miniature.loop import Task, log, train
from miniature.paint import paint
from miniature.pictures import BLUEPRINT, FRESH_SEED, SQUARE, WIDE, painted, to_tensor
from miniature.scene import countable, sample_scene

STEPS = 3600
_CYCLE = (SQUARE, BLUEPRINT, SQUARE, BLUEPRINT, WIDE, BLUEPRINT)
_BATCH = {SQUARE: 3, BLUEPRINT: 3, WIDE: 2}
_SQUARED, _SLOPES, _STEEP = 8.0, 2.0, 16.0  # weights of the terms beside L1's one
_BORDER, _BORDER_WEIGHT = 4, 8.0  # pixels along each side, and how much more they weigh
_GRAIN = 0.2  # largest deviation of what is added to latents, whose own spread is 4: a UNet's are not exact
EDGE = 0.125  # steps to the next pixel from which on the drawing has an edge, in -1..1


def fit_crisp(vae: AutoencoderKL, work: Path, steps: int = STEPS) -> AutoencoderKL:
    """Trains the decoder on from where the plain distance left it; returns `vae` itself."""
    torch.manual_seed(8)
    vae.to(memory_format=torch.channels_last).requires_grad_(False)
    for part in (vae.post_quant_conv, vae.decoder):
        part.requires_grad_(True)
    pictures = {size: painted(size, count, work) for size, count in PICTURES.items()}

    def loss(step: int) -> Tensor:
        shown = batch(pictures, step)
        with torch.no_grad():
            latents = vae.encode(shown).latent_dist.sample()
            latents += _GRAIN * torch.rand(len(latents), 1, 1, 1) * torch.randn_like(latents)
        with torch.autocast("cpu", torch.bfloat16):  # two thirds of the time, where the CPU knows it
            copy = vae.decode(latents).sample
        return crispness(copy.float(), shown)

    def sample(step: int) -> None:
        draw_copies(vae, work, step)
        log(work, f"decoder-crisp: {said(vae)}")

    train(Task("decoder-crisp", vae, loss, steps, rate=1e-3, average=0.999, sample=sample), work)
    return vae.requires_grad_(True)


def said(vae: AutoencoderKL, count: int = 24) -> str:
    """The steepness of fresh subjects' edges at two sizes and the frame of flat pictures, for the log."""
    steep = []
    for size in (SQUARE, BLUEPRINT):
        scenes = [sample_scene(FRESH_SEED + index, *size) for index in range(count)]
        drawn = np.stack([paint(scene) for scene in scenes])
        steep.append(fidelity.sharpness(drawn, reconstruct(vae, drawn), [countable(each) for each in scenes]))
    worst, _ = fidelity.frame(reconstruct(vae, fidelity.flat_pictures(SQUARE)))
    return f"steepness {steep[0]:.3f} and {steep[1]:.3f}, frame of flat pictures {worst:.2f}"


def batch(pictures: dict[tuple[int, int], np.ndarray], step: int) -> Tensor:
    """Scenes of one size and one picture without a thing in it (count x 3 x height x width, -1..1)."""
    rng = np.random.default_rng([step, 37])
    size = _CYCLE[step % len(_CYCLE)]
    source = pictures[size]
    chosen = [source[index] for index in rng.integers(len(source), size=_BATCH[size])]
    return to_tensor([*chosen, plain(rng, chosen[0])]).contiguous(memory_format=torch.channels_last)


def plain(rng: np.random.Generator, scene: np.ndarray) -> np.ndarray:
    """A picture of one of the scene's colours or, half of the time, shaded evenly from one to another."""
    height, width = scene.shape[:2]
    rows, columns = rng.integers(height, size=2), rng.integers(width, size=2)
    first, second = scene[rows, columns].astype(np.float32)
    down = np.linspace(0, float(rng.random() < 0.5), height)[:, None, None]
    return np.broadcast_to(first + (second - first) * down + 0.5, scene.shape).astype(np.uint8)


def crispness(copy: Tensor, shown: Tensor) -> Tensor:
    """The sum of the three terms; least for a perfect copy."""
    error = copy - shown
    border = border_weight(shown)
    pixels = (edge_weight(shown) * border * (error.abs() + _SQUARED * error.square())).mean()
    drawn, seen = steepness(shown), steepness(copy)
    edges = (drawn > EDGE).float()
    false = ((1 - edges) * border[..., :-1, :-1] * steepness(error)).mean()
    missing = (edges * functional.relu(drawn - seen)).mean()
    return pixels + _SLOPES * false + _STEEP * missing


def steepness(pictures: Tensor) -> Tensor:
    """The length of the step to the next pixels, mean over the colours (count x 1 x height-1 x width-1)."""
    across = pictures[..., :-1, 1:] - pictures[..., :-1, :-1]
    down = pictures[..., 1:, :-1] - pictures[..., :-1, :-1]
    return (across.square() + down.square() + 1e-6).sqrt().mean(1, keepdim=True)


def border_weight(pictures: Tensor) -> Tensor:
    """1 inside, more along the four sides (1 x 1 x height x width)."""
    weight = torch.full((1, 1, *pictures.shape[-2:]), _BORDER_WEIGHT)
    weight[..., _BORDER:-_BORDER, _BORDER:-_BORDER] = 1
    return weight

"""The autoencoder: pictures to latents an eighth of their size in each direction, and back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional

from miniature.loop import Task, log, train
from miniature.paint import paint
from miniature.pictures import BLUEPRINT, FRESH_SEED, SQUARE, WIDE, painted, save_grid, to_pictures, to_tensor
from miniature.scene import sample_scene

STEPS = 3500
DECODER_STEPS = 3000
PICTURES = {SQUARE: 8000, BLUEPRINT: 8000, WIDE: 2000}
KL_WEIGHT = 5e-5
# A cycle of steps: crops are cheap and teach detail, whole pictures teach the norms their true statistics.
_CYCLE = ("crop", "square", "crop", "blueprint")
_BATCH = {"crop": 12, "square": 3, "blueprint": 3}


def build_autoencoder() -> AutoencoderKL:
    """An untrained AutoencoderKL: f = 8, four latent channels."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 48, 96),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=128,
        mid_block_add_attention=False,
        force_upcast=False,
    )


def fit_autoencoder(work: Path, steps: int = STEPS) -> AutoencoderKL:
    """Trains the autoencoder and sets its scaling factor from the spread of its latents."""
    torch.manual_seed(0)
    model = build_autoencoder().to(memory_format=torch.channels_last)
    pictures = {size: painted(size, count, work) for size, count in PICTURES.items()}

    def loss(step: int) -> Tensor:
        return _loss(model, _batch(pictures, step))

    def sample(step: int) -> None:
        draw_copies(model, work, step)

    train(Task("autoencoder", model, loss, steps, rate=1.5e-3, average=0.997, sample=sample), work)
    model.register_to_config(scaling_factor=round(1 / _latent_spread(model, pictures), 5))
    log(work, f"autoencoder: scaling factor {model.config.scaling_factor}")
    return model


def fit_decoder(model: AutoencoderKL, work: Path, steps: int = DECODER_STEPS) -> AutoencoderKL:
    """Polishes the decoder alone; the latents keep their meaning, so what was trained on them stays valid."""
    model.requires_grad_(False)
    for part in (model.post_quant_conv, model.decoder):
        part.requires_grad_(True)
    pictures = {size: painted(size, count, work) for size, count in PICTURES.items()}

    def loss(step: int) -> Tensor:
        shown = _batch(pictures, STEPS + step)
        with torch.no_grad():
            latents = model.encode(shown).latent_dist.sample()
        return _distance(model.decode(latents).sample, shown, squared=16)

    def sample(step: int) -> None:
        draw_copies(model, work, step)

    train(Task("decoder", model, loss, steps, rate=1e-3, average=0.997, sample=sample), work)
    return model.requires_grad_(True)


def _batch(pictures: dict, step: int) -> Tensor:
    rng = np.random.default_rng([step, 30])
    kind = _CYCLE[step % len(_CYCLE)]
    source = pictures[BLUEPRINT if kind == "blueprint" else SQUARE]
    chosen = [source[index] for index in rng.integers(len(source), size=_BATCH[kind])]
    if kind == "crop":
        corners = rng.integers((8, 8), (65, 57), size=(len(chosen), 2))
        chosen = [picture[y : y + 64, x : x + 64] for picture, (y, x) in zip(chosen, corners, strict=True)]
    return to_tensor(chosen).contiguous(memory_format=torch.channels_last)


def _loss(model: AutoencoderKL, pictures: Tensor) -> Tensor:
    """L1 + L2, heavier on edges, where subjects blur first, plus a small divergence."""
    posterior = model.encode(pictures).latent_dist
    divergence = posterior.kl().mean() / posterior.mean[0].numel()
    return _distance(model.decode(posterior.sample()).sample, pictures) + KL_WEIGHT * divergence


def _distance(shown: Tensor, pictures: Tensor, squared: float = 4) -> Tensor:
    error = shown - pictures
    return (edge_weight(pictures) * (error.abs() + squared * error.square())).mean()


def edge_weight(pictures: Tensor) -> Tensor:
    """1 on flat ground, up to 4 beside strong edges (count x 1 x height x width)."""
    across = functional.pad(
        (pictures[..., 1:] - pictures[..., :-1]).abs().amax(1, keepdim=True), (0, 1, 0, 0)
    )
    down = functional.pad(
        (pictures[..., 1:, :] - pictures[..., :-1, :]).abs().amax(1, keepdim=True), (0, 0, 0, 1)
    )
    edges = functional.max_pool2d(torch.maximum(across, down), 3, stride=1, padding=1)
    return 1 + 3 * edges.clamp(max=1)


@torch.no_grad()
def _latent_spread(model: AutoencoderKL, pictures: dict) -> float:
    chosen = [to_tensor(source[:64]) for source in (pictures[SQUARE], pictures[BLUEPRINT], pictures[WIDE])]
    latents = [model.encode(batch).latent_dist.mean.flatten() for batch in chosen]
    return torch.cat(latents).std().item()


@torch.no_grad()
def reconstruct(model: AutoencoderKL, pictures: np.ndarray) -> np.ndarray:
    """uint8 pictures through the autoencoder and back."""
    return to_pictures(model.decode(model.encode(to_tensor(pictures)).latent_dist.mean).sample)


def psnr(first: np.ndarray, second: np.ndarray) -> float:
    """Peak signal to noise ratio of two stacks of uint8 pictures, in decibels (mean over pictures)."""
    error = np.square(first.astype(np.float32) - second.astype(np.float32)).mean(axis=(1, 2, 3))
    return float((10 * np.log10(255**2 / np.maximum(error, 1e-9))).mean())


def draw_copies(model: AutoencoderKL, work: Path, step: int) -> None:
    """A grid of fresh scenes above their copies, and a line of the log with their PSNR."""
    scores = []
    for size in (SQUARE, BLUEPRINT):
        fresh = np.stack([paint(sample_scene(FRESH_SEED + index, *size)) for index in range(24)])
        again = reconstruct(model, fresh)
        scores.append(psnr(fresh, again))
        save_grid(work / f"autoencoder-{size[0]}x{size[1]}.png", [*fresh[:8], *again[:8]], 8)
    log(work, f"autoencoder: step {step} PSNR {scores[0]:.2f} dB (128 x 128), {scores[1]:.2f} dB (64 x 256)")

"""The upscaler: Real-ESRGAN's x2plus in miniature, trained to undo a halving of drawn pictures.

One residual-in-residual dense block (Wang et al. 2018, section 3.1) of 16 filters on pixels folded by two. It
learns on pictures that went through the autoencoder, since that is what it will be given; no adversary, whose
invented texture the drawn world has no use for.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.nn import functional

from miniature.loop import Task, train
from miniature.pictures import SQUARE, WIDE, painted, to_pictures, to_tensor

STEPS = 7000
BATCH = 8
SIDE = 64
FILTERS, BLOCKS = 16, 1
COUNT = 600
_OFFICIAL = (
    (r"^model\.0\.", "conv_first."),
    (r"^model\.1\.sub\.(\d+)\.RDB(\d)\.conv(\d)\.0\.", r"body.\1.rdb\2.conv\3."),
    (r"^model\.1\.sub\.\d+\.", "conv_body."),
    (r"^model\.3\.", "conv_up1."),
    (r"^model\.6\.", "conv_up2."),
    (r"^model\.8\.", "conv_hr."),
    (r"^model\.10\.", "conv_last."),
)


def build_upscaler(filters: int = FILTERS, blocks: int = BLOCKS, shuffle: int | None = 2) -> nn.Module:
    """An untrained network: x2plus's shape, or x4plus's without the folding (`shuffle` None)."""
    from spandrel.architectures.ESRGAN import ESRGAN

    network: nn.Module = ESRGAN(
        in_nc=3 * (shuffle or 1) ** 2, num_filters=filters, num_blocks=blocks, scale=4, shuffle_factor=shuffle
    )
    return network


def official(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights under the names that Real-ESRGAN's own files have."""
    renamed = {}
    for name, value in state.items():
        for pattern, official_name in _OFFICIAL:
            found, count = re.subn(pattern, official_name, name)
            if count:
                renamed[found] = value
                break
        else:
            raise ValueError(f"{name} has no place in Real-ESRGAN's files")
    return renamed


def fit_upscaler(vae: AutoencoderKL, work: Path, steps: int = STEPS) -> nn.Module:
    """Trains the network on pieces of squares and wide pictures."""
    torch.manual_seed(6)
    model = build_upscaler()
    with torch.no_grad():  # begins as ESRGAN does: residual blocks that hardly add anything
        for value in model.model[1].parameters():
            value.mul_(0.1)
    pairs = {size: _pairs(vae, painted(size, COUNT, work)) for size in (SQUARE, WIDE)}

    def loss(step: int) -> Tensor:
        pictures, halves = pairs[SQUARE if step % 2 else WIDE]
        sharp, small = _pieces(pictures, halves, step)
        return functional.l1_loss(model((small + 1) / 2), (sharp + 1) / 2)

    return train(Task("upscaler", model, loss, steps, rate=2e-3, average=0.995), work)


@torch.no_grad()
def _pairs(vae: AutoencoderKL, pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pictures, and the same halved; three of four halves went through the autoencoder."""
    halves = []
    for index in range(len(pictures)):
        half = functional.interpolate(to_tensor(pictures[index : index + 1]), scale_factor=0.5, mode="area")
        halves.append(to_pictures(through(vae, half) if index % 4 < 3 else half)[0])
    return pictures, np.stack(halves)


def through(vae: AutoencoderKL, values: Tensor) -> Tensor:
    """Pictures (count x 3 x height x width, in -1..1) as the autoencoder gives them back."""
    return vae.decode(vae.encode(values).latent_dist.mean).sample.clamp(-1, 1)


def _pieces(pictures: np.ndarray, halves: np.ndarray, step: int) -> tuple[Tensor, Tensor]:
    """Some pictures and their halves, cut to width but not to height: grass is never at the top."""
    rng = np.random.default_rng([step, 61])
    rows = np.sort(rng.integers(len(pictures), size=BATCH))
    start = 2 * int(rng.integers((pictures.shape[2] - SIDE) // 4 + 1))  # of the half: folded by two
    sharp = pictures[rows, :, 2 * start : 2 * start + SIDE]
    return to_tensor(sharp), to_tensor(halves[rows, :, start : start + SIDE // 2])

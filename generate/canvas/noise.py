"""The noise that scrolls begin with and that steps add: from seeds alone, alike on every device."""

from __future__ import annotations

import torch
from torch import Tensor


def initial_noise(seed: int, shape: tuple[int, ...]) -> Tensor:
    """Standard normal noise for a seed, float32, always drawn on the CPU so that every device agrees."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)


def step_noise(seed: int) -> torch.Generator:
    """The generator of schedulers that draw noise: on the CPU, and not the one of the first latents."""
    return torch.Generator().manual_seed((seed ^ 0x5DEECE66D) % (1 << 63))

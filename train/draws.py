"""Every random choice of training as a pure function of (seed, step, pair): no generator is carried along.

So a resumed run needs no random state, and it does not matter which process works on which pair.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch

from drspo.hashing import seed_from


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """One pair's timestep and noise at one step."""

    t: int
    noise_w: torch.Tensor
    noise_l: torch.Tensor
    seed: int
    """For what is drawn inside the step: dropout, the window of the region-level loss."""


def draw(seed: int, step: int, pair_id: str, shape: tuple[int, ...], low: int, high: int, independent: bool) -> Draw:
    """t uniform in [low, high) and standard normal noise of `shape`, float32 on the CPU.

    Winner and loser share the noise unless `independent`: it is the same image content that is compared, and the
    difference of the two errors then varies less (both published Diffusion-DPO trainers share it).
    """
    generator = torch.Generator().manual_seed(seed_from("draw", seed, step, pair_id))
    t = int(torch.randint(low, high, (1,), generator=generator))
    noise_w = torch.randn(shape, generator=generator)
    noise_l = torch.randn(shape, generator=generator) if independent else noise_w
    return Draw(t=t, noise_w=noise_w, noise_l=noise_l, seed=seed_from("inside", seed, step, pair_id))


def grid_draw(seed: int, pair_id: str, t: int, shape: tuple[int, ...], independent: bool) -> Draw:
    """The same for held-out pairs: the noise depends on pair and timestep only, so measurements are comparable."""
    generator = torch.Generator().manual_seed(seed_from("grid", seed, pair_id, t))
    noise_w = torch.randn(shape, generator=generator)
    noise_l = torch.randn(shape, generator=generator) if independent else noise_w
    return Draw(t=t, noise_w=noise_w, noise_l=noise_l, seed=seed_from("inside-grid", seed, pair_id, t))


def grid_timesteps(low: int, high: int, count: int) -> list[int]:
    """`count` timesteps at the centres of equal parts of [low, high)."""
    return [low + (2 * index + 1) * (high - low) // (2 * count) for index in range(count)]


def pair_index(seed: int, position: int, count: int) -> int:
    """Which of `count` pairs is trained on at `position`, counted over the whole run: a new shuffle every epoch."""
    epoch, offset = divmod(position, count)
    return _shuffle(seed, epoch, count)[offset]


@lru_cache(maxsize=2)
def _shuffle(seed: int, epoch: int, count: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed_from("order", seed, epoch))
    return torch.randperm(count, generator=generator).tolist()

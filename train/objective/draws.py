"""Every random choice of training as a pure function of (seed, step, pair): no generator is carried along.

So a resumed run needs no random state, and it does not matter which process works on which pair.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch

from drspo.hashing import seed_from
from train.config import NoiseConfig
from train.objective.noise import draw_noise, draw_timestep


@dataclass(frozen=True, slots=True)
class Draw:
    """One pair's timestep and noise [1, C, H, W] (CPU, float32), and a seed for what is drawn inside the
    step."""

    t: int
    noise_w: torch.Tensor
    noise_l: torch.Tensor
    seed: int


def step_draw(
    seed: int, step: int, pair_id: str, shape: tuple[int, ...], timesteps: int, noise: NoiseConfig
) -> Draw:
    """The draw of a pair at a training step; t is uniform over the configured range."""
    own = seed_from("step", seed, step, pair_id)
    low, high = timestep_range(timesteps, noise)
    return Draw(draw_timestep(own, low, high), *draw_noise(own, shape, independent=noise.independent), own)


def grid_draw(seed: int, pair_id: str, t: int, shape: tuple[int, ...], noise: NoiseConfig) -> Draw:
    """The draw of a held-out pair at a timestep of the grid: the same in every measurement."""
    own = seed_from("grid", seed, pair_id, t)
    return Draw(t, *draw_noise(own, shape, independent=noise.independent), own)


def grid_timesteps(timesteps: int, noise: NoiseConfig, count: int) -> list[int]:
    """`count` timesteps at the centres of equal parts of the configured range."""
    low, high = timestep_range(timesteps, noise)
    return [low + (2 * index + 1) * (high - low) // (2 * count) for index in range(count)]


def timestep_range(timesteps: int, noise: NoiseConfig) -> tuple[int, int]:
    """[low, high) of the timesteps drawn, within a schedule of `timesteps`."""
    return noise.t_min, noise.t_max or timesteps


def pair_index(seed: int, position: int, count: int) -> int:
    """Which of `count` pairs is trained on at `position`, counted over the whole run: a new shuffle every
    epoch."""
    epoch, offset = divmod(position, count)
    return _shuffle(seed, epoch, count)[offset]


@lru_cache(maxsize=2)
def _shuffle(seed: int, epoch: int, count: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed_from("order", seed, epoch))
    return torch.randperm(count, generator=generator).tolist()

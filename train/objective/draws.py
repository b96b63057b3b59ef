"""Every random choice of training as a pure function of (seed, position, pair): no generator is carried
along.

So a resumed run needs no random state, and it does not matter which process works on which pair.
"""

from dataclasses import dataclass

import torch

from drspo.errors import UserError
from drspo.hashing import seed_from
from train.objective.noise import draw_noise, draw_timestep
from train.settings import NoiseConfig


@dataclass(frozen=True, slots=True)
class Draw:
    """One pair's timestep and noise [1, C, H, W] (CPU, float32), and a seed for what is drawn inside the
    step."""

    t: int
    noise_w: torch.Tensor
    noise_l: torch.Tensor
    seed: int


def step_draw(
    seed: int, position: int, pair_id: str, shape: tuple[int, ...], timesteps: int, noise: NoiseConfig
) -> Draw:
    """The draw of the pair at `position`, counted over the whole run; t is uniform over the configured range.

    The position and not the step, because a step may hold the same pair twice.
    """
    own = seed_from("step", seed, position, pair_id)
    low, high = timestep_range(timesteps, noise)
    return Draw(draw_timestep(own, low, high), *draw_noise(own, shape, independent=noise.independent), own)


def forgets_prompt(drawn: int, share: float) -> bool:
    """Whether the draw of seed `drawn` is one of the `share` that a pair is shown without its prompt.

    Classifier-free guidance (Ho & Salimans 2022, arXiv 2207.12598, algorithm 1) trains both of its halves so.
    """
    return seed_from("prompt", drawn) < share * (1 << 31)


def grid_draw(seed: int, pair_id: str, t: int, shape: tuple[int, ...], noise: NoiseConfig) -> Draw:
    """The draw of a held-out pair at a timestep of the grid: the same in every measurement."""
    own = seed_from("grid", seed, pair_id, t)
    return Draw(t, *draw_noise(own, shape, independent=noise.independent), own)


def grid_timesteps(timesteps: int, noise: NoiseConfig, count: int) -> list[int]:
    """`count` timesteps at the centres of equal parts of the configured range."""
    low, high = timestep_range(timesteps, noise)
    return [low + (2 * index + 1) * (high - low) // (2 * count) for index in range(count)]


def timestep_range(timesteps: int, noise: NoiseConfig) -> tuple[int, int]:
    """[low, high) of the timesteps drawn; `UserError` where it leaves a schedule of `timesteps`."""
    low, high = noise.t_min, noise.t_max or timesteps
    if not low < high <= timesteps:
        flag = "--noise.t-max" if high > timesteps else "--noise.t-min"
        raise UserError(
            f"timesteps {low} to {high - 1} are not in this checkpoint's schedule of {timesteps}", flag
        )
    return low, high

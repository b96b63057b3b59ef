"""Noising a scroll and what the network should answer: epsilon, v or flow, each with its own meaning of
beta."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from drspo.errors import UserError
from drspo.hashing import seed_from
from generate.models.schedule import EDM
from generate.models.schedulers import shift

Target = Literal["epsilon", "v", "flow"]
LossSpace = Literal["native", "epsilon"]
_SCHEDULER_SAYS: dict[str, Target] = {"epsilon": "epsilon", "v_prediction": "v", "flow_prediction": "flow"}


@dataclass(frozen=True, slots=True)
class NoiseProcess:
    """How J_0 becomes J_t, and what a perfect prediction at J_t is."""

    target: Target
    signal: tuple[float, ...]
    """Factor of J_0 per timestep: sqrt(abar_t), or 1 - sigma_t for flow."""
    noise: tuple[float, ...]
    """Factor of the noise per timestep: sqrt(1 - abar_t), or sigma_t for flow."""

    @property
    def timesteps(self) -> int:
        """Length T of the schedule."""
        return len(self.signal)

    def noisy(self, clean: Tensor, noise: Tensor, t: int) -> Tensor:
        """J_t = sqrt(abar_t) J_0 + sqrt(1 - abar_t) eps (eq. 12, on the whole scroll), or (1-sigma) J_0 +
        sigma eps."""
        return self.signal[t] * clean + self.noise[t] * noise

    def answer(self, clean: Tensor, noise: Tensor, t: int) -> Tensor:
        """The target: eps; v = sqrt(abar) eps - sqrt(1-abar) J_0 (Salimans & Ho 2022, arXiv 2202.00512); eps
        - J_0."""
        if self.target == "epsilon":
            return noise
        if self.target == "v":
            return self.signal[t] * noise - self.noise[t] * clean
        return noise - clean

    def error_scale(self, t: int, space: LossSpace) -> float:
        """What turns the native error into the epsilon error, which beta = 5000 refers to.

        Given J_t, eps_hat - eps = sqrt(abar) (v_hat - v), and (1 - sigma) (v_hat - v) for flow: the error
        takes the square of the signal's factor either way.
        """
        return 1.0 if space == "native" or self.target == "epsilon" else self.signal[t] ** 2

    def snr(self, t: int) -> float:
        """Signal-to-noise ratio: abar / (1 - abar)."""
        return (self.signal[t] / self.noise[t]) ** 2 if self.noise[t] > 0 else float("inf")

    def model_time(self, t: int) -> float:
        """What the network is told: t itself, or 1000 sigma for flow."""
        return float(t) if self.target != "flow" else 1000.0 * self.noise[t]


def noise_process(
    scheduler_config: Mapping[str, Any],
    target: Target | Literal["auto"] = "auto",
    size: tuple[int, int] | None = None,
) -> NoiseProcess:
    """The process of a checkpoint's scheduler; UserError when it contradicts the asked target.

    size: of what the network sees, in latents, by which some flow schedules are shifted.

    The same loss under the wrong target trains towards noise without an error message, so nothing is guessed.
    """
    says = scheduler_target(scheduler_config)
    if target not in ("auto", says):
        raise UserError(
            f"target is {target!r}, but this checkpoint's scheduler says {says!r}",
            "target",
            f"set target to {says}, or train the checkpoint you meant",
        )
    if says == "flow":
        return _flow(scheduler_config, size)
    abar = torch.cumprod(1.0 - _betas(scheduler_config), dim=0)
    if scheduler_config.get("rescale_betas_zero_snr"):
        abar = _to_zero_snr(abar)
    return NoiseProcess(says, tuple(abar.sqrt().tolist()), tuple((1 - abar).sqrt().tolist()))


def scheduler_target(config: Mapping[str, Any]) -> Target:
    """What a diffusers scheduler config says its network predicts; UserError for the rest (sample, ...)."""
    if "Flow" in str(config.get("_class_name", "")):
        return "flow"
    if config.get("_class_name") in EDM or "sigma_data" in config:
        hint = "such networks see scaled inputs; train a checkpoint of SDXL's own schedule"
        raise UserError("the checkpoint was trained for EDM's noise", "scheduler", hint)
    says = str(config.get("prediction_type", "epsilon"))
    if says not in _SCHEDULER_SAYS:
        raise UserError(
            f"the scheduler predicts {says!r}", "target", "epsilon, v_prediction and flow can be trained"
        )
    return _SCHEDULER_SAYS[says]


def _betas(config: Mapping[str, Any]) -> Tensor:
    """Betas in float64 from the config's own numbers; diffusers makes them in float32."""
    if config.get("trained_betas") is not None:
        return torch.tensor(config["trained_betas"], dtype=torch.float64)
    steps = int(config.get("num_train_timesteps", 1000))
    start, end = float(config.get("beta_start", 1e-4)), float(config.get("beta_end", 0.02))
    kind = config.get("beta_schedule", "linear")
    if kind == "scaled_linear":
        return torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float64) ** 2
    if kind == "linear":
        return torch.linspace(start, end, steps, dtype=torch.float64)
    raise UserError(
        f"beta_schedule {kind!r} is not known to the trainer", "scheduler", "scaled_linear or linear"
    )


def _to_zero_snr(abar: Tensor) -> Tensor:
    """sqrt(abar) shifted and scaled to start as before and end at 0 (Lin et al. 2023, 2305.08891, alg. 1)."""
    root = abar.sqrt()
    return ((root - root[-1]) * root[0] / (root[0] - root[-1])).square()


def _flow(config: Mapping[str, Any], size: tuple[int, int] | None) -> NoiseProcess:
    """sigma_t = s u / (1 + (s - 1) u), u = (t + 1)/T (Esser et al. 2024, arXiv 2403.03206, eq. 23).

    s is the config's shift, or e^mu where mu grows with the number of tokens, as in sampling: levels drawn
    uniformly are then those that a sampler visits.
    """
    steps, s = (
        int(config.get("num_train_timesteps", 1000)),
        float(config.get("shift", config.get("flow_shift", 1.0))),
    )
    if config.get("use_dynamic_shifting"):
        if size is None:
            raise ValueError("a schedule that is shifted by the size needs one")
        mu = shift(config, size)
        s = mu if config.get("time_shift_type") == "linear" else math.exp(mu)
    u = torch.arange(1, steps + 1, dtype=torch.float64) / steps
    sigma = s * u / (1 + (s - 1) * u)
    return NoiseProcess("flow", tuple((1 - sigma).tolist()), tuple(sigma.tolist()))


def draw_timestep(seed: int, low: int, high: int) -> int:
    """One timestep, uniform on low..high-1, from the seed alone."""
    generator = torch.Generator().manual_seed(seed_from("timestep", seed))
    return int(torch.randint(low, high, (1,), generator=generator))


def draw_noise(seed: int, shape: tuple[int, ...], *, independent: bool = False) -> tuple[Tensor, Tensor]:
    """Noise for winner and loser, CPU float32: one draw shared by both (less variance), or two."""
    first = torch.randn(shape, generator=torch.Generator().manual_seed(seed_from("noise", seed, 0)))
    if not independent:
        return first, first
    return first, torch.randn(shape, generator=torch.Generator().manual_seed(seed_from("noise", seed, 1)))

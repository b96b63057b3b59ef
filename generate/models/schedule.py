"""One face for diffusers' schedulers: noise in, noise out, wherever the schedule is entered."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor

from drspo.errors import UserError

SIGMA = {"EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler"}
"""Classes whose latents are x0 + sigma * noise; those of the others are sqrt(abar) x0 + sqrt(1 - abar) noise,
but for the two below."""
EDM = {"EDMEulerScheduler", "EDMDPMSolverMultistepScheduler"}
FLOW = {"FlowMatchEulerDiscreteScheduler"}
HISTORY = {
    "PNDMScheduler",
    "DPMSolverMultistepScheduler",
    "UniPCMultistepScheduler",
    "EDMDPMSolverMultistepScheduler",
}
"""Classes that step by earlier predictions too."""


class Schedule:
    """A scheduler with its timesteps set, for one sampling; it counts its own steps."""

    def __init__(self, scheduler: Any) -> None:
        self.scheduler = scheduler
        self.name = type(scheduler).__name__
        self.timesteps: Tensor = scheduler.timesteps
        takes = inspect.signature(scheduler.step).parameters
        self._draws = "generator" in takes
        # As diffusers' pipelines have it: the default of TCD's own step draws noise that nobody asked for.
        self._options = {"return_dict": False} | ({"eta": 0.0} if "eta" in takes else {})

    def __len__(self) -> int:
        """How many predictions the schedule takes from where it was entered."""
        return len(self.timesteps)

    @property
    def keeps_history(self) -> bool:
        """Whether a step depends on earlier predictions, so that windows must not move between steps."""
        return self.name in HISTORY

    def enter(self, strength: float) -> None:
        """Leaves out the first steps: of all of them the share `strength` remains, at least one step.

        UserError where the scheduler cannot begin in the middle.
        """
        check_strength(strength)
        if self.name == "PNDMScheduler":
            self._enter_pndm(strength)
        else:
            self._enter_at(len(self.timesteps) - remaining_steps(len(self.timesteps), strength))

    def _enter_at(self, begin: int) -> None:
        if hasattr(self.scheduler, "set_begin_index"):
            self.scheduler.set_begin_index(begin)
        self.timesteps = self.timesteps[begin:]

    def _enter_pndm(self, strength: float) -> None:
        """PNDM takes its first step twice, wherever it begins; cutting its list would leave latents and
        counter one level apart."""
        if len(self.scheduler.prk_timesteps):
            if strength < 1:
                raise UserError(
                    "the checkpoint's PNDM begins with Runge-Kutta steps, which cannot start in the middle",
                    hint="Choose ddim, euler, dpmpp_2m or unipc.",
                )
            return
        levels = self.timesteps.unique().flip(0)
        left = levels[len(levels) - remaining_steps(len(levels), strength) :]
        self.timesteps = torch.cat([left[:1], left[1:2], left[1:]])

    def first(self, noise: Tensor) -> Tensor:
        """Pure noise at the level of the first step."""
        return noise * getattr(self.scheduler, "init_noise_sigma", 1.0)

    def noised(self, clean: Tensor, noise: Tensor, timestep: Tensor | None = None) -> Tensor:
        """Clean latents with noise of a level (eq. 12, by the schedule's own rule): of the first step, or of
        the one at hand."""
        add = self.scheduler.scale_noise if self.name in FLOW else self.scheduler.add_noise
        level = self.timesteps[:1] if timestep is None else timestep.reshape(1)
        noisy: Tensor = add(clean, level, noise) if self.name in FLOW else add(clean, noise, level)
        return noisy

    def scaled(self, latents: Tensor, timestep: Tensor) -> Tensor:
        """The latents as the network takes them."""
        if self.name in FLOW:
            return latents
        scaled: Tensor = self.scheduler.scale_model_input(latents, timestep)
        return scaled

    def step(
        self, prediction: Tensor, timestep: Tensor, latents: Tensor, noise: torch.Generator | None = None
    ) -> Tensor:
        """The latents of the next level; `noise` feeds schedulers that draw."""
        options = self._options | ({"generator": noise} if self._draws and noise is not None else {})
        stepped: Tensor = self.scheduler.step(prediction, timestep, latents, **options)[0]
        return stepped

    def clean(self, prediction: Tensor, timestep: Tensor, latents: Tensor) -> Tensor:
        """x0 as a prediction at one of the timesteps has it (DDIM, Song et al. 2021, eq. 9, and its kin).

        Nothing is stepped, so it may be asked any number of times, with gradient.
        """
        if self.name in FLOW:
            return latents - self._sigma(timestep) * prediction
        if self.name in EDM:
            outputs: Tensor = self.scheduler.precondition_outputs(latents, prediction, self._sigma(timestep))
            return outputs
        signal, spread, unscaled = self._levels(timestep, latents)
        kind = self.scheduler.config.get("prediction_type", "epsilon")
        if kind == "sample":
            return prediction
        if kind == "v_prediction":
            return signal * unscaled - spread * prediction
        return (unscaled - spread * prediction) / signal

    def _levels(self, timestep: Tensor, latents: Tensor) -> tuple[float, float, Tensor]:
        """(signal, spread, latents) with latents = signal * x0 + spread * noise of unit variance."""
        if self.name in SIGMA:
            sigma = self._sigma(timestep)
            scale = (sigma**2 + 1) ** 0.5
            return 1 / scale, sigma / scale, latents / scale
        level = float(self.scheduler.alphas_cumprod[int(timestep)])
        return level**0.5, (1 - level) ** 0.5, latents

    def _sigma(self, timestep: Tensor) -> float:
        index = (self.scheduler.timesteps == timestep.to(self.scheduler.timesteps.device)).nonzero()[0]
        return float(self.scheduler.sigmas[int(index)])


def check_strength(strength: float) -> None:
    """UserError unless a schedule can be entered there."""
    if not 0 < strength <= 1:  # also false for NaN
        raise UserError(f"strength must be above 0 and at most 1, not {strength}")


def remaining_steps(steps: int, strength: float) -> int:
    """How many of a schedule's levels remain when it is entered at `strength`: at least one, at 1 all."""
    return max(1, min(round(steps * strength), steps))

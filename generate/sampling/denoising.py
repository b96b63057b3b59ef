"""The loop over a schedule: one prediction of the whole canvas, one scheduler step."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Predict = Callable[[Tensor, Tensor, int], Tensor]
"""(scaled latents [1, C, H, W], timestep, step index) -> the canvas's prediction, float32 [1, C, H, W]."""
OnStep = Callable[[int, int, Tensor, Tensor], None]
"""(step index, number of steps, timestep, latents after the step)"""


def denoise(
    predict: Predict,
    latents: Tensor,
    scheduler: Any,
    *,
    begin: int = 0,
    keep: Tensor | None = None,
    generator: torch.Generator | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """Latents after all of the scheduler's steps from number `begin` on: [1, C, H, W] float32.

    `latents` are at the noise level of step `begin`. One scheduler step per prediction of the whole canvas
    (eqs 3 and 4; see `schedulers.require_linear` for when that equals stepping each window). `keep` [H, W]
    is zero where no window reaches; the canvas is zero there after each step. `generator` feeds schedulers
    that draw noise.
    """
    timesteps = scheduler.timesteps[begin:]
    if begin and hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(begin)
    extra = _step_arguments(scheduler, generator)
    for index, timestep in enumerate(timesteps):
        prediction = predict(scheduler.scale_model_input(latents, timestep), timestep, index)
        latents = scheduler.step(prediction, timestep, latents, return_dict=False, **extra)[0]
        if keep is not None:
            latents = latents * keep
        if on_step is not None:
            on_step(index, len(timesteps), timestep, latents)
    return latents


def _step_arguments(scheduler: Any, generator: torch.Generator | None) -> dict[str, Any]:
    takes = "generator" in inspect.signature(scheduler.step).parameters
    return {"generator": generator} if takes and generator is not None else {}

"""The loop over a schedule; what one step does is the method's affair."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from generate.models.schedule import Schedule
from generate.request import Callback, Step


@dataclass(frozen=True, slots=True)
class Moment:
    """Where in the schedule a step is."""

    index: int
    """counted from where the schedule was entered"""
    count: int
    timestep: Tensor


Advance = Callable[[Tensor, Moment], Tensor]
"""(latents [1, C, H, W] at a moment's level, moment) -> latents one level down."""
OnStep = Callable[[Moment, Tensor], None]
"""(moment, latents after its step)"""


def denoise(
    advance: Advance, latents: Tensor, schedule: Schedule, *, on_step: OnStep | None = None
) -> Tensor:
    """Latents after all of the schedule's steps: [1, C, H, W] float32.

    `latents` are at the level of the first step. Runs without gradient; a method that needs one inside a step
    turns it on there.
    """
    with torch.no_grad():
        for index, timestep in enumerate(schedule.timesteps):
            moment = Moment(index, len(schedule), timestep)
            latents = advance(latents, moment)
            if on_step is not None:
                on_step(moment, latents)
    return latents


def reporter(callback: Callback | None, request_index: int, stage: str) -> OnStep | None:
    """A request's callback in the form that `denoise` calls."""
    if callback is None:
        return None

    def on_step(moment: Moment, latents: Tensor) -> None:
        callback(
            Step(
                request_index=request_index,
                stage=stage,
                index=moment.index,
                count=moment.count,
                timestep=float(moment.timestep),
                latents=latents,
            )
        )

    return on_step

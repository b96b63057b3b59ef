"""What the gradient of one window keeps in memory, counted on the meta device without computing it."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from generate.canvas.plan import Canvas
from generate.models.denoisers.denoiser import Condition
from generate.models.family import ModelFamily
from generate.models.footprint import activation_bytes, hollow
from generate.models.schedule import Schedule
from generate.sampling.loop import Moment
from generate.sampling.predict import Prediction
from generate.sampling.synchronise import Pull, Sight, recomputing


def gradient_bytes(
    family: ModelFamily,
    schedule: Schedule,
    distance: Any,
    canvas: Canvas,
    condition: Condition,
    *,
    recompute: bool = False,
) -> int:
    """The most bytes alive at once in the gradient of a canvas's single window, weights not counted.

    `condition` is what the network is told about the window, one sample for each guidance half; `recompute`
    counts with gradient checkpointing. Attention counts as the fused kernels compute it.
    """
    bare = replace(
        family,
        unet=None if family.unet is None else hollow(family.unet),
        transformer=None if family.transformer is None else hollow(family.transformer),
        vae=hollow(family.vae),
        controlnet=None,
    )
    told, halves = _emptied(condition), condition.text.shape[0]

    def predict(windows: Tensor, moment: Moment, _canvas: Canvas) -> Prediction:
        samples = torch.cat([windows.to(family.dtype)] * halves)
        *unconditional, conditional = bare.denoiser(samples, moment.timestep, told).chunk(halves)
        return Prediction(unconditional[0] if unconditional else None, conditional)

    sight = Sight(predict, schedule, bare.vae, guidance_scale=5.0)
    window = canvas.windows[0]
    shape = (1, family.denoiser.channels, window.height, window.width)
    pixels = (1, 3, window.height * canvas.factor, window.width * canvas.factor)
    start, anchor = (torch.empty(size, device="meta") for size in (shape, pixels))
    moment, pull = Moment(0, len(schedule), schedule.timesteps[0]), Pull(hollow(distance))
    with recomputing([bare.network, bare.vae], recompute):
        return activation_bytes(lambda: pull(start, moment, canvas, sight, anchor))


def _emptied(condition: Condition) -> Condition:
    """The same shapes on the meta device."""
    told = {each.name: getattr(condition, each.name) for each in fields(condition)}
    for name, value in told.items():
        if isinstance(value, Tensor):
            told[name] = value.to("meta")
    told["images"] = tuple(image.to("meta") for image in condition.images)
    return Condition(**told)

"""Windows pulled towards one of them by how they would look: SyncDiffusion (Lee et al., NeurIPS 2023)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from generate.canvas.plan import Canvas
from generate.images.perceptual import Perceptual
from generate.images.vae import decode_windows
from generate.models.schedule import Schedule
from generate.sampling.fusion import Predict
from generate.sampling.guide import guide
from generate.sampling.loop import Moment


@dataclass(frozen=True)
class Sight:
    """The way of one sampling from windows to what they foresee."""

    predict: Predict
    schedule: Schedule
    vae: Any
    guidance_scale: float
    guidance_rescale: float = 0.0

    def guided(self, windows: Tensor, moment: Moment, canvas: Canvas) -> Tensor:
        """The guided predictions of a canvas's windows [n, C, h, w]."""
        prediction = self.predict(self.schedule.scaled(windows, moment.timestep), moment, canvas)
        return guide(prediction, self.guidance_scale, self.guidance_rescale)

    def picture(self, guided: Tensor, windows: Tensor, moment: Moment) -> Tensor:
        """The pictures [n, 3, H, W] in -1..1 that the windows would become if denoising ended now."""
        clean = self.schedule.clean(guided, moment.timestep, windows)
        return decode_windows(self.vae, clean).clamp(-1, 1)


class Preview:
    """The foreseen pictures of windows. An object, so that a rehearsal can count its calls."""

    def __call__(self, windows: Tensor, moment: Moment, canvas: Canvas, sight: Sight) -> Tensor:
        """As `Sight.picture`, by a prediction of its own."""
        return self.forward(windows, moment, canvas, sight)

    def forward(self, windows: Tensor, moment: Moment, canvas: Canvas, sight: Sight) -> Tensor:
        """What a call gives."""
        return sight.picture(sight.guided(windows, moment, canvas), windows, moment)


class Pull:
    """The gradient of windows' perceptual distance to an anchor's picture, by the windows themselves (eq. 5).

    It goes through both guidance halves, through x0 and through the autoencoder. In a half-precision network
    it would drown below the smallest number: what enters the network backwards is brought near 1 by a power
    of two, which is exact, and what comes out is brought back.
    """

    def __init__(self, distance: Perceptual) -> None:
        self.distance = distance

    def __call__(
        self, windows: Tensor, moment: Moment, canvas: Canvas, sight: Sight, anchor: Tensor
    ) -> Tensor:
        """The gradient [n, C, h, w]; `anchor` is the picture [1, 3, H, W] in -1..1."""
        return self.forward(windows, moment, canvas, sight, anchor)

    @torch.enable_grad()
    def forward(
        self, windows: Tensor, moment: Moment, canvas: Canvas, sight: Sight, anchor: Tensor
    ) -> Tensor:
        """What a call gives."""
        noisy = windows.detach().requires_grad_()
        guided = sight.guided(noisy, moment, canvas)
        told, direct = guided.detach().requires_grad_(), windows.detach().requires_grad_()
        distance = self.distance(sight.picture(told, direct, moment), anchor).sum()
        by_prediction, by_latents = torch.autograd.grad(distance, (told, direct), materialize_grads=True)
        scale = _power_of_two(by_prediction)
        (through,) = torch.autograd.grad(guided, noisy, by_prediction / scale)
        return by_latents + scale * through


def _power_of_two(gradient: Tensor) -> Tensor:
    """The power of two next above a gradient's largest value; 1 where all of it is zero."""
    largest = gradient.abs().amax()
    return torch.where(largest > 0, largest.clamp(min=1e-30).log2().ceil().exp2(), 1.0)


@lru_cache(maxsize=128)
def alone(canvas: Canvas, index: int) -> Canvas:
    """The canvas with one of its windows only."""
    return replace(canvas, windows=canvas.windows[index : index + 1])


@contextmanager
def recomputing(networks: Sequence[Any], on: bool) -> Iterator[None]:
    """Gradient checkpointing inside the block, where it is wanted: less memory, one more forward."""
    changed = [network for network in networks if on and not network.is_gradient_checkpointing]
    for network in changed:
        network.enable_gradient_checkpointing()
    try:
        yield
    finally:
        for network in changed:
            network.disable_gradient_checkpointing()

"""The stage's scroll: its size, its windows and their weights."""

from dataclasses import dataclass
from typing import Any

import torch

from drspo.errors import UserError
from generate.canvas.blend import window_weights
from generate.canvas.windows import Window, plan_windows
from generate.request import own
from train.config import TrainConfig


@dataclass(frozen=True)
class TrainingCanvas:
    """What the pairs of one size are trained on; pixels outside, latents inside."""

    height: int
    """Pixels."""
    width: int
    """Pixels."""
    windows: tuple[Window, ...]
    """In latents; one that covers everything in stage blueprint."""
    weights: torch.Tensor
    """W_i [h, w] of eq. 4."""
    factor: int = 8
    """Pixels along a side of one latent, the autoencoder's."""


def make_canvas(config: TrainConfig, spec: Any, size: tuple[int, int] | None = None) -> TrainingCanvas:
    """The canvas of the configured stage; what the configuration leaves at -1 comes from the model's `spec`.

    Stage blueprint is the paper's stage LR: the whole small scroll is one window. `size`, height and width in
    pixels, stands in place of the configured one, with the same windows. Raises `UserError` for windows that
    do not fit.
    """
    default = spec.blueprint if config.stage == "blueprint" else spec.scroll
    configured = own(config.canvas.height, default[0]), own(config.canvas.width, default[1])
    height, width = size or configured
    window, stride = own(config.canvas.window, spec.window), own(config.canvas.stride, spec.stride)
    factor = spec.factor
    _require_whole_latents({"height": height, "width": width, "window": window, "stride": stride}, factor)
    h, w = height // factor, width // factor
    if config.stage == "blueprint":
        windows: tuple[Window, ...] = (Window(0, h, 0, w),)
    else:
        windows = plan_windows(h, w, window // factor, stride // factor)
    _require_within_limits(config, spec, windows[0], (height, width), stride)
    weights = window_weights(config.canvas.weights, *windows[0].shape)
    return TrainingCanvas(height, width, windows, weights, factor)


def _require_within_limits(
    config: TrainConfig, spec: Any, window: Window, canvas: tuple[int, int], stride: int
) -> None:
    """UserError for a window that the network cannot see, or a place that it has no name for."""
    limits = spec.limits
    limits.require(window.height * spec.factor, window.width * spec.factor, beyond=True)
    if config.canvas.time_ids == "window" or config.stage == "blueprint":
        return
    if stride % limits.multiple:
        raise UserError(
            f"windows {stride} pixels apart do not begin at one of this model's tokens",
            "--canvas.stride",
            f"choose a multiple of {limits.multiple}, or --canvas.time-ids window",
        )
    if limits.longest and max(canvas) > limits.longest:
        raise UserError(
            f"the network has positions for {limits.longest} pixels a side, not for {max(canvas)}",
            "--canvas.time-ids",
            "give every window its own positions: window",
        )


def _require_whole_latents(sizes: dict[str, int], factor: int) -> None:
    for name, pixels in sizes.items():
        if pixels % factor:
            below = max(pixels // factor, 1) * factor
            raise UserError(
                f"a {name} of {pixels} pixels is no multiple of {factor}, this model's pixels per latent",
                f"--canvas.{name}",
                f"the nearest are {below} and {below + factor}",
            )

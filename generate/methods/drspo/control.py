"""Line art into the windows: each window's crop through the ControlNet, beside the UNet (eq. 11)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from drspo.errors import UserError
from generate.images.lineart import LineArt
from generate.request import OWN
from generate.sampling.fusion import Evaluation


@dataclass(frozen=True, kw_only=True)
class Control:
    """How the line art guides the windows."""

    enabled: bool = True
    """off: the paper's "w/o control", the blueprint only starts the scroll"""
    scale: float = OWN
    """of the ControlNet's residuals; -1: the model's own"""
    start: float = 0.0
    """share of the high-resolution steps after which control begins"""
    end: float = 1.0
    """share of the high-resolution steps after which it ends"""
    lines: LineArt = field(default_factory=LineArt)
    """how line art is drawn"""


class LineControl:
    """Residuals of the ControlNet for the windows at hand, each with its own crop of the line art."""

    def __init__(self, network: Any, crops: Tensor, settings: Control, scale: float, steps: int) -> None:
        self.network = network
        self.crops = crops.to(network.device, network.dtype)
        self.scale = scale
        self.active = active_steps(settings, steps)
        self.evaluations = 0

    def __call__(self, evaluation: Evaluation) -> dict[str, Any]:
        """Arguments of the UNet's forward for one evaluation; none where control rests."""
        if evaluation.index not in self.active:
            return {}
        groups = evaluation.samples.shape[0] // len(evaluation.windows)
        chosen = torch.as_tensor(list(evaluation.windows), device=self.crops.device)
        down, middle = self.network(
            evaluation.samples, evaluation.timestep, encoder_hidden_states=evaluation.prompt,
            controlnet_cond=self.crops[chosen].repeat(groups, 1, 1, 1), conditioning_scale=self.scale,
            added_cond_kwargs=evaluation.added, return_dict=False,
        )  # fmt: skip
        self.evaluations += evaluation.samples.shape[0]
        return {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}


def active_steps(settings: Control, steps: int) -> range:
    """The high-resolution steps at which control acts: step i lies in (i/n, (i+1)/n), as diffusers counts
    them."""
    if settings.scale < 0 and settings.scale != OWN:
        raise UserError(f"control.scale is not negative: {settings.scale}")
    if not 0 <= settings.start < settings.end <= 1:
        raise UserError(
            f"control must satisfy 0 <= start < end <= 1, not {settings.start} and {settings.end}"
        )
    inside = [
        i for i in range(steps) if i / steps >= settings.start and (i + 1) / steps <= settings.end + 1e-9
    ]
    return range(inside[0], inside[-1] + 1) if inside else range(0)

"""Line art into the windows: each window's crop through the ControlNet, beside the UNet (eq. 11)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from PIL import Image

from drspo.errors import UserError
from drspo.ranges import OwnScale, Share
from generate.canvas.plan import Canvas
from generate.images.lineart import LineArt, control_crops
from generate.models.denoisers.denoiser import Picture
from generate.models.family import ModelFamily
from generate.request import OWN


@dataclass(frozen=True, kw_only=True)
class Control:
    """How the line art guides the windows."""

    enabled: bool = True
    """off: the paper's "w/o control", the blueprint only starts the scroll"""
    scale: OwnScale = OWN
    """of the ControlNet's residuals; -1: the model's own"""
    start: Share = 0.0
    """share of the high-resolution steps after which control begins"""
    end: Share = 1.0
    """share of the high-resolution steps after which it ends"""
    lines: LineArt = field(default_factory=LineArt)
    """how line art is drawn"""


class LineControl:
    """What the ControlNet is shown of every window at active steps: its own crop of the line art."""

    def __init__(
        self, family: ModelFamily, lines: Image.Image, settings: Control, scale: float, steps: int
    ) -> None:
        self.lines, self.scale = lines, scale
        self.device, self.dtype = family.device, family.dtype
        self.active = active_steps(settings, steps)
        self._shown: tuple[Canvas | None, Picture | None] = (None, None)

    def __call__(self, canvas: Canvas, index: int) -> Picture | None:
        """The windows' crops at one step; None where control rests."""
        if index not in self.active:
            return None
        if self._shown[0] is not canvas:  # cropped again only where windows move
            crops = control_crops(self.lines, canvas).to(self.device, self.dtype)
            self._shown = canvas, Picture(crops, self.scale)
        return self._shown[1]


def active_steps(settings: Control, steps: int) -> range:
    """The high-resolution steps at which control acts: step i lies in (i/n, (i+1)/n), as diffusers counts
    them."""
    if not 0 <= settings.scale < math.inf and settings.scale != OWN:  # the first also refuses NaN
        raise UserError(f"control.scale is a number from 0 on, not {settings.scale}")
    if not 0 <= settings.start < settings.end <= 1:
        raise UserError(
            f"control must satisfy 0 <= start < end <= 1, not {settings.start} and {settings.end}"
        )
    inside = [
        i for i in range(steps) if i / steps >= settings.start and (i + 1) / steps <= settings.end + 1e-9
    ]
    return range(inside[0], inside[-1] + 1) if inside else range(0)

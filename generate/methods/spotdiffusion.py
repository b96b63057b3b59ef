"""SpotDiffusion: windows side by side that move at every step (Frolov et al., WACV 2025, 2407.15507)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import accumulate
from typing import Any, ClassVar

import torch

from drspo.errors import UserError
from generate.canvas.blend import window_weights
from generate.canvas.plan import Canvas, latent_size
from generate.canvas.windows import Window, plan_windows
from generate.methods import multidiffusion
from generate.methods.multidiffusion import MultiDiffusion
from generate.methods.one_stage import Run, Sampled
from generate.models.specs import ModelSpec
from generate.request import Request, own


@dataclass(frozen=True, kw_only=True)
class Config(multidiffusion.Config):
    """Settings of SpotDiffusion."""

    rotate: bool = False
    """leave the scroll turned by the sum of all shifts, as the authors' program does"""


class SpotDiffusion(MultiDiffusion):
    """The cheapest of the windowed methods: no window overlaps another, a seam never lies at one place twice.

    The windows tile a scroll that is a ring. Before every step but the first they move along it by a random
    way, which is where the authors roll the canvas instead (their section 3.2); so the sampler's history
    stays where it belongs. The shifts are those that the authors' program draws from the same seed.
    """

    name = "spotdiffusion"
    config_class = Config
    settled: ClassVar[dict[str, str]] = {
        "image_prompt": "its windows move, and each picture belongs to a place",
        "stride": "its windows lie side by side",
        "wrap": "its scroll always closes to a ring",
        "edge": "its scroll has no edge",
        "weights": "its windows do not overlap",
    }

    @classmethod
    def check_settings(cls, config: Any, request: Request, spec: ModelSpec | None) -> None:
        """UserError for what is wrong whatever the weights are."""
        super().check_settings(config, request, spec)
        if spec is None:
            return
        side = own(config.window, spec.window)
        if request.height != side:
            raise UserError(
                f"spotdiffusion moves its windows sideways only: at a height of {request.height} pixels "
                f"seams would stay between rows of windows of {side}.",
                hint=f"Choose height {side}, or a method whose windows overlap.",
            )
        if request.width % side:
            below = max(request.width // side, 1) * side
            raise UserError(
                f"Windows of {side} pixels do not lie side by side on a width of {request.width}.",
                hint=f"The nearest widths are {below} and {below + side}.",
            )

    @property
    def wrap(self) -> bool:
        """Its two ends always join."""
        return True

    def resolved(self, request: Request) -> Any:
        """The settings in force."""
        return replace(super().resolved(request), stride=own(self.config.window, self.family.spec.window))

    def canvas(self, request: Request) -> Canvas:
        """The canvas at the first step."""
        factor = self.family.factor
        height, width = latent_size(request.height, request.width, factor)
        side = own(self.config.window, self.family.spec.window) // factor
        windows = plan_windows(height, width, side, side, wrap=True)
        return Canvas(height, width, windows, window_weights("uniform", side, side), factor)

    def canvas_at(self, run: Run, index: int) -> Canvas:
        """The windows, moved by all shifts so far."""
        return moved(run.canvas, self._turns(run.request, run.canvas, len(run.schedule))[index])

    def sample(self, request: Request, **given: Any) -> Sampled:
        """Final latents of one request, turned back unless told otherwise."""
        sampled = super().sample(request, **given)
        if self.config.rotate:
            canvas, steps = self.canvas(request), len(given.get("schedule") or self.schedule(request))
            turn = self._turns(request, canvas, steps)[-1]
            sampled.latents = sampled.latents.roll(-turn, -1)
            sampled.facts["rotated_pixels"] = turn * canvas.factor
        return sampled

    def _turns(self, request: Request, canvas: Canvas, steps: int) -> tuple[int, ...]:
        channels = self.family.denoiser.channels
        return turns(request.seed, (1, channels, canvas.height, canvas.width), steps)


@lru_cache(maxsize=16)
def turns(seed: int, shape: tuple[int, int, int, int], steps: int) -> tuple[int, ...]:
    """How far the windows have moved before each step, and after the last, in latents modulo the width.

    The generator is the first noise's, drawn on from where that ended.
    """
    generator = torch.Generator().manual_seed(seed)
    torch.randn(shape, generator=generator)
    shifts = (int(torch.randint(0, shape[-1], (1,), generator=generator)) for _ in range(steps))
    return tuple(turn % shape[-1] for turn in accumulate(shifts, initial=0))


@lru_cache(maxsize=64)
def moved(canvas: Canvas, by: int) -> Canvas:
    """The canvas with its windows `by` latents further along the ring."""
    shifted = (Window(w.y0, w.y1, w.x0 + by, w.x1 + by) for w in canvas.windows)
    return replace(canvas, windows=tuple(shifted))

"""Guided and variance-corrected fusion, one-shot style alignment (Sun et al., AAAI 2025, 2412.12771)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from drspo.errors import UserError
from drspo.ranges import Share
from generate.canvas.noise import initial_noise
from generate.canvas.plan import Canvas
from generate.canvas.windows import crop_index
from generate.methods import multidiffusion
from generate.methods.multidiffusion import MultiDiffusion
from generate.methods.one_stage import Run, Sampled
from generate.models.schedule import Schedule
from generate.models.schedulers import OWN_SCHEDULER, make_schedule
from generate.request import Request
from generate.sampling.combine import combine, cut
from generate.sampling.loop import Moment
from generate.sampling.steppers import Stepper

FLOOR = 1e-6
"""Weight of a window's first pixel, where the authors' map is 0 and the scroll's corner stays empty."""


@dataclass(frozen=True, kw_only=True)
class Config(multidiffusion.Config):
    """Settings of guided and variance-corrected fusion."""

    fusion: Literal["gvcf", "gf", "vcf"] = "gvcf"
    """gf: windows weigh less towards their corners; vcf: DDPM noise keeps its variance; gvcf: both"""
    style: Share = 0.0
    """alpha of style alignment: how far the first noise of all windows is one noise; 0: not at all"""


class GVCF(MultiDiffusion):
    """MultiDiffusion whose average looks at the windows' centres and does not average noise away.

    A stochastic sampler adds noise to every window; the plain mean of n windows has a 1/n of its variance.
    Here the means are averaged and the noise is divided by the root of the summed squares of its weights, so
    that DDPM, which draws most from many steps, can be used at all (their eqs 8 to 12).
    """

    name = "gvcf"
    config_class = Config
    settled: ClassVar[dict[str, str]] = {"weights": "its guidance map weighs the windows"}

    @classmethod
    def check_scheduler(cls, config: Any) -> None:
        """UserError for a scheduler whose noise is not corrected here."""
        if config.fusion == "gf":
            super().check_scheduler(config)
        elif config.scheduler not in (OWN_SCHEDULER, "ddpm"):
            raise UserError(
                f"fusion {config.fusion} corrects the noise of DDPM, not of {config.scheduler}.",
                hint="Leave the scheduler out, or choose --gvcf.fusion gf.",
            )

    def resolved(self, request: Request) -> Any:
        """The settings in force."""
        settled = super().resolved(request)
        return settled if self.config.fusion == "gf" else replace(settled, scheduler="ddpm")

    def schedule(self, request: Request) -> Schedule:
        """A linear schedule for gf, DDPM's for the others."""
        if self.config.fusion == "gf":
            return super().schedule(request)
        return make_schedule(self.family, "ddpm", request.steps)

    def canvas(self, request: Request) -> Canvas:
        """The canvas, whose windows weigh by the guidance map."""
        canvas = super().canvas(request)
        return canvas if self.config.fusion == "vcf" else replace(canvas, weights=guidance_map(canvas))

    def stepper(self, run: Run) -> Stepper:
        """Means and noise apart, where noise is drawn."""
        if self.config.fusion == "gf":
            return super().stepper(run)
        return CorrectedStepper(run.schedule, self._step_noise(run.request, run.canvas))

    def sample(self, request: Request, *, latents: Tensor | None = None, **given: Any) -> Sampled:
        """Final latents of one request, from noise whose windows are as alike as `style` says."""
        if latents is None and self.config.style > 0:
            canvas, channels = self.canvas(request), self.family.denoiser.channels
            noise = initial_noise(request.seed, (1, channels, canvas.height, canvas.width))
            tile = torch.randn(self._tile(canvas), generator=self._after_canvas(request, canvas))
            schedule = given.get("schedule") or self.schedule(request)
            latents = schedule.first(aligned(noise, tile, self.config.style).to(self.family.device))
        return super().sample(request, latents=latents, **given)

    def _step_noise(self, request: Request, canvas: Canvas) -> torch.Generator:
        """The generator of the steps' noise: the first noise's and the style's, drawn on."""
        generator = self._after_canvas(request, canvas)
        if self.config.style > 0:
            torch.randn(self._tile(canvas), generator=generator)
        return generator

    def _after_canvas(self, request: Request, canvas: Canvas) -> torch.Generator:
        generator = torch.Generator().manual_seed(request.seed)
        torch.randn(self.family.denoiser.channels, canvas.height, canvas.width, generator=generator)
        return generator

    def _tile(self, canvas: Canvas) -> tuple[int, int, int]:
        window = canvas.windows[0]
        return self.family.denoiser.channels, window.height, window.width


class CorrectedStepper:
    """One DDPM step (Ho et al. 2020, eqs 6 and 7): means averaged, the windows' noise at full strength."""

    def __init__(self, schedule: Schedule, noise: torch.Generator) -> None:
        self.schedule, self.noise = schedule, noise
        levels = schedule.scheduler.alphas_cumprod.double()
        self.levels = [float(levels[int(t)]) for t in schedule.timesteps] + [1.0]

    def __call__(self, canvas: Canvas, predictions: Tensor, latents: Tensor, moment: Moment) -> Tensor:
        """The canvas one level down."""
        windows = cut(canvas, latents)
        clean = self.schedule.clean(predictions, moment.timestep, windows)
        mean, sigma = posterior(clean, windows, self.levels[moment.index], self.levels[moment.index + 1])
        fused = combine(canvas, mean)
        if moment.index + 1 == moment.count:
            return fused
        shape = windows.shape[1:]
        drawn = torch.stack([torch.randn(shape, generator=self.noise) for _ in canvas.windows])
        return fused + sigma * correction(canvas).to(fused.device) * combine(canvas, drawn.to(fused.device))


def posterior(clean: Tensor, noisy: Tensor, level: float, next_level: float) -> tuple[Tensor, float]:
    """Mean and standard deviation of x_{t-1} given x_t and x_0, between levels abar_t and abar_{t-1}."""
    alpha = level / next_level
    mean = next_level**0.5 * (1 - alpha) * clean + alpha**0.5 * (1 - next_level) * noisy
    return mean / (1 - level), ((1 - next_level) / (1 - level) * (1 - alpha)) ** 0.5


def guidance_map(canvas: Canvas) -> Tensor:
    """G = 1 - d / d_max, d the distance to the window's centre and d_max that of its first pixel [h, w]."""
    height, width = canvas.weights.shape
    rows = torch.arange(height).double()[:, None] - height // 2
    columns = torch.arange(width).double()[None, :] - width // 2
    distance = (rows.square() + columns.square()).sqrt()
    return (1 - distance / distance[0, 0]).clamp(min=FLOOR).float()


@lru_cache(maxsize=8)
def correction(canvas: Canvas) -> Tensor:
    """sum G / sqrt(sum G^2) of the windows over each latent [H, W]: what averaging takes from noise."""
    index = torch.from_numpy(crop_index(canvas.windows, canvas.height, canvas.width).reshape(-1).copy())
    weights = canvas.weights.double().expand(len(canvas.windows), -1, -1).reshape(-1)
    total, squares = (torch.zeros(canvas.height * canvas.width, dtype=torch.float64) for _ in range(2))
    total.index_add_(0, index, weights)
    squares.index_add_(0, index, weights.square())
    found = total / squares.sqrt().clamp(min=1e-30)
    return found.view(canvas.height, canvas.width).float()


def aligned(noise: Tensor, tile: Tensor, alpha: float) -> Tensor:
    """The canvas's noise [1, C, H, W], turned by alpha towards a window's [C, h, w] that repeats all over it.

    Spherical interpolation by the one angle between the two as vectors (Shoemake 1985); what repeats is cut
    off at the scroll's ends.
    """
    height, width = noise.shape[-2:]
    times = (1, -(-height // tile.shape[-2]), -(-width // tile.shape[-1]))
    wanted = tile.repeat(times)[None, :, :height, :width]
    cosine = torch.nn.functional.cosine_similarity(noise.flatten(), wanted.flatten(), dim=0)
    angle = torch.arccos(cosine)
    return (torch.sin((1 - alpha) * angle) * noise + torch.sin(alpha * angle) * wanted) / torch.sin(angle)

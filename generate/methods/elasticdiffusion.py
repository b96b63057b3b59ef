"""ElasticDiffusion: layout from small references, detail from windows (Haji-Ali et al., CVPR 2024)."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Annotated, Any

import torch
from torch import Tensor

from drspo.errors import UserError
from drspo.hashing import seed_from
from drspo.ranges import Natural, NonNegative, Range, Share
from generate.canvas.blend import crop
from generate.canvas.plan import Canvas, latent_size, whole_canvas
from generate.canvas.reference import Core, Reference, cores, draw_places
from generate.canvas.windows import Window
from generate.config import PromptSettings
from generate.images.vae import encode_images
from generate.methods.one_stage import OneStage, Run
from generate.models.prompts import PromptEmbeddings
from generate.models.schedule import Schedule
from generate.models.schedulers import make_schedule
from generate.models.specs import ModelSpec
from generate.request import Request
from generate.sampling.conditions import Conditions, Control, Half, Rows
from generate.sampling.loop import Advance, Moment
from generate.sampling.predict import Prediction, Predictor

logger = logging.getLogger(__name__)
RATED = 2
"""Times the training size up to which its authors claim anything."""
LEAST_WEIGHT = 10.0
"""Of the pull towards the reference, below which it is left out: as the authors have it."""
REPAINT_SHARE = 1 / 3
"""Of the guidance scale, in the second look at a step."""
TOWARDS: tuple[Half, Half] = ("unconditional", "conditional")


@dataclass(frozen=True, kw_only=True)
class Config(PromptSettings):
    """Settings of ElasticDiffusion; as its authors choose them for twice the training size."""

    resampling: Annotated[int, Range(0, 100)] = 7
    """references beside the first one of a step, which look at other latents of each cell"""
    new_share: Share = 0.3
    """probability that a further reference looks at a latent of a cell that none looked at before"""
    repaint: bool = True
    """look at each step a second time, with a third of the guidance; not at the last, nor without
    resampling"""
    reference_weight: NonNegative = 1000.0
    """how strongly a step is pulled towards its reference at the beginning; 0: not at all"""
    reference_decay: NonNegative = 10.0
    """how fast that falls: the power of a cosine"""
    reference_stop: Share = 0.2
    """share of the last steps without it"""
    window_batch: Natural = 0
    """windows per forward; 0: as many as half of the free memory holds"""


class Draws:
    """All that is drawn in a sampling, from the request's seed alone, so that it replays exactly."""

    def __init__(self, seed: int) -> None:
        self.seed, self.generator = seed, torch.Generator().manual_seed(seed_from("elastic", seed))

    def places(self, cells: int, count: int, new_share: float) -> Tensor:
        """Which latent of each cell the references of a step look at: [count, cells]."""
        return draw_places(cells, count, new_share, self.generator)

    def noise(self, shape: torch.Size) -> Tensor:
        """Standard normal noise for going one level up."""
        return torch.randn(shape, generator=self.generator)

    def backdrop(self, side: int, timestep: int, shape: torch.Size) -> tuple[Tensor, Tensor]:
        """A colour [3] in -1..1 and noise, the same for every reference of a timestep."""
        own = torch.Generator().manual_seed(seed_from("backdrop", self.seed, side, timestep))
        return torch.rand(3, generator=own) * 2 - 1, torch.randn(shape, generator=own)


@dataclass(frozen=True)
class Look:
    """One look at a canvas: its clean latents as predicted, one level down, and the pull to the reference."""

    clean: Tensor
    below: Tensor
    reference_clean: Tensor


class ElasticDiffusion(OneStage):
    """Scrolls whose guidance is seen in a reference of the training size, and whose detail in windows.

    The difference between the predictions with and without the prompt is taken from small references of the
    whole canvas, so the prompt is drawn once and not in every window; the prediction without the prompt comes
    from windows with context. Its authors claim twice the training size: a scroll of 1024 x 4096 lies beyond.
    """

    name = "elasticdiffusion"
    config_class = Config

    @classmethod
    def check_settings(cls, config: Config, request: Request, spec: ModelSpec | None) -> None:
        """UserError for what is wrong whatever the weights are."""
        if request.guidance_rescale:
            raise UserError(
                "elasticdiffusion guides by a reference, and rescales nothing", "--guidance-rescale"
            )
        if spec is None:
            return
        latent_size(request.height, request.width, spec.factor)
        if (
            min(request.height, request.width) < spec.window // 2
            or max(request.height, request.width) < spec.window
        ):
            raise UserError(
                f"elasticdiffusion enlarges: {request.height}x{request.width} is smaller than what the model "
                f"was trained on, squares of {spec.window}",
                hint=f"The longer side is at least {spec.window}, the shorter at least {spec.window // 2}.",
            )

    @classmethod
    def with_window_batch(cls, config: Config, count: int) -> Config:
        """The settings with so many windows per forward."""
        return replace(config, window_batch=count)

    @property
    def window_batch(self) -> int:
        """Windows per forward; 0: by free memory."""
        return int(self.config.window_batch)

    def check(self, requests: list[Request]) -> None:
        """UserError for anything wrong with the requests, before heavy work."""
        if self.family.unet is None or self.family.denoiser.embeds_guidance:
            raise UserError(
                f"elasticdiffusion asks a UNet with and without the prompt: {self.family.model_id} has none",
                hint="Choose another method, such as multidiffusion or drspo.",
            )
        super().check(requests)
        spec = self.family.spec
        times = max(max(request.height, request.width) / spec.window for request in requests)
        if times > RATED:
            logger.warning(
                "elasticdiffusion's authors claim sides up to twice the training size of %d, and %.3g times "
                "are asked for",
                spec.window,
                times,
            )

    def canvas(self, request: Request) -> Canvas:
        """The canvas as a whole; its windows are the sampling's own affair."""
        return whole_canvas(request.height, request.width, self.family.factor)

    def schedule(self, request: Request) -> Schedule:
        """DDIM, whose steps can be looked at twice."""
        return make_schedule(self.family, "ddim", request.steps)

    def conditions(
        self,
        embeddings: PromptEmbeddings,
        images: Any = (),
        control: Control | None = None,
        rows: Rows | None = None,
    ) -> Conditions:
        """Windows and references are told of a picture of four times the scroll's sides, as published."""

        def sizes(canvas: Canvas) -> Tensor:
            height, width = (4 * side * canvas.factor for side in (canvas.height, canvas.width))
            row = torch.tensor([height, width, 0, 0, height, width], dtype=torch.float32)
            return row.repeat(len(canvas.windows), 1)

        told = sizes if self.family.denoiser.tells_sizes else None
        return Conditions(embeddings, images=images, sizes=told)

    def draws(self, request: Request) -> Draws:
        """What is drawn in a sampling."""
        return Draws(request.seed)

    @contextmanager
    def advance(self, run: Run) -> Iterator[tuple[Advance, Predictor]]:
        """A step of two looks, inside the block in which the network is ours."""
        with self.fused(run) as (_, predict):
            elastic = Elastic(self, run, predict)
            yield elastic, predict


class Elastic:
    """The steps of one sampling."""

    def __init__(self, method: ElasticDiffusion, run: Run, predict: Predictor) -> None:
        self.config, self.family, self.run, self.predict = method.config, method.family, run, predict
        side = method.family.spec.window // method.family.factor
        self.draws = method.draws(run.request)
        self.reference = Reference(run.canvas.height, run.canvas.width, side)
        self.rows, self.columns = cores(run.canvas.height, side), cores(run.canvas.width, side)
        self.backdrops: dict[int, tuple[int, Tensor]] = {}

    def __call__(self, latents: Tensor, moment: Moment) -> Tensor:
        """The latents one level down."""
        config, scale = self.config, self.run.request.guidance_scale
        look = self.look(latents, moment, scale, config.resampling)
        last = moment.index + 1 == moment.count
        if config.repaint and config.resampling and not last:
            again = self.raised(look.below, moment)
            look = self.look(again, moment, scale * REPAINT_SHARE, 0)
        weight = self.pull(moment)
        if weight <= LEAST_WEIGHT:
            return look.below
        gap = self.reference.spread(look.reference_clean) - look.clean
        return look.below + weight * 2 * gap / look.clean[0].numel()

    def look(self, latents: Tensor, moment: Moment, scale: float, resampling: int) -> Look:
        """Detail from windows, guidance from references (section 4, eqs 4 to 6)."""
        local = self.local(latents, moment)
        direction, small, unconditional = self.direction(latents, moment, resampling)
        schedule, timestep = self.run.schedule, moment.timestep
        guided = local + scale * direction
        clean = schedule.clean(guided, timestep, latents)
        below = schedule.step(guided, timestep, latents)
        towards = unconditional + scale * self.reference.shrunk(direction)
        return Look(clean, below, schedule.clean(towards, timestep, small))

    def direction(self, latents: Tensor, moment: Moment, resampling: int) -> tuple[Tensor, Tensor, Tensor]:
        """(direction [1, C, H, W], the first reference, and what is predicted of it without the prompt)."""
        places = self.draws.places(self.reference.cells, resampling + 1, self.config.new_share)
        small = self.reference.picked(latents, places)
        squares = self.padded(small, moment)
        asked = self.ask(squares, moment, TOWARDS)
        assert asked.unconditional is not None and asked.conditional is not None
        without, within = (self.cut(part) for part in (asked.unconditional, asked.conditional))
        return self.reference.filled(within - without, places), small[:1], without[:1]

    def local(self, latents: Tensor, moment: Moment) -> Tensor:
        """What is predicted without the prompt, window by window, [1, C, H, W]."""
        views = [(row, column) for row in self.rows for column in self.columns]
        shown = [Window(r.shown_from, r.shown_to, c.shown_from, c.shown_to) for r, c in views]
        asked = self.ask(crop(latents, shown)[:, 0], moment, ("unconditional",)).unconditional
        assert asked is not None
        canvas = torch.zeros_like(latents)
        for (row, column), one in zip(views, asked, strict=True):
            canvas[0, :, row.start : row.stop, column.start : column.stop] = one[
                :, _inside(row), _inside(column)
            ]
        return canvas

    def ask(self, samples: Tensor, moment: Moment, halves: tuple[Half, ...]) -> Prediction:
        """Predictions of samples that are told the canvas's size."""
        canvas = self.run.canvas
        whole = Canvas(
            canvas.height, canvas.width, canvas.windows * len(samples), canvas.weights, canvas.factor
        )
        return self.predict(self.run.schedule.scaled(samples, moment.timestep), moment, whole, halves)

    def padded(self, small: Tensor, moment: Moment) -> Tensor:
        """References in squares of the training size: around them one colour, noised to the timestep."""
        timestep = int(moment.timestep)
        parts = [small]
        for axis, sizes in zip((2, 3), self.reference.padding, strict=True):
            if any(sizes):
                edges = [self.backdrop(axis, n, size, timestep) for n, size in enumerate(sizes, 1)]
                before, after = (edge.expand(len(small), -1, -1, -1) for edge in edges)
                parts = [torch.cat([before, *parts, after], dim=axis)]
        return parts[0]

    def backdrop(self, axis: int, number: int, size: int, timestep: int) -> Tensor:
        """The padding before (1) or after (2) a reference along an axis, [1, C, h, w]."""
        key = axis * 2 + number
        if self.backdrops.get(key, (None, None))[0] != timestep:
            height, width = (size, self.reference.side) if axis == 2 else (self.reference.side, size)
            made = self.painted(key, height, width, timestep)
            self.backdrops[key] = timestep, made
        return self.backdrops[key][1]

    def painted(self, key: int, height: int, width: int, timestep: int) -> Tensor:
        """A plane of one colour, encoded, at a timestep's level of noise."""
        shape = torch.Size((1, self.family.denoiser.channels, height, width))
        colour, noise = self.draws.backdrop(key, timestep, shape)
        factor = self.family.factor
        if 0 in (height, width):
            return noise.to(self.family.device)
        plane = colour.view(1, 3, 1, 1).expand(1, 3, height * factor, width * factor)
        clean = encode_images(self.family.vae, plane)
        level = float(self.run.schedule.scheduler.alphas_cumprod[timestep])
        return (level**0.5 * clean + (1 - level) ** 0.5 * noise.to(clean)).to(self.family.device)

    def cut(self, squares: Tensor) -> Tensor:
        """The references' own part of their squares."""
        (top, _), (left, _) = self.reference.padding
        height, width = self.reference.size
        return squares[:, :, top : top + height, left : left + width]

    def raised(self, below: Tensor, moment: Moment) -> Tensor:
        """Latents one level down, noised back to the step's level: all its small noises in one."""
        levels = self.run.schedule.scheduler.alphas_cumprod
        timesteps = self.run.schedule.timesteps
        here, there = (float(levels[int(timesteps[moment.index + n])]) for n in (0, 1))
        kept = here / there
        noise = self.draws.noise(below.shape).to(below)
        return kept**0.5 * below + (1 - kept) ** 0.5 * noise

    def pull(self, moment: Moment) -> float:
        """The weight of the pull towards the reference: a cosine to a power, 0 in the last steps."""
        until = moment.count - int(moment.count * self.config.reference_stop)
        if moment.index >= until:
            return 0.0
        cosine = 0.5 * (1 + math.cos(math.pi * moment.index / until))
        return float(self.config.reference_weight) * cosine ** float(self.config.reference_decay)


def _inside(core: Core) -> slice:
    """A core inside what its window is shown."""
    return slice(core.start - core.shown_from, core.stop - core.shown_from)

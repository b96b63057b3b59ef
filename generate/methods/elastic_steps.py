"""A step of ElasticDiffusion: a look at references and windows, a second one, a pull to the reference."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from drspo.hashing import seed_from
from generate.canvas.blend import crop
from generate.canvas.plan import Canvas
from generate.canvas.reference import Core, Reference, cores, draw_places
from generate.canvas.windows import Window
from generate.images.vae import encode_images
from generate.methods.one_stage import Run
from generate.models.family import ModelFamily
from generate.sampling.conditions import Half
from generate.sampling.loop import Moment
from generate.sampling.predict import Prediction, Predictor

LEAST_WEIGHT = 10.0
"""Of the pull towards the reference, below which it is left out: as the authors have it."""
REPAINT_SHARE = 1 / 3
"""Of the guidance scale, in the second look at a step."""
TOWARDS: tuple[Half, Half] = ("unconditional", "conditional")


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


class Elastic:
    """The steps of one sampling; `config` is the method's."""

    def __init__(self, family: ModelFamily, config: Any, run: Run, predict: Predictor, draws: Draws) -> None:
        self.family, self.config, self.run, self.predict, self.draws = family, config, run, predict, draws
        side = family.spec.window // family.factor
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

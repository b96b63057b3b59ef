"""ElasticDiffusion's loop written out literally, one call after another; `benchmarks.methods` times it.

It asks references one at a time and encodes both paddings anew for each. Both take the same draws, so that
latents can be compared too.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from generate.canvas.noise import initial_noise
from generate.canvas.reference import Reference
from generate.images.vae import encode_images
from generate.methods.elastic_steps import LEAST_WEIGHT, Draws
from generate.methods.elasticdiffusion import Config
from generate.models.family import ModelFamily
from generate.models.prompts import PromptEmbeddings
from generate.models.schedulers import make_schedule
from generate.request import Request


class Loop:
    """The method as a plain loop over a UNet, at whole multiples of half the training square."""

    def __init__(self, family: ModelFamily, request: Request, text: PromptEmbeddings, config: Config) -> None:
        self.family, self.request, self.text, self.config = family, request, text, config
        self.side = family.spec.window // family.factor
        self.scheduler = make_schedule(family, "ddim", request.steps).scheduler
        self.draws = Draws(request.seed)

    @torch.no_grad()
    def run(self) -> Tensor:
        config, request, scheduler = self.config, self.request, self.scheduler
        h, w = request.height // self.family.factor, request.width // self.family.factor
        self.reference = Reference(h, w, self.side)
        x = initial_noise(request.seed, (1, 4, h, w)).to(self.family.device) * scheduler.init_noise_sigma
        count = len(scheduler.timesteps)
        until = count - int(count * config.reference_stop)
        for i, t in enumerate(scheduler.timesteps):
            scale = request.guidance_scale
            clean, below, towards = self.look(x, t, scale, config.resampling)
            if config.repaint and config.resampling and i + 1 < count:
                levels = scheduler.alphas_cumprod
                kept = float(levels[t] / levels[scheduler.timesteps[i + 1]])
                noise = self.draws.noise(below.shape).to(below)
                x = kept**0.5 * below + (1 - kept) ** 0.5 * noise
                clean, below, towards = self.look(x, t, scale / 3, 0)
            wave = 0.5 * (1 + torch.cos(torch.tensor(torch.pi * i / until)).item())
            weight = config.reference_weight * wave**config.reference_decay if i < until else 0.0
            if weight > LEAST_WEIGHT:
                up = functional.interpolate(towards, size=(h, w), mode="nearest")
                below = below + weight * 2 * (up - clean) / clean.numel()
            x = below
        return x

    def look(self, x: Tensor, t: Tensor, scale: float, resampling: int) -> tuple[Tensor, Tensor, Tensor]:
        places = self.draws.places(self.reference.cells, resampling + 1, self.config.new_share)
        smalls = self.reference.picked(x, places)
        directions, alone = [], []
        for small in smalls.split(1):
            without, within = self.unet(self.padded(small, int(t)), t, both=True).chunk(2)
            (top, _), (left, _) = self.reference.padding
            rows, columns = self.reference.size
            parts = [part[:, :, top : top + rows, left : left + columns] for part in (without, within)]
            directions.append(parts[1] - parts[0])
            alone.append(parts[0])
        direction = self.reference.filled(torch.cat(directions), places)
        guided = self.local(x, t) + scale * direction
        stepped = self.scheduler.step(guided, t, x)
        small_direction = functional.interpolate(direction, size=self.reference.size, mode="nearest")
        towards = self.scheduler.step(alone[0] + scale * small_direction, t, smalls[:1]).pred_original_sample
        return stepped.pred_original_sample, stepped.prev_sample, towards

    def local(self, x: Tensor, t: Tensor) -> Tensor:
        out, half, (h, w) = torch.zeros_like(x), self.side // 2, x.shape[-2:]
        crops, cores = [], []
        for a in range(0, h, half) if h > self.side else (0,):
            for b in range(0, w, half) if w > self.side else (0,):
                top = min(max(a - half // 2, 0), h - self.side) if h > self.side else 0
                left = min(max(b - half // 2, 0), w - self.side) if w > self.side else 0
                crops.append(x[:, :, top : top + self.side, left : left + self.side])
                cores.append((a, b, top, left))
        for start in range(0, len(crops), 16):
            answers = self.unet(torch.cat(crops[start : start + 16]), t, both=False)
            for (a, b, top, left), answer in zip(cores[start : start + 16], answers, strict=True):
                rows = slice(a, a + half if h > self.side else h)
                columns = slice(b, b + half if w > self.side else w)
                inner = answer[
                    :, rows.start - top : rows.stop - top, columns.start - left : columns.stop - left
                ]
                out[0, :, rows, columns] = inner
        return out

    def padded(self, small: Tensor, t: int) -> Tensor:
        for axis, sizes in zip((2, 3), self.reference.padding, strict=True):
            if any(sizes):
                before, after = (self.backdrop(axis, n, size, t) for n, size in enumerate(sizes, 1))
                small = torch.cat([before, small, after], dim=axis)
        return small

    def backdrop(self, axis: int, number: int, size: int, t: int) -> Tensor:
        height, width = (size, self.side) if axis == 2 else (self.side, size)
        colour, noise = self.draws.backdrop(axis * 2 + number, t, torch.Size((1, 4, height, width)))
        factor = self.family.factor
        plane = colour.view(1, 3, 1, 1).expand(1, 3, height * factor, width * factor)
        clean, level = encode_images(self.family.vae, plane), float(self.scheduler.alphas_cumprod[t])
        return level**0.5 * clean + (1 - level) ** 0.5 * noise.to(clean)

    def unet(self, samples: Tensor, t: Tensor, *, both: bool) -> Tensor:
        text, count = self.text, len(samples)
        halves = [(text.negative_prompt_embeds, text.negative_pooled)]
        halves += [(text.prompt_embeds, text.pooled)] if both else []
        hidden = torch.cat([half[0] for half in halves]).repeat_interleave(count, dim=0)
        told = None
        if text.pooled is not None:
            pooled = torch.cat([half[1] for half in halves]).repeat_interleave(count, dim=0)
            sizes = [4 * self.request.height, 4 * self.request.width]
            ids = torch.tensor([[*sizes, 0, 0, *sizes]]).float().repeat(len(pooled), 1)
            told = {"text_embeds": pooled, "time_ids": ids.to(samples)}
        asked = torch.cat([samples] * len(halves))
        return self.family.unet(asked, t, hidden, added_cond_kwargs=told, return_dict=False)[0]


def loop(family: ModelFamily, request: Request, text: PromptEmbeddings, config: Config) -> Tensor:
    """The final latents of the plain loop."""
    return Loop(family, request, text, config).run()

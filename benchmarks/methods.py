"""Each windowed method beside its authors' loop written out literally: ratios of one run.

    python -m benchmarks.methods                      the miniature, on this machine
    python -m benchmarks.methods --methods gvcf --steps 5

The loops below do what the papers' programs do, in the order in which they do it: every window alone
through network, guidance and scheduler. The two take turns; the fastest CPU time of each is compared,
because a machine is rarely quiet. (MultiDiffusion and MAD are measured by benchmarks.generate.)
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks import elastic
from generate.canvas.noise import initial_noise
from generate.canvas.plan import canvas_time_ids
from generate.methods.elasticdiffusion import ElasticDiffusion
from generate.methods.gvcf import GVCF, guidance_map
from generate.methods.spotdiffusion import SpotDiffusion, turns
from generate.methods.syncdiffusion import SyncDiffusion
from generate.methods.twindiffusion import TwinDiffusion, crossed
from generate.models.family import ModelFamily, load_family
from generate.models.prompts import PromptEmbeddings
from generate.models.schedulers import make_schedule
from generate.request import Request

PROMPT = "a lighthouse on the sea at dusk"


class Literal:
    """What every literal loop needs: one window through the network, guided, as the originals do it."""

    def __init__(self, method: Any, request: Request, scheduler: str) -> None:
        self.family: ModelFamily = method.family
        self.method, self.request = method, request
        self.text: PromptEmbeddings = method.encode(request)
        self.canvas = method.canvas(request)
        self.scheduler = make_schedule(self.family, scheduler, request.steps).scheduler
        shape = (1, self.family.denoiser.channels, self.canvas.height, self.canvas.width)
        self.shape, self.first = shape, initial_noise(request.seed, shape)
        self.prompt = torch.cat([self.text.negative_prompt_embeds, self.text.prompt_embeds])
        self.added = None
        if self.text.pooled is not None and self.text.negative_pooled is not None:
            pooled = torch.cat([self.text.negative_pooled, self.text.pooled])
            ids = canvas_time_ids("window", self.canvas)[:1].repeat(2, 1)
            self.added = {"text_embeds": pooled, "time_ids": ids}

    def noise_of(self, view: Tensor, t: Tensor) -> Tensor:
        """The guided prediction of one window."""
        both = torch.cat([view] * 2)
        said = self.family.unet(both, t, self.prompt, added_cond_kwargs=self.added, return_dict=False)[0]
        negative, positive = said.chunk(2)
        return negative + self.request.guidance_scale * (positive - negative)


@torch.no_grad()
def spot(loop: Literal) -> Tensor:
    """Tiles, each stepped once and written; then the canvas is rolled, and at the very end rolled back."""
    latents, side = loop.first.clone(), loop.canvas.windows[0].width
    turned = turns(loop.request.seed, loop.shape, loop.request.steps)
    for index, t in enumerate(loop.scheduler.timesteps):
        for x in range(0, loop.canvas.width, side):
            view = latents[..., x : x + side]
            latents[..., x : x + side] = loop.scheduler.step(loop.noise_of(view, t), t, view).prev_sample
        latents = latents.roll(-(turned[index + 1] - turned[index]), -1)
    return latents.roll(turned[-1], -1)


@torch.no_grad()
def twin(loop: Literal) -> Tensor:
    """Windows from left to right, the seam mixed with the one before while half of the steps are not over."""
    latents = loop.first.clone()
    stride = loop.canvas.windows[1].x0 - loop.canvas.windows[0].x0
    cross, lam = loop.method.config.cross_time, loop.method.config.lam
    for index, t in enumerate(loop.scheduler.timesteps):
        value, count = torch.zeros_like(latents), torch.zeros_like(latents)
        before, end = None, 0
        for w in crossed(loop.canvas, (index % cross) * (stride // cross)).windows:
            view = latents[..., w.x0 : w.x1]
            stepped = loop.scheduler.step(loop.noise_of(view, t), t, view).prev_sample
            if before is not None and index < loop.request.steps // 2:
                shared = end - w.x0
                seam = before[..., -shared:] + lam * stepped[..., :shared]
                stepped[..., :shared] = seam / (1 + lam)
            value[..., w.x0 : w.x1] += stepped
            count[..., w.x0 : w.x1] += 1
            before, end = stepped, w.x1
        latents = value / count
    return latents


@torch.no_grad()
def fusion(loop: Literal) -> Tensor:
    """DDPM's mean and noise of each window apart: sum G mu / sum G, and sum G sigma z / sqrt(sum G^2)."""
    latents, guidance = loop.first.clone(), guidance_map(loop.canvas)
    drawn = torch.Generator().manual_seed(loop.request.seed)
    torch.randn(loop.shape, generator=drawn)
    silent = torch.Generator()
    for index, t in enumerate(loop.scheduler.timesteps):
        mean, noise, total, squares = (torch.zeros_like(latents) for _ in range(4))
        last = index + 1 == loop.request.steps
        for w in loop.canvas.windows:
            view = latents[..., w.x0 : w.x1]
            stepped = loop.scheduler.step(loop.noise_of(view, t), t, view, generator=silent.manual_seed(0))
            sigma = 0.0 if last else loop.scheduler._get_variance(t) ** 0.5
            own = torch.randn(view.shape, generator=silent.manual_seed(0))
            mean[..., w.x0 : w.x1] += guidance * (stepped.prev_sample - sigma * own)
            if not last:
                fresh = torch.randn(view.shape[1:], generator=drawn)
                noise[..., w.x0 : w.x1] += guidance * sigma * fresh
            total[..., w.x0 : w.x1] += guidance
            squares[..., w.x0 : w.x1] += guidance**2
        latents = mean / total + noise / squares.sqrt()
    return latents


def elastically(loop: Literal) -> Tensor:
    """References one after another, each guided alone, and windows without the prompt."""
    return elastic.loop(loop.family, loop.request, loop.text, loop.method.config)


def sync(loop: Literal) -> Tensor:
    """Every window, the middle one too, down the gradient of its preview's distance to the middle one's."""
    settings, family = loop.method.resolved(loop.request), loop.family
    distance, latents, views = loop.method.parts["gradient"].distance, loop.first.clone(), loop.canvas.windows
    levels, middle = loop.scheduler.alphas_cumprod, len(views) // 2

    def look(view: Tensor, t: Tensor) -> Tensor:
        level = levels[int(t)]
        clean = (view - (1 - level).sqrt() * loop.noise_of(view, t)) / level.sqrt()
        picture = family.vae.decode(clean / family.vae.config.scaling_factor).sample
        return (picture / 2 + 0.5).clamp(0, 1) * 2 - 1

    for index, t in enumerate(loop.scheduler.timesteps):
        value, count = torch.zeros_like(latents), torch.zeros_like(latents)
        pulls = (index + 1) % settings.every == 0 and index < settings.until
        with torch.no_grad():
            anchor = look(latents[..., views[middle].x0 : views[middle].x1], t) if pulls else None
        for number, w in enumerate(views):
            view = latents[..., w.x0 : w.x1].clone()
            if anchor is not None:
                leaf = view.clone().requires_grad_()
                (gradient,) = torch.autograd.grad(distance(look(leaf, t), anchor).sum(), leaf)
                if number != middle:
                    view = view - settings.weight * settings.decay**index * gradient
            with torch.no_grad():
                stepped = loop.scheduler.step(loop.noise_of(view, t), t, view).prev_sample
            value[..., w.x0 : w.x1] += stepped
            count[..., w.x0 : w.x1] += 1
        latents = value / count
    return latents


METHODS: dict[str, tuple[Any, Callable[[Literal], Tensor], str]] = {
    "spotdiffusion": (SpotDiffusion, spot, "ddim"),
    "twindiffusion": (TwinDiffusion, twin, "ddim"),
    "gvcf": (GVCF, fusion, "ddpm"),
    "elasticdiffusion": (ElasticDiffusion, elastically, "ddim"),
    "syncdiffusion": (SyncDiffusion, sync, "ddim"),
}


def main(argv: list[str] | None = None) -> int:
    """Times each method and its loop in turns and prints the ratio."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="miniature")
    parser.add_argument("--methods", nargs="+", choices=sorted(METHODS), default=sorted(METHODS))
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args(argv)
    family = load_family(args.model, device="cpu", dtype="float32")
    height, width = family.spec.scroll
    request = Request(
        prompt=PROMPT, height=height, width=width, steps=args.steps, guidance_scale=family.spec.guidance_scale
    )
    for name in args.methods:
        cls, literal, scheduler = METHODS[name]
        print(compared(name, cls(family), literal, scheduler, request, args.repeats), flush=True)
    return 0


def compared(
    name: str,
    method: Any,
    literal: Callable[[Literal], Tensor],
    scheduler: str,
    request: Request,
    repeats: int,
) -> str:
    """One line: CPU seconds of both, their ratio, and how far their latents lie apart."""
    ours, theirs = float("inf"), float("inf")
    for _ in range(repeats):
        started = time.process_time()
        made = method.sample(request).latents
        ours = min(ours, time.process_time() - started)
        started = time.process_time()
        loop = literal(Literal(method, request, scheduler))
        theirs = min(theirs, time.process_time() - started)
    apart = float((made - loop).abs().max() / loop.abs().max())
    both = f"ours {ours:6.2f} s, literally {theirs:6.2f} s, ratio {ours / theirs:.2f}"
    return f"{name:15s} {both}, apart {apart:.0e}"


if __name__ == "__main__":
    raise SystemExit(main())

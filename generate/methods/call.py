"""A generator called in diffusers' manner: prompts in, an object with `.images` out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image

from drspo.errors import UserError
from generate.request import Callback, Generated, Request, Step

OutputType = Literal["pil", "np", "pt", "latent"]
StepEnd = Callable[[Any, int, float, dict[str, Any]], Any]


@dataclass
class Output:
    """What a call gives, prompt by prompt, and for each prompt image by image."""

    images: Any
    """list of PIL images; np: [N, H, W, 3] in 0..1; pt: [N, 3, H, W] in 0..1; latent: scaled [N, C, h,
    w]"""
    blueprints: list[Image.Image]
    lines: list[Image.Image] = field(default_factory=list)
    """the line art, empty where control is off"""
    seeds: list[int] = field(default_factory=list)
    """with which each image can be made again alone"""


def call(
    drspo: Any,
    prompt: str | Sequence[str],
    *,
    height: int | None = None,
    width: int | None = None,
    num_inference_steps: int | None = None,
    guidance_scale: float | None = None,
    guidance_rescale: float = 0.0,
    negative_prompt: str | Sequence[str] = "",
    num_images_per_prompt: int = 1,
    seed: int | Sequence[int] | None = None,
    generator: torch.Generator | Sequence[torch.Generator] | None = None,
    output_type: OutputType = "pil",
    callback_on_step_end: StepEnd | None = None,
) -> Output:
    """Makes `num_images_per_prompt` scrolls of every prompt; sizes in pixels, None is the model's own.

    Image k of a prompt has seed + k, unless `seed` lists one per image or `generator` (a torch.Generator,
    or one per image) draws them. `callback_on_step_end(drspo, step, timestep, {"latents": ...})` watches
    every step of both stages; what it returns is not used. UserError for what cannot be made.
    """
    if output_type not in ("pil", "np", "pt", "latent"):
        raise UserError(f"unknown output_type {output_type!r}", hint="Use pil, np, pt or latent.")
    if num_images_per_prompt < 1:
        raise UserError(f"num_images_per_prompt must be at least 1, not {num_images_per_prompt}")
    prompts = [prompt] if isinstance(prompt, str) else list(prompt)
    negatives = _listed(negative_prompt, len(prompts), "negative_prompt")
    seeds = _seeds(seed, generator, len(prompts), num_images_per_prompt)
    spec = drspo.family.spec
    told = [pair for pair in zip(prompts, negatives, strict=True) for _ in range(num_images_per_prompt)]
    requests = [
        Request(
            prompt=text,
            negative_prompt=negative,
            seed=one,
            height=spec.scroll[0] if height is None else height,
            width=spec.scroll[1] if width is None else width,
            steps=spec.steps if num_inference_steps is None else num_inference_steps,
            guidance_scale=spec.guidance_scale if guidance_scale is None else guidance_scale,
            guidance_rescale=guidance_rescale,
        )
        for (text, negative), one in zip(told, seeds, strict=True)
    ]
    made = drspo.generate(requests, _watch(drspo, callback_on_step_end))
    return Output(
        images=_convert(made, output_type),
        blueprints=[m.extras["blueprint"] for m in made],
        lines=[m.extras["lines"] for m in made if "lines" in m.extras],
        seeds=seeds,
    )


def _listed(value: str | Sequence[str], count: int, name: str) -> list[str]:
    values = [value] * count if isinstance(value, str) else list(value)
    if len(values) != count:
        raise UserError(f"{count} prompts but {len(values)} of {name}")
    return values


def _seeds(
    seed: int | Sequence[int] | None,
    state: torch.Generator | Sequence[torch.Generator] | None,
    prompts: int,
    copies: int,
) -> list[int]:
    if seed is not None and state is not None:
        raise UserError("give a seed or a generator, not both")
    count = prompts * copies
    if state is not None:
        states = [state] * count if isinstance(state, torch.Generator) else list(state)
        seeds = [int(torch.randint(2**31, (1,), generator=s, device=s.device)) for s in states]
    elif seed is None or isinstance(seed, int):
        seeds = [(seed or 0) + copy for _ in range(prompts) for copy in range(copies)]
    else:
        seeds = list(seed)
    if len(seeds) != count:
        raise UserError(f"{count} images but {len(seeds)} seeds or generators")
    return seeds


def _watch(drspo: Any, callback: StepEnd | None) -> Callback | None:
    if callback is None:
        return None

    def watch(step: Step) -> None:
        callback(drspo, step.index, step.timestep, {"latents": step.latents})

    return watch


def _convert(made: list[Generated], kind: OutputType) -> Any:
    if kind == "pil":
        return [m.image for m in made]
    if kind == "latent":
        return torch.stack([m.latents for m in made])
    pixels = np.stack([np.asarray(m.image, np.float32) / 255 for m in made])
    return pixels if kind == "np" else torch.from_numpy(pixels).permute(0, 3, 1, 2)

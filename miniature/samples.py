"""Pictures that a network paints while it trains, to be looked at."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, SD3Transformer2DModel, UNet2DConditionModel

from miniature.captions import captions
from miniature.latents import TextStack
from miniature.pictures import BLUEPRINT, FRESH_SEED, SQUARE, save_grid, to_pictures
from miniature.scene import sample_scene

STEPS = 15
GUIDANCE = 3.0


@dataclass
class UnetSampler:
    """Draws one grid of squares and one of blueprints from fresh captions, always the same ones."""

    vae: AutoencoderKL
    text: TextStack
    scheduler: EulerDiscreteScheduler
    work: Path

    def __call__(self, step: int, unet: UNet2DConditionModel) -> None:
        from miniature.export import assemble

        pipe = assemble(unet, self.vae, self.text, self.scheduler)
        pipe.set_progress_bar_config(disable=True)
        for size, count, columns in ((SQUARE, 16, 8), (BLUEPRINT, 12, 4)):
            texts = [captions(sample_scene(FRESH_SEED + index, *size))[0] for index in range(count)]
            save_grid(self.work / f"unet-{size[0]}x{size[1]}.png", draw(pipe, texts, size), columns)


@dataclass
class FlowSampler:
    """The same of the transformer, through SD3's pipeline."""

    vae: AutoencoderKL
    text: TextStack
    work: Path

    def __call__(self, step: int, transformer: SD3Transformer2DModel) -> None:
        from miniature.export import assemble_flow

        pipe = assemble_flow(transformer, self.vae, self.text)
        pipe.set_progress_bar_config(disable=True)
        for size, count, columns in ((SQUARE, 16, 8), (BLUEPRINT, 12, 4)):
            texts = [captions(sample_scene(FRESH_SEED + index, *size))[0] for index in range(count)]
            save_grid(self.work / f"flow-{size[0]}x{size[1]}.png", draw(pipe, texts, size), columns)


def draw(pipe, texts: list[str], size: tuple[int, int], steps: int = STEPS, seed: int = 0) -> np.ndarray:
    """Pictures (count x height x width x 3, uint8), one per text."""
    generator = torch.Generator().manual_seed(seed)
    images = pipe(
        texts, height=size[0], width=size[1], num_inference_steps=steps, guidance_scale=GUIDANCE,
        generator=generator, output_type="pt",
    ).images  # fmt: skip
    return to_pictures(images * 2 - 1)

"""The denoising as a moving picture."""

from __future__ import annotations

import io
import time
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image

from generate.images.vae import decode_latents, to_pil
from generate.request import Step


class Recorder:
    """A callback that keeps the latents of some steps of one scroll, evenly spread, the last included."""

    def __init__(self, frames: int = 16) -> None:
        self.frames = frames
        self.kept: list[tuple[str, torch.Tensor]] = []

    def __call__(self, step: Step) -> None:
        """Keeps the step when it is one of the chosen."""
        chosen = {round((i + 1) * step.count / self.frames) - 1 for i in range(self.frames)}
        if step.index in chosen or step.index + 1 == step.count:
            self.kept.append((step.stage, step.latents.detach().float().cpu().clone()))

    def animate(self, vae: Any, width: int = 1024) -> bytes:
        """An animated GIF of the kept latents, decoded; frames of both stages have the scroll's size, at most
        `width` pixels wide."""
        return encode_gif([_picture(vae, latents) for _, latents in self.kept], width)

    def estimate(self, vae: Any) -> float:
        """Seconds that `animate` will take, from decoding one frame of each stage."""
        total = 0.0
        for stage in dict.fromkeys(stage for stage, _ in self.kept):
            frames = [latents for name, latents in self.kept if name == stage]
            started = time.perf_counter()
            _picture(vae, frames[-1])
            total += len(frames) * (time.perf_counter() - started)
        return total


def _picture(vae: Any, latents: torch.Tensor) -> Image.Image:
    return to_pil(decode_latents(vae, latents.reshape(-1, *latents.shape[-3:])[:1]))[0]


def encode_gif(pictures: Sequence[Image.Image], width: int) -> bytes:
    """A GIF that shows the pictures at the last one's size, then rests on the last."""
    last = pictures[-1]
    size = (min(width, last.width), max(1, round(last.height * min(width, last.width) / last.width)))
    frames = [picture.resize(size, Image.Resampling.BICUBIC).quantize(128) for picture in pictures]
    buffer = io.BytesIO()
    durations = [120] * (len(frames) - 1) + [1500]
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0)
    return buffer.getvalue()

"""Stage two: windows paint the scroll at full size, starting from the enlarged blueprint (section 3.1.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from PIL import Image
from torch import Tensor

from drspo.errors import UserError
from drspo.hashing import seed_from
from generate.images.lineart import control_crops
from generate.images.vae import encode_images, from_pil
from generate.methods.drspo.control import Control, LineControl
from generate.models.family import ModelFamily
from generate.request import Callback, Request, initial_noise
from generate.sampling.denoising import denoise
from generate.sampling.fusion import Canvas, coverage, windowed
from generate.sampling.scroll import (
    Sampled,
    WindowSettings,
    canvas_time_ids,
    encode_request,
    linear_scheduler,
    plan_canvas,
    reporter,
)


@dataclass(frozen=True, kw_only=True)
class HighRes:
    """What the high-resolution stage needs beside the request and the blueprint."""

    strength: float
    windows: WindowSettings
    control: Control
    control_scale: float


def paint_windows(
    family: ModelFamily,
    settings: HighRes,
    request: Request,
    large: Image.Image,
    lines: Image.Image | None,
    callback: Callback | None = None,
    request_index: int = 0,
) -> Sampled:
    """Final latents of the scroll that follows the enlarged blueprint and, where given, its line art."""
    canvas = plan_canvas(family.spec, settings.windows, request.height, request.width)
    scheduler = linear_scheduler(family, settings.windows.scheduler, request.steps)
    steps = remaining_steps(len(scheduler.timesteps), settings.strength)
    begin = len(scheduler.timesteps) - steps
    clean = encode_images(family.vae, from_pil([large])).to(family.device)
    start = start_latents(scheduler, clean, request.seed, begin)
    control = _control(family, settings, canvas, lines, steps)
    with windowed(
        family, canvas, encode_request(family, settings.windows, request),
        guidance_scale=request.guidance_scale, guidance_rescale=request.guidance_rescale,
        time_ids=canvas_time_ids(family, settings.windows.time_ids, canvas),
        window_batch=settings.windows.window_batch, control=control,
    ) as predict:  # fmt: skip
        final = denoise(
            predict, start, scheduler, begin=begin, keep=coverage(canvas, family.device),
            on_step=reporter(callback, request_index, "highres"),
        )  # fmt: skip
    facts = {**predict.facts(), "control_evaluations": control.evaluations if control else 0, "steps": steps}
    return Sampled(final, facts)


def remaining_steps(steps: int, strength: float) -> int:
    """How many of a schedule's steps remain when it is entered at `strength`: at least one, at 1 all."""
    if not 0 < strength <= 1:
        raise UserError(f"strength must be above 0 and at most 1, not {strength}")
    return max(1, min(round(steps * strength), steps))


def start_latents(scheduler: Any, clean: Tensor, seed: int, begin: int) -> Tensor:
    """J_t at step number `begin` of the schedule: the encoded blueprint [1, C, H, W] with noise of that
    level.

    Eq. 10 starts from the clean encoding itself; denoising that from a noisy timestep contradicts the
    schedule, so it is noised as the schedule has it there (eq. 12). The noise is not the blueprint's own,
    whose traces the encoding carries.
    """
    noise = initial_noise(seed_from("highres", seed), tuple(clean.shape)).to(clean.device)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(begin)
    noisy: Tensor = scheduler.add_noise(clean, noise, scheduler.timesteps[begin : begin + 1])
    return noisy


def _control(
    family: ModelFamily, settings: HighRes, canvas: Canvas, lines: Image.Image | None, steps: int
) -> LineControl | None:
    if lines is None:
        return None
    crops = control_crops(lines, canvas.windows)
    return LineControl(family.controlnet, crops, settings.control, settings.control_scale, steps)

"""Stage two: windows paint the scroll at full size, starting from the enlarged blueprint (section 3.1.2)."""

from __future__ import annotations

from dataclasses import dataclass, field

from PIL import Image
from torch import Tensor

from drspo.hashing import seed_from
from generate.canvas.noise import initial_noise
from generate.config import WindowSettings
from generate.images.kept import Kept
from generate.images.vae import encode_scroll
from generate.methods.drspo.control import Control, LineControl
from generate.methods.image_prompt import ImagePrompt, picturing
from generate.methods.multidiffusion import MultiDiffusion
from generate.methods.one_stage import Sampled
from generate.models.family import ModelFamily
from generate.models.schedule import Schedule
from generate.request import Callback, Request


@dataclass(frozen=True, kw_only=True)
class HighRes:
    """What the high-resolution stage needs beside the request and the blueprint."""

    strength: float
    windows: WindowSettings
    control: Control
    control_scale: float
    image_prompt: ImagePrompt = field(default_factory=ImagePrompt)


def paint_windows(
    family: ModelFamily,
    settings: HighRes,
    request: Request,
    large: Image.Image,
    lines: Image.Image | None,
    callback: Callback | None = None,
    request_index: int = 0,
    kept: Kept | None = None,
) -> Sampled:
    """Final latents of the scroll that follows the enlarged blueprint and, where given, its line art.

    Where an image prompt is asked for, windows are shown the blueprint itself too (eq. 33).

    MultiDiffusion from a schedule that is entered in the middle, with a ControlNet beside the network.
    """
    windows = MultiDiffusion(family, settings.windows)
    windows.kept = kept
    schedule = windows.schedule(request)
    schedule.enter(settings.strength)
    control = None
    if lines is not None:
        scale = settings.control_scale
        control = LineControl(family, lines, settings.control, scale, len(schedule))
    start = start_latents(family, schedule, large, request.seed, wrap=windows.wrap)
    with picturing(family, settings.image_prompt, windows.canvas(request), large) as shown:
        sampled = windows.sample(
            request,
            schedule=schedule,
            latents=start,
            shown=shown,
            control=control,
            callback=callback,
            request_index=request_index,
            stage="highres",
        )
    sampled.facts["steps"] = len(schedule)
    return sampled


def start_latents(
    family: ModelFamily, schedule: Schedule, large: Image.Image, seed: int, *, wrap: bool = False
) -> Tensor:
    """J_t at the schedule's first level: the encoded blueprint [1, C, H, W] with noise of that level.

    Eq. 10 starts from the clean encoding itself; denoising that from a noisy timestep contradicts the
    schedule, so it is noised as the schedule has it there (eq. 12). The noise is not the blueprint's own,
    whose traces the encoding carries.
    """
    family.wake("vae")
    clean = encode_scroll(family.vae, large, wrap=wrap).to(family.device)
    noise = initial_noise(seed_from("highres", seed), tuple(clean.shape)).to(clean.device)
    return schedule.noised(clean, noise)

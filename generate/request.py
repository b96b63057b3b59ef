"""What a generator is: requests in, scrolls out; the same request gives the same bytes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import torch
from PIL import Image
from torch import Tensor

from drspo.errors import UserError

PIXELS_PER_LATENT = 8
OWN = -1
"""What a number in a configuration holds when the model's own is to be taken: 0 is a value like any other."""

Number = TypeVar("Number", int, float)


def own(value: Number, default: Number) -> Number:
    """The value that was set, or the model's own."""
    return default if value == OWN else value


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One scroll to make; height and width in pixels."""

    prompt: str
    negative_prompt: str = ""
    height: int
    width: int
    seed: int = 0
    steps: int = 50
    guidance_scale: float = 5.0
    guidance_rescale: float = 0.0
    """phi of Lin et al. 2023, section 3.4; 0: plain guidance"""


@dataclass(slots=True, kw_only=True)
class Generated:
    """One scroll that was made."""

    request: Request
    image: Image.Image
    seconds: float
    latents: Tensor
    """The final scaled latents, float32 on the CPU, [4, h, w]."""
    extras: dict[str, Image.Image] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One finished denoising step, as a callback sees it."""

    request_index: int
    stage: str
    index: int
    count: int
    timestep: float
    latents: Tensor


Callback = Callable[[Step], None]


class Generator(Protocol):
    """A method that turns requests into scrolls; a batch equals a loop of singles."""

    name: str
    config: Any

    def generate(self, requests: list[Request], callback: Callback | None = None) -> list[Generated]: ...


def initial_noise(seed: int, shape: tuple[int, ...]) -> Tensor:
    """Standard normal noise for a seed, float32, always drawn on the CPU so that every device agrees."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)


def latent_size(height: int, width: int) -> tuple[int, int]:
    """The latents' (height, width) for a canvas in pixels; UserError when 8 does not divide the canvas."""
    for word, size in (("height", height), ("width", width)):
        if size < PIXELS_PER_LATENT or size % PIXELS_PER_LATENT:
            below = max(size // PIXELS_PER_LATENT * PIXELS_PER_LATENT, PIXELS_PER_LATENT)
            above = below + PIXELS_PER_LATENT
            raise UserError(
                f"The {word} {size} is not a positive multiple of 8 pixels: "
                "the autoencoder halves it three times.",
                hint=f"The nearest sizes are {below} and {above}.",
            )
    return height // PIXELS_PER_LATENT, width // PIXELS_PER_LATENT


def check_request(request: Request) -> None:
    """Raises UserError for settings of a request that no method can serve."""
    latent_size(request.height, request.width)
    if request.steps < 1:
        raise UserError(f"A scroll needs at least one step, not {request.steps}.")
    if request.guidance_scale < 0:
        raise UserError(f"A guidance scale is not negative: {request.guidance_scale}.")
    if not 0 <= request.guidance_rescale <= 1:
        raise UserError(f"guidance_rescale lies between 0 and 1, not at {request.guidance_rescale}.")
    if request.seed < 0:
        raise UserError(f"A seed is a non-negative integer, not {request.seed}.")


def build_generator(name: str, family: Any, settings: Mapping[str, Any] | None = None) -> Generator:
    """The generator of that name with its settings applied; unknown names and settings are UserErrors.

    A generator class carries its configuration dataclass as `config_class`; "module:Class" names a plugin.
    """
    from drspo.config import from_dict
    from drspo.registry import lookup
    from generate import GENERATORS

    cls = lookup(GENERATORS, name, "method")
    return cls(family, from_dict(cls.config_class, dict(settings or {})))

"""What a generator is: requests in, scrolls out; the same request gives the same bytes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from drspo.errors import UserError
from generate.passages import Passage, check_passages

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

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
    along: tuple[Passage, ...] = ()
    """what holds where along the scroll; `prompt` then names the whole and is told to no window"""

    @property
    def told(self) -> tuple[tuple[str, str], ...]:
        """(prompt, negative prompt) of every passage, or the one that holds everywhere."""
        parts = [(one.prompt, one.negative_prompt or self.negative_prompt) for one in self.along]
        return tuple(parts) or ((self.prompt, self.negative_prompt),)


@dataclass(slots=True, kw_only=True)
class Generated:
    """One scroll that was made."""

    request: Request
    image: Image.Image
    seconds: float
    latents: Tensor
    """The final scaled latents, float32 on the CPU, [C, h, w]."""
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


@dataclass(frozen=True, kw_only=True)
class NoSettings:
    """The settings of a method that has none."""


class Generator:
    """A method that turns requests into scrolls; a batch equals a loop of singles.

    A method of one's own derives from this, says its `name` and its settings (`config_class`, a frozen
    dataclass), and implements `generate`. All the rest has a default here, so that nobody needs to ask
    whether a generator has it.
    """

    name: ClassVar[str]
    config_class: ClassVar[type] = NoSettings
    keeps: ClassVar[bool] = False
    """Whether it can leave parts of a picture as they are (`kept`)."""
    kept: Any = None
    """A `generate.images.kept.Kept` of the canvas's size, while a part of a picture is painted anew."""
    stages: ClassVar[tuple[str, ...]] = ()
    """Stages that wear a LoRA of their own; a method without any wears one LoRA from end to end."""

    def __init__(self, family: Any, config: Any = None) -> None:
        self.family = family
        self.config = config if config is not None else self.config_class()

    def generate(self, requests: list[Request], callback: Callback | None = None) -> list[Generated]:
        """One scroll per request, each as if it were alone; the callback sees every step."""
        raise NotImplementedError

    @property
    def parts(self) -> dict[str, Any]:
        """What is called many times beside the networks, by name; a rehearsal calls it a few times.

        Each has `forward(windows, ...)`, with windows [n, C, h, w], and gives one tensor.
        """
        return {}

    @classmethod
    def needs_control(cls, config: Any) -> bool:
        """Whether the model must be loaded with its ControlNet."""
        return False

    @classmethod
    def needs_ip_adapter(cls, config: Any) -> bool:
        """Whether the model must be loaded with its IP-Adapter."""
        return False

    @classmethod
    def check_settings(cls, config: Any, request: Request, spec: Any) -> None:
        """UserError for what is wrong whatever the weights are; without a spec the model is not known yet."""

    @classmethod
    def check_weights(cls, config: Any, spec: Any) -> None:
        """UserError for weights beside the model's that this machine does not have."""

    def check(self, requests: list[Request]) -> None:
        """UserError for anything wrong with the requests or the settings, before heavy work."""
        self.check_weights(self.config, self.family.spec)
        for request in requests:
            check_request(request)
            self.check_settings(self.config, request, self.family.spec)

    def resolved(self, request: Request) -> Any:
        """The settings in force for a request: numbers instead of "the model's own"."""
        return self.config

    def count_steps(self, request: Request) -> int:
        """How many steps a callback sees for one request."""
        return request.steps

    @classmethod
    def with_window_batch(cls, config: Any, count: int) -> Any:
        """The settings with so many windows per forward, where the method has windows."""
        return config


def check_request(request: Request) -> None:
    """UserError for settings of a request that no method can serve; its size is the model's affair."""
    if not 1 <= request.steps <= 1000:
        raise UserError(f"A scroll needs at least one step and at most 1000, not {request.steps}.")
    if not 0 <= request.guidance_scale < math.inf:  # also false for NaN
        raise UserError(f"A guidance scale is a number from 0 on, not {request.guidance_scale}.")
    if not 0 <= request.guidance_rescale <= 1:
        raise UserError(f"guidance_rescale lies between 0 and 1, not at {request.guidance_rescale}.")
    if not 0 <= request.seed < 2**63:
        raise UserError(f"A seed is a non-negative integer below 2^63, not {request.seed}.")
    check_passages(request.along)


def generator_class(name: str) -> type[Generator]:
    """The class of a method's name, or of a plugin's "module:Class"; UserError when it is no generator."""
    from drspo.registry import lookup
    from generate import GENERATORS

    cls = lookup(GENERATORS, name, "method")
    if not (isinstance(cls, type) and issubclass(cls, Generator)):
        raise UserError(
            f"the method {name!r} is not a generator",
            hint="A plugin is a class that derives from generate.request.Generator.",
        )
    return cls


def settings_of(name: str, settings: Mapping[str, Any] | None = None) -> Any:
    """A method's configuration with these settings; unknown ones are UserErrors with the nearest name."""
    from drspo.config import from_dict

    return from_dict(generator_class(name).config_class, dict(settings or {}))


def build_generator(name: str, family: Any, settings: Mapping[str, Any] | None = None) -> Generator:
    """The generator of that name, or of a plugin's "module:Class", with its settings applied."""
    return generator_class(name)(family, settings_of(name, settings))


def needs_ip_adapter(name: str, settings: Mapping[str, Any] | None = None) -> bool:
    """Whether a method with these settings asks for the model's IP-Adapter."""
    return generator_class(name).needs_ip_adapter(settings_of(name, settings))


def needs_control(name: str, settings: Mapping[str, Any] | None = None) -> bool:
    """Whether a method with these settings asks for the model's ControlNet."""
    return generator_class(name).needs_control(settings_of(name, settings))

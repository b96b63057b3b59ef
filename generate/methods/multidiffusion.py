"""MultiDiffusion: windows denoised with the same prompt, averaged on the canvas (Bar-Tal et al. 2023)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from drspo.errors import UserError
from generate.canvas.plan import Canvas, check_window, in_force, plan_canvas
from generate.config import WindowSettings
from generate.methods import sdxl
from generate.methods.drspo.blueprint import Blueprint, blueprint_request, draw_blueprint
from generate.methods.image_prompt import ImagePrompt, in_force_scale, picturing, require_adapter
from generate.methods.one_stage import OneStage, Sampled
from generate.models.schedule import Schedule
from generate.models.schedulers import check_linear, linear_schedule, settled
from generate.models.specs import ModelSpec
from generate.request import Callback, Request


@dataclass(frozen=True, kw_only=True)
class Config(WindowSettings):
    """Settings of MultiDiffusion: those of the windows, and what they are shown beside the prompt."""

    image_prompt: ImagePrompt = field(default_factory=ImagePrompt)
    """a blueprint, drawn first, as an image prompt"""


class MultiDiffusion(OneStage):
    """Scrolls by averaging windows: DRSPO's eqs 3 and 4 with one shared prompt. It replaces nothing."""

    name = "multidiffusion"
    config_class = Config
    settled: ClassVar[dict[str, str]] = {}
    """Settings of the windows that a method has no choice of, with the reason."""

    @classmethod
    def check_settings(cls, config: WindowSettings, request: Request, spec: ModelSpec | None) -> None:
        """UserError for what is wrong whatever the weights are."""
        for setting, reason in cls.settled.items():
            if getattr(config, setting) != getattr(cls.config_class(), setting):
                raise UserError(
                    f"{cls.name} has no choice of {setting}: {reason}.",
                    where=f"--{cls.name}.{setting.replace('_', '-')}",
                    hint="Leave it out.",
                )
        cls.check_scheduler(config)
        check_window(config)
        if spec is not None:
            side = in_force(config, spec).window
            spec.limits.require(side, side, beyond=True)
            plan_canvas(spec, config, request.height, request.width)
            if cls.needs_ip_adapter(config):
                blueprint_request(request, Blueprint(), spec)

    @classmethod
    def check_scheduler(cls, config: Any) -> None:
        """UserError for a scheduler that the method cannot step by."""
        check_linear(config.scheduler)

    @classmethod
    def with_window_batch(cls, config: WindowSettings, count: int) -> Any:
        """The settings with so many windows per forward."""
        return replace(config, window_batch=count)

    @classmethod
    def needs_ip_adapter(cls, config: Any) -> bool:
        """Whether the model must be loaded with its IP-Adapter."""
        return isinstance(config, Config) and config.image_prompt.enabled

    @property
    def image_prompt(self) -> ImagePrompt:
        """What windows are shown beside the prompt."""
        return self.config.image_prompt if isinstance(self.config, Config) else ImagePrompt()

    def check(self, requests: list[Request]) -> None:
        """UserError for anything wrong with the requests, before heavy work."""
        super().check(requests)
        require_adapter(self.family, self.image_prompt)

    def count_steps(self, request: Request) -> int:
        """How many steps a callback sees for one request, those of a blueprint included."""
        first = self._drawn(request).steps if self.image_prompt.enabled else 0
        return super().count_steps(request) + first

    @property
    def wrap(self) -> bool:
        """Whether the two ends of the scroll join."""
        return bool(self.config.wrap)

    @property
    def window_batch(self) -> int:
        """Windows per forward; 0: by free memory."""
        return int(self.config.window_batch)

    def resolved(self, request: Request) -> Any:
        """The settings in force: the model's own window and stride where none are set."""
        spec = self.family.spec
        settled_in = replace(in_force(self.config, spec), scheduler=settled(self.config.scheduler, spec))
        if isinstance(settled_in, Config):
            return replace(settled_in, image_prompt=in_force_scale(settled_in.image_prompt, spec))
        return settled_in

    def canvas(self, request: Request) -> Canvas:
        """The request's canvas with its windows."""
        return plan_canvas(self.family.spec, self.config, request.height, request.width)

    def schedule(self, request: Request) -> Schedule:
        """The configured schedule, which may take one step for all windows; the picture is a window."""
        side = in_force(self.config, self.family.spec).window // self.family.factor
        return linear_schedule(self.family, self.config.scheduler, request.steps, (side, side))

    def _drawn(self, request: Request) -> Request:
        return blueprint_request(request, self._plan, self.family.spec)

    @property
    def _plan(self) -> Blueprint:
        """How a blueprint is made that is only looked at: a ring where the windows close to one."""
        return Blueprint(sdxl=sdxl.Config(wrap=self.wrap))

    def _paint(self, index: int, request: Request, callback: Callback | None) -> Sampled:
        """Final latents; where windows are shown a blueprint, it is drawn first."""
        if not self.image_prompt.enabled:
            return super()._paint(index, request, callback)
        blueprint = draw_blueprint(self.family, self._plan, request, callback, index)
        with picturing(self.family, self.image_prompt, self.canvas(request), blueprint.image) as shown:
            sampled = self.sample(request, shown=shown, callback=callback, request_index=index)
        first = blueprint.facts["unet_evaluations"]
        sampled.facts["unet_evaluations"] += first
        sampled.facts["blueprint_evaluations"] = first
        sampled.extras["blueprint"] = blueprint.image
        return sampled

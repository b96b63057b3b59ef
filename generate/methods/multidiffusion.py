"""MultiDiffusion: windows denoised with the same prompt, averaged on the canvas (Bar-Tal et al. 2023)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from drspo.errors import UserError
from generate.canvas.plan import Canvas, check_window, in_force, plan_canvas
from generate.config import WindowSettings
from generate.methods.one_stage import OneStage
from generate.models.schedule import Schedule
from generate.models.schedulers import check_linear, linear_schedule, settled
from generate.models.specs import ModelSpec
from generate.request import Request


@dataclass(frozen=True, kw_only=True)
class Config(WindowSettings):
    """Settings of MultiDiffusion: those of the windows."""


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
            if getattr(config, setting) != getattr(WindowSettings(), setting):
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

    @classmethod
    def check_scheduler(cls, config: Any) -> None:
        """UserError for a scheduler that the method cannot step by."""
        check_linear(config.scheduler)

    @classmethod
    def with_window_batch(cls, config: WindowSettings, count: int) -> Any:
        """The settings with so many windows per forward."""
        return replace(config, window_batch=count)

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
        return replace(in_force(self.config, spec), scheduler=settled(self.config.scheduler, spec))

    def canvas(self, request: Request) -> Canvas:
        """The request's canvas with its windows."""
        return plan_canvas(self.family.spec, self.config, request.height, request.width)

    def schedule(self, request: Request) -> Schedule:
        """The configured schedule, which may take one step for all windows; the picture is a window."""
        side = in_force(self.config, self.family.spec).window // self.family.factor
        return linear_schedule(self.family, self.config.scheduler, request.steps, (side, side))

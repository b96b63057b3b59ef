"""DRSPO: a small blueprint plans the whole scroll, then windows paint it at full size (section 3.1)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

from PIL import Image

from drspo.errors import UserError
from drspo.ranges import Range
from generate.canvas.plan import in_force
from generate.config import WindowSettings
from generate.images.lineart import check_lines, draw_lines, enlarge
from generate.images.vae import decode_scroll
from generate.methods.call import Output, call
from generate.methods.drspo.blueprint import (
    Blueprint,
    Sketch,
    blueprint_request,
    check_sketch,
    draw_blueprint,
)
from generate.methods.drspo.control import Control, active_steps
from generate.methods.drspo.highres import HighRes, paint_windows
from generate.methods.drspo.stages import STAGES, check_conditioning
from generate.methods.image_prompt import ImagePrompt, in_force_scale, require_adapter
from generate.methods.multidiffusion import MultiDiffusion
from generate.methods.sdxl import SDXL
from generate.models.family import ModelFamily, load_family
from generate.models.schedule import Schedule, check_strength
from generate.models.specs import ModelSpec
from generate.request import OWN, Callback, Generated, Generator, Request, check_request, own


@dataclass(frozen=True, kw_only=True)
class Config:
    """Both stages and what joins them; every row of the paper's Table 2 is a setting."""

    strength: Annotated[float, Range(0, 1, also=(-1,))] = OWN
    """where stage two enters the schedule: 1 at pure noise, near 0 keeps the blueprint; -1: the model's
    own"""
    blueprint: Blueprint = field(default_factory=Blueprint)
    """stage one"""
    control: Control = field(default_factory=Control)
    """line art through the ControlNet"""
    image_prompt: ImagePrompt = field(default_factory=ImagePrompt)
    """the blueprint as an image prompt beside the text (the paper's "with IP-Adapter")"""
    windows: WindowSettings = field(default_factory=WindowSettings)
    """stage two's windows"""
    use_loras: bool = True
    """off: the base model in both stages even where LoRAs are loaded (the paper's "w/o DPO")"""


class DRSPO(Generator):
    """Blueprint, line art, windows; LoRAs loaded as "blueprint" and "highres" act in their stage."""

    name = "drspo"
    config_class = Config
    stages = STAGES
    keeps = True

    def __init__(self, family: ModelFamily, config: Config | None = None) -> None:
        super().__init__(family, config)
        self.sketch: Sketch | None = None
        """a picture to follow, in the place of a blueprint"""
        if self.config.control.enabled and family.controlnet is None:
            raise UserError(
                "the model was loaded without a ControlNet, which guides the windows",
                hint="Load it with controlnet=True, or switch control off (control.enabled).",
            )

    @classmethod
    def needs_control(cls, config: Config) -> bool:
        """Whether the family must be loaded with its ControlNet."""
        return config.control.enabled

    @classmethod
    def needs_ip_adapter(cls, config: Config) -> bool:
        """Whether the family must be loaded with its IP-Adapter."""
        return config.image_prompt.enabled

    @classmethod
    def with_window_batch(cls, config: Config, count: int) -> Config:
        """The settings with so many windows per forward."""
        return replace(config, windows=replace(config.windows, window_batch=count))

    @classmethod
    def from_pretrained(
        cls,
        model: str = "miniature",
        *,
        device: str = "auto",
        dtype: str = "auto",
        controlnet: str = "",
        conditioning: str = "",
        ip_adapter: str = "",
        image_encoder: str = "",
        revision: str = "",
        lora_blueprint: str = "",
        lora_highres: str = "",
        lora_weight: float = 1.0,
        config: Config | None = None,
    ) -> DRSPO:
        """A generator on a named model, a Hub id or a folder, with the LoRAs of both stages where given."""
        config = config or Config()
        family = load_family(
            model,
            device=device,
            dtype=dtype,
            controlnet=cls.needs_control(config),
            controlnet_source=controlnet,
            conditioning=conditioning,
            ip_adapter=cls.needs_ip_adapter(config),
            ip_adapter_source=ip_adapter,
            image_encoder=image_encoder,
            revision=revision,
        )
        for stage, path in zip(STAGES, (lora_blueprint, lora_highres), strict=True):
            if path:
                family.load_lora(path, lora_weight, stage)
        return cls(family, config)

    def __call__(self, prompt: str | Sequence[str], **options: Any) -> Output:
        """Scrolls in diffusers' manner: `.images`, `.blueprints`; options are those of
        `generate.methods.call.call`."""
        return call(self, prompt, **options)

    def generate(self, requests: list[Request], callback: Callback | None = None) -> list[Generated]:
        """One scroll per request, each as if it were alone."""
        self.check(requests)
        return [self._make(index, request, callback) for index, request in enumerate(requests)]

    def _make(self, index: int, request: Request, callback: Callback | None) -> Generated:
        started = time.perf_counter()
        if self.sketch is not None:
            return self.paint(request, self.sketch.image, callback, index)
        blueprint = self.draw(request, callback, index)
        made = self.paint(request, blueprint.image, callback, index)
        made.seconds = time.perf_counter() - started
        first = blueprint.facts["unet_evaluations"]
        made.facts["unet_evaluations"] += first
        made.facts["blueprint_evaluations"] = first
        return made

    def draw(self, request: Request, callback: Callback | None = None, request_index: int = 0) -> Generated:
        """Stage one: the blueprint of a scroll's request."""
        self._wear("blueprint")
        settings = self.blueprint
        return draw_blueprint(self.family, settings, request, callback, request_index, self.kept)

    def paint(
        self,
        request: Request,
        blueprint: Image.Image,
        callback: Callback | None = None,
        request_index: int = 0,
    ) -> Generated:
        """Stage two: the scroll that follows a blueprint, which may be any picture of the scroll's aspect
        ratio."""
        started = time.perf_counter()
        control, wrap = self.config.control, self.config.windows.wrap
        large = enlarge(blueprint, request.height, request.width, wrap=wrap)
        large = large if self.kept is None else self.kept.over(large)
        lines = draw_lines(large, control.lines, wrap=wrap) if control.enabled else None
        self._wear("highres")
        settings = self._highres()
        sampled = paint_windows(
            self.family, settings, request, large, lines, callback, request_index, self.kept
        )
        self.family.wake("vae")
        return Generated(
            request=request,
            image=decode_scroll(self.family.vae, sampled.latents, wrap=wrap),
            seconds=time.perf_counter() - started,
            latents=sampled.latents[0].float().cpu(),
            facts=sampled.facts,
            extras={"blueprint": blueprint} | ({"lines": lines} if lines is not None else {}),
        )

    @classmethod
    def check_settings(cls, config: Config, request: Request, spec: ModelSpec | None) -> None:
        """UserError for what is wrong whatever the weights are; without a spec the model is not known yet."""
        MultiDiffusion.check_settings(config.windows, request, spec)
        small = request if spec is None else blueprint_request(request, config.blueprint, spec)
        SDXL.check_settings(config.blueprint.sdxl, small, spec)
        check_strength(own(config.strength, 1.0))
        active_steps(config.control, request.steps)
        check_lines(config.control.lines)
        if spec is not None:
            check_request(small)

    def check(self, requests: list[Request]) -> None:
        """UserError for anything wrong with the requests or the settings, before heavy work."""
        config, family = self.config, self.family
        require_adapter(family, config.image_prompt)
        MultiDiffusion(family, config.windows).check(requests)
        for request in requests:
            self.check_settings(config, request, family.spec)
            self._entered(request)
            if self.sketch is not None:
                check_sketch(self.sketch.image.size, request)
            SDXL(family, config.blueprint.sdxl).check(
                [blueprint_request(request, config.blueprint, family.spec)]
            )
        if config.use_loras:
            check_conditioning(family, config.windows.time_ids)

    def resolved(self, request: Request) -> Config:
        """The settings in force: the model's own numbers where none are set."""
        config, spec = self.config, self.family.spec
        first = blueprint_request(request, config.blueprint, spec)
        blueprint = replace(
            config.blueprint,
            height=first.height,
            width=first.width,
            steps=first.steps,
            guidance_scale=first.guidance_scale,
            seed=first.seed,
        )
        windows = in_force(config.windows, spec)
        return replace(
            config,
            strength=self.strength,
            blueprint=blueprint,
            control=replace(config.control, scale=self.control_scale),
            image_prompt=in_force_scale(config.image_prompt, spec),
            windows=windows,
        )

    def count_steps(self, request: Request) -> int:
        """How many steps a callback sees for one request."""
        painted = len(self._entered(request))
        if self.sketch is not None:
            return painted
        first = blueprint_request(request, self.config.blueprint, self.family.spec)
        return SDXL(self.family, self.config.blueprint.sdxl).count_steps(first) + painted

    @property
    def blueprint(self) -> Blueprint:
        """Stage one's settings in force: where the windows close to a ring, the plan does too."""
        own, wrap = self.config.blueprint, self.config.windows.wrap
        return replace(own, sdxl=replace(own.sdxl, wrap=True)) if wrap else own

    @property
    def strength(self) -> float:
        """The strength in force."""
        return own(self.config.strength, self.family.spec.strength)

    @property
    def control_scale(self) -> float:
        """The ControlNet's scale in force."""
        return own(self.config.control.scale, self.family.spec.control_scale)

    def _entered(self, request: Request) -> Schedule:
        """Stage two's schedule from where it is entered; UserError where it cannot be."""
        schedule = MultiDiffusion(self.family, self.config.windows).schedule(request)
        schedule.enter(self.strength)
        return schedule

    def _highres(self) -> HighRes:
        return HighRes(
            strength=self.strength,
            windows=self.config.windows,
            control=self.config.control,
            control_scale=self.control_scale,
            image_prompt=self.config.image_prompt,
        )

    def _wear(self, stage: str) -> None:
        wanted = self.config.use_loras and stage in self.family.loras
        self.family.use_lora(stage if wanted else None)

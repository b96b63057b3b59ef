"""The model itself on the whole canvas at once: the baseline, and the blueprint's sampler."""

from __future__ import annotations

import inspect
import time
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from drspo.errors import UserError
from drspo.hashing import seed_from
from generate.canvas.along import column_shares
from generate.canvas.noise import step_noise
from generate.canvas.plan import Canvas, latent_size, turned, whole_canvas
from generate.config import PromptSettings, TimeIdsMode
from generate.methods.one_stage import OneStage, Run
from generate.models.schedule import Schedule
from generate.models.schedulers import OWN_SCHEDULER, class_name, make_schedule, settled
from generate.models.specs import ModelSpec
from generate.models.weights import OTHER
from generate.request import Callback, Generated, Request, Step, check_request
from generate.sampling.conditions import Rows
from generate.sampling.steppers import CanvasStepper, Stepper


@dataclass(frozen=True, kw_only=True)
class Config(PromptSettings):
    """Settings of direct sampling."""

    scheduler: str = OWN_SCHEDULER
    """own (the model's), ddim, euler, pndm, dpmpp_2m, unipc, ddpm, euler_ancestral, or checkpoint"""
    time_ids: TimeIdsMode = "scroll"
    """what SDXL is told about sizes; with one window, scroll, window and crop say the same"""
    wrap: bool = False
    """join the left and right ends: at every step the picture is looked at from another column on"""
    beyond: bool = False
    """paint at sizes too that the model's makers do not rate it for"""


class Direct(OneStage):
    """One forward over the whole canvas per step, as the published pipelines do it.

    Any scheduler may be used: with a single window nothing is averaged. A pipeline whose networks are not
    known here is called as it is.
    """

    name = "direct"
    config_class = Config

    @classmethod
    def check_settings(cls, config: Config, request: Request, spec: ModelSpec | None) -> None:
        """UserError for what is wrong whatever the weights are."""
        class_name(config.scheduler)
        if spec is not None:
            spec.limits.require(request.height, request.width, beyond=config.beyond)
        super().check_settings(config, request, spec)

    def check(self, requests: list[Request]) -> None:
        """UserError for anything wrong with the requests, before heavy work."""
        if self.family.kind != OTHER:
            super().check(requests)
            return
        for request in requests:
            check_request(request)
            latent_size(request.height, request.width, self.family.factor)
            pipeline_call(self.family.pipe, request)

    def resolved(self, request: Request) -> Config:
        """The settings in force, with the scheduler that "own" is."""
        return replace(self.config, scheduler=settled(self.config.scheduler, self.family.spec))

    def count_steps(self, request: Request) -> int:
        """How many steps a callback sees for one request."""
        return request.steps if self.family.kind == OTHER else super().count_steps(request)

    def canvas(self, request: Request) -> Canvas:
        """The canvas as its own single window."""
        return whole_canvas(request.height, request.width, self.family.factor)

    @property
    def wrap(self) -> bool:
        """Whether the two ends join."""
        return bool(self.config.wrap)

    def canvas_at(self, run: Run, index: int) -> Canvas:
        """The canvas, turned where its ends join; once for each passage, which is asked about all of it."""
        turn = seed_from("turn", run.request.seed, index) % run.canvas.width if self.wrap else 0
        times = len(run.request.told)
        return run.canvas if times == 1 and not turn else turned(run.canvas, turn, times)

    def rows(self, request: Request) -> Rows | None:
        """Each passage's own words for its copy of the canvas."""
        return (lambda canvas: range(len(canvas.windows))) if request.along else None

    def stepper(self, run: Run) -> Stepper:
        """One step for the whole canvas; of each passage's prediction its own columns are taken."""
        noise = step_noise(run.request.seed)
        if not run.request.along:
            return CanvasStepper(run.schedule, noise)
        shares = column_shares(run.canvas, run.request.along, wrap=self.wrap)

        def by_columns(canvas: Canvas, predictions: Tensor) -> Tensor:
            placed = predictions.roll(canvas.windows[0].x0, dims=-1)
            return (placed * shares.to(predictions)[:, None, None, :]).sum(0, keepdim=True)

        return CanvasStepper(run.schedule, noise, by_columns)

    def schedule(self, request: Request) -> Schedule:
        """The configured schedule, for a picture of the canvas's size."""
        size = latent_size(request.height, request.width, self.family.factor)
        return make_schedule(self.family, self.config.scheduler, request.steps, size)

    def _make(self, index: int, request: Request, callback: Callback | None) -> Generated:
        if self.family.kind == OTHER:
            return called(self.family.pipe, request, index, callback)
        return super()._make(index, request, callback)


@torch.no_grad()
def called(pipe: Any, request: Request, index: int = 0, callback: Callback | None = None) -> Generated:
    """One picture by a pipeline as diffusers has it, from the request's seed."""
    started, latents = time.perf_counter(), torch.empty(0)

    def watch(_pipe: Any, step: int, timestep: Any, told: dict[str, Any]) -> dict[str, Any]:
        nonlocal latents
        latents = told["latents"]
        if callback is not None:
            callback(
                Step(
                    request_index=index, stage="direct", index=step, count=request.steps,
                    timestep=float(timestep), latents=latents,
                )
            )  # fmt: skip
        return {}

    told = pipeline_call(pipe, request)
    if "callback_on_step_end" in inspect.signature(pipe.__call__).parameters:
        told["callback_on_step_end"] = watch
    image = pipe(**told, generator=torch.Generator().manual_seed(request.seed)).images[0]
    return Generated(
        request=request,
        image=image,
        seconds=time.perf_counter() - started,
        latents=latents[0].float().cpu() if len(latents) else latents,
        facts={"pipeline": type(pipe).__name__},
    )


def pipeline_call(pipe: Any, request: Request) -> dict[str, Any]:
    """What a pipeline is called with; UserError for one that paints nothing from text or lacks a setting."""
    taken = inspect.signature(pipe.__call__).parameters
    name = type(pipe).__name__
    if request.along:
        raise UserError(f"{name} takes one prompt for the whole picture", "--along")
    if not {"prompt", "height", "width", "num_inference_steps", "generator"} <= taken.keys():
        raise UserError(f"{name} makes no pictures of a given size from text")
    wanted = {"negative_prompt": request.negative_prompt or None, "guidance_scale": request.guidance_scale}
    wanted |= {"guidance_rescale": request.guidance_rescale or None}
    missing = [key for key, value in wanted.items() if value is not None and key not in taken]
    if missing and missing != ["guidance_scale"]:
        raise UserError(f"{name} takes no {missing[0]}")
    told = {key: value for key, value in wanted.items() if value is not None and key in taken}
    size = {"height": request.height, "width": request.width, "num_inference_steps": request.steps}
    return {"prompt": request.prompt, **size, **told}

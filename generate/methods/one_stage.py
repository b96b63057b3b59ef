"""What the methods share that denoise one canvas from beginning to end: the one call of the core."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

from PIL import Image
from torch import Tensor

from drspo.errors import UserError
from drspo.hashing import seed_from
from generate.canvas.along import window_shares
from generate.canvas.noise import initial_noise, step_noise
from generate.canvas.plan import Canvas, canvas_time_ids, latent_size
from generate.images.vae import decode_scroll
from generate.models.attention import Choose, share_prompts
from generate.models.prompts import PromptEmbeddings, check_lengths, encode_prompts
from generate.models.schedule import Schedule
from generate.models.specs import ModelSpec
from generate.request import Callback, Generated, Generator, Request
from generate.sampling.conditions import Conditions, Control, Rows, one_prompt
from generate.sampling.fusion import Fusion
from generate.sampling.known import Known
from generate.sampling.loop import Advance, denoise, reporter
from generate.sampling.pictured import Pictured
from generate.sampling.predict import Predictor, predicting
from generate.sampling.steppers import CanvasStepper, Stepper


@dataclass(slots=True)
class Sampled:
    """Final scaled latents [1, C, H, W] float32 on the family's device, and what it took."""

    latents: Tensor
    facts: dict[str, Any] = field(default_factory=dict)
    extras: dict[str, Image.Image] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Run:
    """One sampling as a method sees it, where its parts are put together."""

    request: Request
    canvas: Canvas
    schedule: Schedule
    conditions: Conditions


class OneStage(Generator):
    """A generator of one stage: a canvas, a schedule, and what happens in a step.

    As it stands a step is MultiDiffusion's: every window by itself, averaged, one step of the scheduler. A
    method overrides `canvas` and `schedule`, and what else it replaces: the canvas at a step (`canvas_at`),
    what windows are told (`conditions`), how layers attend (`fused` with another attention), how a level is
    taken (`stepper`), or the whole step (`advance`).
    """

    keeps = True
    together = False
    """whether all windows must go through the network at once"""

    @property
    def wrap(self) -> bool:
        """Whether the two ends of the scroll join."""
        return False

    @property
    def window_batch(self) -> int:
        """Windows per forward; 0: by free memory."""
        return 0

    @classmethod
    def check_settings(cls, config: Any, request: Request, spec: ModelSpec | None) -> None:
        """UserError for what is wrong whatever the weights are; without a spec the model is not known yet."""
        if spec is not None:
            latent_size(request.height, request.width, spec.factor)

    def check(self, requests: list[Request]) -> None:
        """UserError for anything wrong with the requests, before heavy work."""
        super().check(requests)
        told = self.family.denoiser.embeds_guidance
        for request in requests:
            texts = [text for pair in request.told for text in pair]
            if told and any(negative for _, negative in request.told):
                raise UserError(
                    f"{self.family.model_id} is told the guidance scale and looks at the prompt alone",
                    where="--negative-prompt",
                    hint="Leave the negative prompt out.",
                )
            self.schedule(request)
            check_lengths(self.family, texts, self.config.long_prompt)
            self.canvas(request)

    def count_steps(self, request: Request) -> int:
        """How many steps a callback sees for one request."""
        return len(self.schedule(request))

    def canvas(self, request: Request) -> Canvas:
        """The request's canvas with its windows."""
        raise NotImplementedError

    def schedule(self, request: Request) -> Schedule:
        """A fresh schedule for the request."""
        raise NotImplementedError

    @contextmanager
    def fused(self, run: Run, attention: Choose = share_prompts) -> Iterator[tuple[Advance, Predictor]]:
        """Cut, predict, guide and step, with layers that attend in the given way; and the predictor."""
        request = run.request
        with predicting(
            self.family,
            run.conditions,
            guidance_scale=request.guidance_scale,
            window_batch=self.window_batch,
            together=self.together,
            attention=attention,
        ) as predict:
            fusion = Fusion(
                canvas_at=lambda index: self.canvas_at(run, index),
                schedule=run.schedule,
                predict=predict,
                stepper=self.stepper(run),
                guidance_scale=request.guidance_scale,
                guidance_rescale=request.guidance_rescale,
            )
            yield fusion, predict

    def canvas_at(self, run: Run, index: int) -> Canvas:
        """The canvas at a step, for methods whose windows move."""
        return run.canvas

    def stepper(self, run: Run) -> Stepper:
        """How latents go one level down."""
        return CanvasStepper(run.schedule, step_noise(run.request.seed))

    def advance(self, run: Run) -> AbstractContextManager[tuple[Advance, Predictor]]:
        """What a step does, inside a block in which the network is ours; and the predictor, for its facts."""
        return self.fused(run)

    def generate(self, requests: list[Request], callback: Callback | None = None) -> list[Generated]:
        """One scroll per request, each as if it were alone."""
        self.check(requests)
        return [self._make(index, request, callback) for index, request in enumerate(requests)]

    def sample(
        self,
        request: Request,
        *,
        embeddings: PromptEmbeddings | None = None,
        images: Sequence[Tensor] = (),
        shown: Tensor | None = None,
        control: Control | None = None,
        schedule: Schedule | None = None,
        latents: Tensor | None = None,
        callback: Callback | None = None,
        request_index: int = 0,
        stage: str = "",
    ) -> Sampled:
        """Final latents of one request.

        Embeddings and image prompts may be given, and a schedule that was entered in the middle, with
        latents of its first level. `shown` is what an IP-Adapter that is worn tells (see `Pictured`).
        """
        family, canvas = self.family, self.canvas(request)
        schedule = self.schedule(request) if schedule is None else schedule
        if latents is None:
            shape = (1, family.denoiser.channels, canvas.height, canvas.width)
            latents = schedule.first(initial_noise(request.seed, shape).to(family.device))
        latents = latents.to(family.device)
        embeddings = self.encode(request) if embeddings is None else embeddings
        embeddings = embeddings.to(family.device, family.dtype)
        conditions = self.conditions(embeddings, images, control, self.rows(request))
        conditions = conditions if shown is None else Pictured(conditions, shown)
        run = Run(request=request, canvas=canvas, schedule=schedule, conditions=conditions)
        known = self._known(request)
        with self.advance(run) as (advance, predict):
            report = reporter(callback, request_index, stage or self.name)
            step = advance if known is None else known.around(advance, schedule)
            final = denoise(step, latents, schedule, on_step=report)
        return Sampled(final if known is None else known.finished(final), predict.facts())

    def _known(self, request: Request) -> Known | None:
        """What stays of the canvas, where only a part of it is painted."""
        if self.kept is None:
            return None
        self.family.wake("vae")
        clean, mask = (part.to(self.family.device) for part in self.kept.latents(self.family.vae))
        noise = initial_noise(seed_from("known", request.seed), tuple(clean.shape))
        return Known(clean, mask, noise.to(self.family.device))

    def encode(self, request: Request) -> PromptEmbeddings:
        """The embeddings of the request's prompt and negative prompt, or of every passage's."""
        return encode_prompts(
            self.family,
            [prompt for prompt, _ in request.told],
            [negative for _, negative in request.told],
            empty_negative=self.config.empty_negative,
            long_prompt=self.config.long_prompt,
        )

    def rows(self, request: Request) -> Rows | None:
        """Which of the request's passages each window is told: None for one prompt, else by its position."""
        if not request.along:
            return None
        return lambda canvas: window_shares(canvas, request.along)

    def conditions(
        self,
        embeddings: PromptEmbeddings,
        images: Sequence[Tensor] = (),
        control: Control | None = None,
        rows: Rows | None = None,
    ) -> Conditions:
        """What every window is told: its sizes, and one prompt for all unless `rows` says otherwise."""

        def sizes(canvas: Canvas) -> Tensor:
            return canvas_time_ids(self.config.time_ids, canvas)

        told = sizes if self.family.denoiser.tells_sizes else None
        return Conditions(embeddings, images=images, rows=rows or one_prompt, sizes=told, control=control)

    def _paint(self, index: int, request: Request, callback: Callback | None) -> Sampled:
        """Final latents, and what was drawn on the way to them."""
        return self.sample(request, callback=callback, request_index=index)

    def _make(self, index: int, request: Request, callback: Callback | None) -> Generated:
        started = time.perf_counter()
        sampled = self._paint(index, request, callback)
        self.family.wake("vae")
        image = decode_scroll(self.family.vae, sampled.latents, wrap=self.wrap)
        return Generated(
            request=request,
            image=image,
            seconds=time.perf_counter() - started,
            latents=sampled.latents[0].float().cpu(),
            facts=sampled.facts,
            extras=sampled.extras,
        )

"""What the methods share that denoise the scroll's canvas from pure noise in one go."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from generate.models.prompts import PromptEmbeddings, check_lengths
from generate.request import Callback, Generated, Request, check_request
from generate.sampling.denoising import denoise
from generate.sampling.fusion import Canvas, WindowPredictor, coverage
from generate.sampling.scroll import Sampled, decode, encode_request, first_latents, reporter

if TYPE_CHECKING:
    from generate.models.family import ModelFamily, ModelSpec


class OneStage:
    """A generator of one stage; a method says which canvas, which scheduler, and how it predicts."""

    name: ClassVar[str]
    config_class: ClassVar[Any]

    def __init__(self, family: ModelFamily, config: Any = None) -> None:
        self.family = family
        self.config = config if config is not None else self.config_class()

    @classmethod
    def check_settings(cls, config: Any, request: Request, spec: ModelSpec | None) -> None:
        """UserError for what is wrong whatever the weights are; without a spec the model is not known yet."""
        raise NotImplementedError

    def resolved(self, request: Request) -> Any:
        """The settings in force for a request: numbers instead of "the model's own"."""
        return self.config

    def canvas(self, request: Request) -> Canvas:
        """The request's canvas with its windows."""
        raise NotImplementedError

    def scheduler(self, request: Request) -> Any:
        """A fresh scheduler for the request."""
        raise NotImplementedError

    def predictor(
        self, canvas: Canvas, embeddings: PromptEmbeddings, request: Request
    ) -> AbstractContextManager[WindowPredictor]:
        """What predicts the canvas at every step."""
        raise NotImplementedError

    def generate(self, requests: list[Request], callback: Callback | None = None) -> list[Generated]:
        """One scroll per request, each as if it were alone."""
        self.check(requests)
        return [self._make(index, request, callback) for index, request in enumerate(requests)]

    def check(self, requests: list[Request]) -> None:
        """UserError for anything wrong with the requests, before heavy work."""
        for request in requests:
            check_request(request)
            self.check_settings(self.config, request, self.family.spec)
            self.scheduler(request)
            check_lengths(self.family, [request.prompt, request.negative_prompt], self.config.long_prompt)
            self.canvas(request)

    def sample(
        self,
        request: Request,
        *,
        embeddings: PromptEmbeddings | None = None,
        latents: Tensor | None = None,
        callback: Callback | None = None,
        request_index: int = 0,
    ) -> Sampled:
        """Final latents of one request; embeddings and latents at the first noise level may be given."""
        family, canvas, scheduler = self.family, self.canvas(request), self.scheduler(request)
        start = first_latents(family, request, scheduler) if latents is None else latents
        embeddings = embeddings or encode_request(family, self.config, request)
        with self.predictor(canvas, embeddings, request) as predict:
            final = denoise(
                predict,
                start,
                scheduler,
                keep=coverage(canvas, family.device),
                generator=step_noise(request.seed),
                on_step=reporter(callback, request_index, self.name),
            )
        return Sampled(final, predict.facts())

    def _make(self, index: int, request: Request, callback: Callback | None) -> Generated:
        started = time.perf_counter()
        sampled = self.sample(request, callback=callback, request_index=index)
        image = decode(self.family, sampled.latents, wrap=getattr(self.config, "wrap", False))
        return Generated(
            request=request, image=image, seconds=time.perf_counter() - started,
            latents=sampled.latents[0].float().cpu(), facts=sampled.facts,
        )  # fmt: skip


def step_noise(seed: int) -> torch.Generator:
    """The generator of schedulers that draw noise: on the CPU, and not the one of the first latents."""
    return torch.Generator().manual_seed((seed ^ 0x5DEECE66D) % (1 << 63))

"""Windows to predictions, with and without the prompt, in micro-batches that memory decides."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from drspo.errors import UserError
from generate.canvas.plan import Canvas
from generate.models.attention import Choose, share_prompts
from generate.models.denoisers.denoiser import Condition, Picture
from generate.models.family import ModelFamily
from generate.models.memory import auto_window_batch, is_out_of_memory, release
from generate.sampling.conditions import Conditions, Half
from generate.sampling.loop import Moment

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the network predicts for n windows, each [n, C, h, w] float32; None what was not asked."""

    unconditional: Tensor | None
    conditional: Tensor | None


@contextmanager
def predicting(
    family: ModelFamily,
    conditions: Conditions,
    *,
    guidance_scale: float,
    window_batch: int = 0,
    together: bool = False,
    attention: Choose = share_prompts,
) -> Iterator[Predictor]:
    """A predictor; the networks' attention processors are its own inside the block.

    Guidance of at most 1 is none: only the conditional half is evaluated, as it is by networks that are told
    the scale. `window_batch` windows go through the network at once (0: by free memory); with `together` all
    of them must.
    """
    family.wake("denoise")
    denoiser = family.denoiser
    with denoiser.attending(attention):
        yield Predictor(family, conditions, guidance_scale, window_batch, together)


class Predictor:
    """Evaluates windows in micro-batches, halving them when memory runs out."""

    def __init__(
        self,
        family: ModelFamily,
        conditions: Conditions,
        guidance_scale: float,
        window_batch: int,
        together: bool,
    ) -> None:
        self.family, self.conditions, self.together = family, conditions, together
        self.denoiser = family.denoiser
        told = self.denoiser.embeds_guidance
        self.guidance = guidance_scale if told else None
        alone = told or guidance_scale <= 1.0
        self.halves: tuple[Half, ...] = ("conditional",) if alone else ("unconditional", "conditional")
        self.window_batch = window_batch
        self.halves_apart = False
        self.ran_out: int | None = None
        self.windows = self.evaluations = self.control_evaluations = 0

    def __call__(
        self, windows: Tensor, moment: Moment, canvas: Canvas, halves: Sequence[Half] = ()
    ) -> Prediction:
        """The predictions of the canvas's scaled windows [n, C, h, w], in order; gradient where it is on.

        `halves` asks for other guidance halves than the run's own.
        """
        asked = tuple(halves) or self.halves
        count = len(windows)
        self.windows = max(self.windows, count)
        self._settle(windows, count)
        crops = windows.to(self.family.dtype)
        control = self.conditions.control
        picture = control(canvas, moment.index) if control is not None else None
        parts: list[Tensor] = []
        start = 0
        while start < count:
            chosen = range(start, start + self._next_size(count - start))
            part = self._attempt(crops[chosen.start : chosen.stop], moment, canvas, chosen, asked, picture)
            if part is None:  # from the first window again, so that a step has micro-batches of one size
                parts, start = [], 0
                self.ran_out = moment.index if self.ran_out is None and moment.index else self.ran_out
            else:
                parts.append(part)
                start = chosen.stop
        answers = dict(zip(asked, torch.cat(parts, dim=1), strict=True))
        return Prediction(answers.get("unconditional"), answers.get("conditional"))

    def facts(self) -> dict[str, Any]:
        """What the sampling took: UNet samples evaluated, windows, and the micro-batch it ended with.

        Sums depend on the micro-batch in their last bits; where memory ran out after the first step, earlier
        steps had a larger one.
        """
        late = {} if self.ran_out is None else {"memory_ran_out_at_step": self.ran_out}
        return {
            "unet_evaluations": self.evaluations,
            "windows": self.windows,
            "window_batch": min(self.window_batch, self.windows),
            "guidance_halves_apart": self.halves_apart,
            "control_evaluations": self.control_evaluations,
            **late,
        }

    def _settle(self, windows: Tensor, count: int) -> None:
        """The largest micro-batch, once the windows' size and number are known."""
        if self.together:
            self.window_batch = count
        elif not self.window_batch:
            height, width = windows.shape[-2:]
            self.window_batch = auto_window_batch(self.family, (height, width), count)

    def _next_size(self, left: int) -> int:
        """Micro-batches as even as possible, so that few shapes occur."""
        batches = -(-left // self.window_batch)
        return -(-left // batches)

    def _attempt(
        self,
        crops: Tensor,
        moment: Moment,
        canvas: Canvas,
        chosen: range,
        halves: tuple[Half, ...],
        picture: Picture | None,
    ) -> Tensor | None:
        """The predictions [halves, m, C, h, w], or None after making the next attempt smaller."""
        try:
            groups = [(half,) for half in halves] if self.halves_apart else [halves]
            told = [self.conditions.of(canvas, chosen, group, picture) for group in groups]
            answers = [
                self._forward(crops, moment, condition, len(group))
                for condition, group in zip(told, groups, strict=True)
            ]
            return torch.cat(answers).unflatten(0, (len(halves), -1))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        # Outside the handler, so that the failed forward's tensors are no longer referenced.
        release(self.family.device)
        self._shrink(len(chosen), halves)
        return None

    def _forward(self, crops: Tensor, moment: Moment, condition: Condition, times: int) -> Tensor:
        samples = torch.cat([crops] * times)
        answer = self.denoiser(samples, moment.timestep, replace(condition, guidance=self.guidance))
        self.evaluations += len(samples)
        self.control_evaluations += len(samples) if condition.picture is not None else 0
        return answer

    def _shrink(self, size: int, halves: tuple[Half, ...]) -> None:
        if size > 1 and not self.together:
            self.window_batch = size // 2
        elif not self.halves_apart and len(halves) == 2:
            self.halves_apart = True
        else:
            what = "all windows together, as this method needs," if self.together else "a single window"
            raise UserError(
                f"Not enough memory on {self.family.device} for {what} even one guidance half at a time.",
                hint="Choose a smaller window, a larger stride, a half-precision dtype, or a larger device.",
            )
        logger.warning(
            "out of memory: going on with %d windows at a time%s",
            self.window_batch,
            ", guidance halves apart" if self.halves_apart else "",
        )

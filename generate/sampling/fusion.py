"""The one core of windowed sampling: predict every window in micro-batches, average on the canvas."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from drspo.errors import UserError
from generate.canvas.blend import blend, covered, crop
from generate.canvas.windows import Window
from generate.models.attention import Choose, installed, share_prompts
from generate.models.memory import auto_window_batch, is_out_of_memory, release
from generate.models.prompts import PromptEmbeddings
from generate.sampling.guidance import Condition, guidance_halves, guide, joined

if TYPE_CHECKING:
    from generate.models.family import ModelFamily

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Canvas:
    """A canvas in latents with its windows and their weights."""

    height: int
    width: int
    windows: tuple[Window, ...]
    weights: Tensor
    """W_i of eq. 4, one for all windows, [h, w] on the CPU."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One forward of the UNet: g halves (unconditional first) times m windows, window fastest."""

    samples: Tensor
    """[g * m, C, h, w]"""
    timestep: Tensor
    index: int
    prompt: Tensor
    """[g, T, d]: shared by the windows; networks need `share_prompts` processors to take it."""
    added: dict[str, Any] | None
    """SDXL's pooled text [g * m, p] and time ids [g * m, 6]."""
    windows: Sequence[int]
    """Which windows of the canvas."""


class Control(Protocol):
    """Adds residuals to the UNet, as a ControlNet does; `network` gets the shared-prompt processors too."""

    network: Any

    def __call__(self, evaluation: Evaluation) -> dict[str, Any]: ...


@contextmanager
def windowed(
    family: ModelFamily,
    canvas: Canvas,
    embeddings: PromptEmbeddings,
    *,
    guidance_scale: float,
    guidance_rescale: float = 0.0,
    time_ids: Tensor | None = None,
    window_batch: int = 0,
    together: bool = False,
    attention: Choose = share_prompts,
    control: Control | None = None,
    image_embeds: list[Tensor] | None = None,
) -> Iterator[WindowPredictor]:
    """A predictor over the canvas's windows; the UNet's attention processors are its own inside the block.

    `time_ids` [n, 6] for SDXL. `window_batch` windows go through the UNet at once (0: by free memory); with
    `together` all of them must. `image_embeds` are an IP-Adapter's, each [g, images, dim], unconditional
    first.
    """
    predictor = WindowPredictor(
        family,
        canvas,
        embeddings,
        guidance_scale=guidance_scale,
        guidance_rescale=guidance_rescale,
        time_ids=time_ids,
        window_batch=window_batch,
        together=together,
        control=control,
        image_embeds=image_embeds,
    )
    with ExitStack() as stack:
        stack.enter_context(installed(family.unet, attention))
        if control is not None:
            stack.enter_context(installed(control.network, share_prompts))
        stack.enter_context(torch.no_grad())
        yield predictor


class WindowPredictor:
    """Predicts a canvas window by window in micro-batches, halving them when memory runs out."""

    def __init__(
        self,
        family: ModelFamily,
        canvas: Canvas,
        embeddings: PromptEmbeddings,
        *,
        guidance_scale: float,
        guidance_rescale: float,
        time_ids: Tensor | None,
        window_batch: int,
        together: bool,
        control: Control | None,
        image_embeds: list[Tensor] | None,
    ) -> None:
        self.family, self.canvas, self.control = family, canvas, control
        self.guidance_scale, self.guidance_rescale = guidance_scale, guidance_rescale
        self.together = together
        self.split_halves = False
        self.evaluations = 0
        self.before: Callable[[int], None] | None = None
        count = len(canvas.windows)
        wanted = window_batch or auto_window_batch(family, canvas.windows[0].shape, count)
        self.window_batch = count if together else min(wanted, count)
        self._halves = guidance_halves(family, embeddings, guidance_scale, image_embeds)
        self._joined = joined(self._halves)
        self._time_ids = None if time_ids is None else time_ids.to(family.device)

    def __call__(self, latents: Tensor, timestep: Tensor, index: int) -> Tensor:
        if self.before is not None:
            self.before(index)
        crops = crop(latents, self.canvas.windows)[:, 0].to(self.family.dtype)
        count = len(self.canvas.windows)
        parts: list[Tensor] = []
        start = 0
        while start < count:
            chosen = range(start, start + self._next_size(count - start))
            part = self._attempt(crops[chosen.start : chosen.stop], timestep, index, chosen)
            if part is None:
                continue
            parts.append(part)
            start = chosen.stop
        predictions = torch.cat(parts)[:, None]
        return blend(
            predictions, self.canvas.windows, self.canvas.weights, self.canvas.height, self.canvas.width
        )

    def facts(self) -> dict[str, Any]:
        """What the sampling took: UNet samples evaluated, windows, and the micro-batch it ended with."""
        return {
            "unet_evaluations": self.evaluations,
            "windows": len(self.canvas.windows),
            "window_batch": self.window_batch,
            "guidance_halves_apart": self.split_halves,
        }

    def _next_size(self, left: int) -> int:
        """Micro-batches as even as possible, so that few shapes occur."""
        batches = -(-left // self.window_batch)
        return -(-left // batches)

    def _attempt(self, crops: Tensor, timestep: Tensor, index: int, chosen: range) -> Tensor | None:
        """The guided predictions [m, C, h, w] float32, or None after making the next attempt smaller."""
        try:
            return self._guided(crops, timestep, index, chosen)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        # Outside the handler, so that the failed forward's tensors are no longer referenced.
        release(self.family.device)
        self._shrink(len(chosen))
        return None

    def _shrink(self, size: int) -> None:
        if size > 1 and not self.together:
            self.window_batch = size // 2
        elif not self.split_halves and len(self._halves) == 2:
            self.split_halves = True
        else:
            what = "all windows together, as this method needs," if self.together else "a single window"
            raise UserError(
                f"Not enough memory on {self.family.device} for {what} even one guidance half at a time.",
                hint="Choose a smaller window, a larger stride, a half-precision dtype, or a larger device.",
            )
        logger.warning(
            "out of memory: going on with %d windows at a time%s",
            self.window_batch,
            ", guidance halves apart" if self.split_halves else "",
        )

    def _guided(self, crops: Tensor, timestep: Tensor, index: int, chosen: range) -> Tensor:
        """The guided prediction of some windows, in float32."""
        told = self._halves if self.split_halves else [self._joined]
        answers = torch.cat([self._forward(crops, timestep, index, chosen, one) for one in told])
        if len(self._halves) == 1:
            return answers
        unconditional, conditional = answers.chunk(2)
        return guide(unconditional, conditional, self.guidance_scale, self.guidance_rescale)

    def _forward(self, crops: Tensor, timestep: Tensor, index: int, chosen: range, half: Condition) -> Tensor:
        groups = half.prompt.shape[0]
        samples = torch.cat([crops] * groups)
        evaluation = Evaluation(samples, timestep, index, half.prompt, self._added(half, chosen), chosen)
        residuals = self.control(evaluation) if self.control is not None else {}
        output = self.family.unet(
            samples,
            timestep,
            encoder_hidden_states=half.prompt,
            added_cond_kwargs=evaluation.added,
            return_dict=False,
            **residuals,
        )[0]
        self.evaluations += samples.shape[0]
        result: Tensor = output.float()
        return result

    def _added(self, half: Condition, chosen: range) -> dict[str, Any] | None:
        added: dict[str, Any] = {}
        if half.pooled is not None and self._time_ids is not None:
            added["text_embeds"] = half.pooled.repeat_interleave(len(chosen), dim=0)
            ids = self._time_ids[chosen.start : chosen.stop].repeat(half.prompt.shape[0], 1)
            added["time_ids"] = ids.to(half.pooled.dtype)
        if half.images is not None:
            added["image_embeds"] = half.images
        return added or None


def coverage(canvas: Canvas, device: torch.device) -> Tensor | None:
    """1 where a window reaches and 0 elsewhere, float32 [H, W]; None when everything is covered."""
    mask = covered(canvas.windows, canvas.height, canvas.width, device)
    return None if bool(mask.all()) else mask.float()

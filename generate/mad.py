"""MAD, Merge-Attend-Diffuse: windows attend on the shared canvas (Quattrini et al., ECCV 2024)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from diffusers.models.attention_processor import Attention
from torch import Tensor

from drspo.errors import UserError, did_you_mean
from generate.attention import PromptAttention, attend, project_out, require_simple, share_prompts
from generate.base import PIXELS_PER_LATENT, Callback, Generated, Request
from generate.blend import merge_tokens, split_tokens
from generate.fusion import Canvas, WindowPredictor, coverage, denoise, windowed
from generate.prompts import PromptEmbeddings
from generate.scroll import (
    Sampled,
    WindowSettings,
    canvas_time_ids,
    check_all,
    encode_request,
    first_latents,
    generate_each,
    linear_scheduler,
    plan_canvas,
    reporter,
)
from generate.windows import Window, shrink

if TYPE_CHECKING:
    from generate.models import ModelFamily


@dataclass(frozen=True, kw_only=True)
class Config(WindowSettings):
    """Settings of MAD."""

    threshold: int = -1
    """steps, from the noisy end, whose self-attention is merged on the canvas; -1: half of them"""
    layers: str = "all"
    """layers that merge: all, or the beginnings of their names, such as mid_block,up_blocks.0"""


class MAD:
    """MultiDiffusion whose attention layers see the canvas instead of their window.

    Below the threshold step self-attention merges queries, keys and values; cross-attention merges its
    queries at every step. Convolutions, norms and feed-forward layers stay in their windows.
    """

    name = "mad"
    config_class = Config

    def __init__(self, family: ModelFamily, config: Config | None = None) -> None:
        self.family = family
        self.config = config or Config()

    def generate(self, requests: list[Request], callback: Callback | None = None) -> list[Generated]:
        """One scroll per request, each as if it were alone."""
        self.check(requests)
        return generate_each(
            self.family,
            requests,
            lambda i, r: self.sample(r, callback=callback, request_index=i),
            wrap=self.config.wrap,
        )

    def check(self, requests: list[Request]) -> None:
        """Raises UserError for anything wrong with the requests, before heavy work."""
        check_all(self.family, self.config, requests)
        chosen_layers(self.family.unet, self.config.layers)
        for request in requests:
            linear_scheduler(self.family, self.config.scheduler, request.steps)
            self._canvas(request)

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
        family, config = self.family, self.config
        canvas = self._canvas(request)
        scheduler = linear_scheduler(family, config.scheduler, request.steps)
        start = first_latents(family, request, scheduler) if latents is None else latents
        with merged(
            family,
            canvas,
            embeddings or encode_request(family, config, request),
            guidance_scale=request.guidance_scale,
            layers=config.layers,
            threshold=self.threshold(len(scheduler.timesteps)),
            time_ids=canvas_time_ids(family, config.time_ids, canvas),
        ) as predict:
            final = denoise(
                predict,
                start,
                scheduler,
                keep=coverage(canvas, family.device),
                on_step=reporter(callback, request_index, self.name),
            )
        return Sampled(final, predict.facts())

    def threshold(self, steps: int) -> int:
        """tau: how many of the first steps merge self-attention; by default half (the authors' 25 of 50)."""
        return self.config.threshold if self.config.threshold >= 0 else steps // 2

    def _canvas(self, request: Request) -> Canvas:
        canvas = plan_canvas(self.family, self.config, request.height, request.width)
        require_aligned(canvas, self.family.coarsest)
        return canvas


def require_aligned(canvas: Canvas, coarsest: int) -> None:
    """Raises UserError unless canvas and windows lie on the grid of the UNet's coarsest feature map."""
    sides = {canvas.height, canvas.width, *(s for w in canvas.windows for s in (w.y0, w.x0, *w.shape))}
    if any(side % coarsest for side in sides):
        unit = coarsest * PIXELS_PER_LATENT
        raise UserError(
            f"MAD merges feature maps down to 1/{unit} of the pixels, "
            "and these windows do not lie on that grid.",
            hint=f"Make height, width, window and stride multiples of {unit} pixels.",
        )
    if coverage(canvas, canvas.weights.device) is not None:
        raise UserError(
            "MAD cannot attend to parts of the canvas that no window reaches.", hint="Use edge=flush."
        )


@contextmanager
def merged(
    family: ModelFamily,
    canvas: Canvas,
    embeddings: PromptEmbeddings,
    *,
    layers: str,
    threshold: int,
    **options: Any,
) -> Iterator[WindowPredictor]:
    """A predictor whose windows attend on the canvas; `options` are those of `fusion.windowed`.

    The windows must go through the UNet together; only the guidance halves can be told apart to save memory.
    """
    chosen = chosen_layers(family.unet, layers)
    clock = Clock()

    def choose(name: str, layer: Attention) -> Any:
        if name not in chosen:
            return share_prompts(name, layer)
        require_simple(name, layer)
        if layer.is_cross_attention:
            return CanvasCrossAttention(layer, canvas)
        return CanvasSelfAttention(canvas, clock, threshold)

    with windowed(family, canvas, embeddings, attention=choose, together=True, **options) as predict:
        predict.before = clock.set
        yield predict


def chosen_layers(unet: Any, layers: str) -> set[str]:
    """Names of the attention layers that `layers` selects: "all", or comma-separated beginnings of names."""
    names = [name for name, module in unet.named_modules() if isinstance(module, Attention)]
    if layers == "all":
        return set(names)
    chosen: set[str] = set()
    for start in (part.strip() for part in layers.split(",")):
        found = {name for name in names if start and (name + ".").startswith(start + ".")}
        if not found:
            blocks = sorted({".".join(name.split(".")[:n]) for name in names for n in (1, 2)})
            raise UserError(
                f"No attention layer's name begins with {start!r}.", hint=did_you_mean(start, blocks)
            )
        chosen |= found
    return chosen


class Clock:
    """The sampling step, as the attention layers see it."""

    step = 0

    def set(self, step: int) -> None:
        self.step = step


class Grid:
    """The canvas and its windows at each resolution of the UNet's feature maps."""

    def __init__(self, canvas: Canvas) -> None:
        self.canvas = canvas
        self._at: dict[int, tuple[tuple[Window, ...], int, int]] = {}

    @cached_property
    def count(self) -> int:
        return len(self.canvas.windows)

    def at(self, tokens: int) -> tuple[tuple[Window, ...], int, int]:
        """(windows, height, width) where a window has that many tokens."""
        if tokens not in self._at:
            h, w = self.canvas.windows[0].shape
            factor = round((h * w / tokens) ** 0.5)
            windows = tuple(shrink(window, factor) for window in self.canvas.windows)
            self._at[tokens] = windows, self.canvas.height // factor, self.canvas.width // factor
        return self._at[tokens]

    def merge(self, hidden: Tensor) -> Tensor:
        """Windows' tokens [g * n, L, C] to the canvas's [g, H * W, C]: the mean where windows overlap."""
        tokens, channels = hidden.shape[1:]
        return merge_tokens(hidden.reshape(-1, self.count * tokens, channels), *self.at(tokens))

    def split(self, canvas: Tensor, tokens: int) -> Tensor:
        """The canvas's tokens [g, H * W, C] back to the windows' [g * n, L, C]."""
        return split_tokens(canvas, *self.at(tokens)).reshape(-1, tokens, canvas.shape[-1])


class CanvasSelfAttention:
    """Self-attention over the canvas up to the threshold step, over each window after it.

    MAD averages the windows' queries, keys and values on the canvas. Projections are affine, so the mean of
    projections is the projection of the mean: merging the tokens first gives the same numbers and projects
    each canvas token once instead of once per window. The output projection acts per token, so it goes
    before the split for the same reason.
    """

    def __init__(self, canvas: Canvas, clock: Clock, threshold: int) -> None:
        self.grid, self.clock, self.threshold = Grid(canvas), clock, threshold

    def __call__(
        self, attn: Attention, hidden_states: Tensor, encoder_hidden_states: Any = None, **_: Any
    ) -> Tensor:
        merge = self.clock.step < self.threshold
        tokens = self.grid.merge(hidden_states) if merge else hidden_states
        mixed = attend(attn, attn.to_q(tokens), attn.to_k(tokens), attn.to_v(tokens))
        out = project_out(attn, mixed)
        return self.grid.split(out, hidden_states.shape[1]) if merge else out


class CanvasCrossAttention(PromptAttention):
    """Cross-attention with queries merged on the canvas, at every step; image prompts attend the same way."""

    def __init__(self, layer: Attention, canvas: Canvas) -> None:
        super().__init__(layer)
        self.grid = Grid(canvas)

    def __call__(
        self, attn: Attention, hidden_states: Tensor, encoder_hidden_states: Any = None, **_: Any
    ) -> Tensor:
        query = attn.to_q(self.grid.merge(hidden_states))
        out = project_out(attn, self.attend(attn, query, encoder_hidden_states))
        return self.grid.split(out, hidden_states.shape[1])

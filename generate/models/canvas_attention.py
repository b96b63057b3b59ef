"""Attention over the canvas from inside its windows: tokens are merged, attend together, and are split."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from diffusers.models.attention_processor import Attention
from torch import Tensor

from drspo.errors import UserError
from generate.canvas.blend import merge_tokens, split_tokens
from generate.canvas.plan import Canvas, coverage
from generate.canvas.windows import Window, shrink
from generate.models.attention import (
    PromptAttention,
    attend,
    chosen_layers,
    project_out,
    require_simple,
    rows_of,
    share_prompts,
)


class Merge:
    """Which layers merge, and until when: the `attention` of a denoiser whose windows see the canvas.

    `threshold` counts steps; `step` is the one at hand, which whoever drives the sampling sets. Layers that
    are not chosen work in their windows. UserError for a layer whose arithmetic is not known here.
    """

    def __init__(self, network: Any, canvas: Canvas, layers: str, threshold: int) -> None:
        self.canvas, self.threshold = canvas, threshold
        self.chosen = chosen_layers(network, layers)
        self.step = 0

    def __call__(self, name: str, layer: Attention) -> Any:
        """The processor to install in one layer."""
        if name not in self.chosen:
            return share_prompts(name, layer)
        require_simple(name, layer)
        if layer.is_cross_attention:
            return CanvasCrossAttention(layer, self.canvas)
        return CanvasSelfAttention(self)


def require_aligned(canvas: Canvas, coarsest: int) -> None:
    """Raises UserError unless canvas and windows lie on the grid of the network's coarsest feature map."""
    sides = {canvas.height, canvas.width, *(s for w in canvas.windows for s in (w.y0, w.x0, *w.shape))}
    if any(side % coarsest for side in sides):
        unit = coarsest * canvas.factor
        raise UserError(
            f"MAD merges feature maps down to 1/{unit} of the pixels, "
            "and these windows do not lie on that grid.",
            hint=f"Make height, width, window and stride multiples of {unit} pixels.",
        )
    if coverage(canvas, canvas.weights.device) is not None:
        raise UserError(
            "MAD cannot attend to parts of the canvas that no window reaches.", hint="Use edge=flush."
        )


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

    def __init__(self, merge: Merge) -> None:
        self.grid, self.merge = Grid(merge.canvas), merge

    def __call__(
        self, attn: Attention, hidden_states: Tensor, encoder_hidden_states: Any = None, **_: Any
    ) -> Tensor:
        merge = self.merge.step < self.merge.threshold
        tokens = self.grid.merge(hidden_states) if merge else hidden_states
        mixed = attend(attn, attn.to_q(tokens), attn.to_k(tokens), attn.to_v(tokens))
        out = project_out(attn, mixed)
        return self.grid.split(out, hidden_states.shape[1]) if merge else out


class CanvasCrossAttention(PromptAttention):
    """Cross-attention with queries merged on the canvas, at every step; image prompts attend the same way.

    With one prompt for all windows the canvas attends; where every window has a prompt of its own, the merged
    queries are cut back first, which is the same thing, since a query's output does not depend on others.
    """

    def __init__(self, layer: Attention, canvas: Canvas) -> None:
        super().__init__(layer)
        self.grid = Grid(canvas)

    def __call__(
        self, attn: Attention, hidden_states: Tensor, encoder_hidden_states: Any = None, **_: Any
    ) -> Tensor:
        query, tokens = attn.to_q(self.grid.merge(hidden_states)), hidden_states.shape[1]
        if rows_of(encoder_hidden_states) == query.shape[0]:
            out = project_out(attn, self.attend(attn, query, encoder_hidden_states))
            return self.grid.split(out, tokens)
        return project_out(attn, self.attend(attn, self.grid.split(query, tokens), encoder_hidden_states))

"""Attention over the canvas from inside its windows: tokens are merged, attend together, and are split."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from diffusers.models.attention_processor import Attention
from torch import Tensor

from generate.canvas.blend import merge_tokens, split_tokens
from generate.canvas.windows import Window, shrink
from generate.models.attention import PromptAttention, attend, project_out
from generate.sampling.fusion import Canvas


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

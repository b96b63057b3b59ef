"""Settings that several methods share, below everything that obeys them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from drspo.ranges import Natural, OwnSide
from generate.request import OWN

Edge = Literal["flush", "uncovered"]
WeightKind = Literal["uniform", "gaussian", "feathered"]
TimeIdsMode = Literal["scroll", "window", "crop"]
EmptyNegative = Literal["checkpoint", "zeros", "encoded"]
LongPrompt = Literal["refuse", "truncate", "chunk"]


@dataclass(frozen=True, kw_only=True)
class PromptSettings:
    """How prompts become embeddings."""

    empty_negative: EmptyNegative = "checkpoint"
    """an empty negative prompt: all zeros, encoded like a text, or what the model's settings say"""
    long_prompt: LongPrompt = "refuse"
    """a prompt beyond 77 tokens: refuse it, truncate it with a warning, or chunk it"""


@dataclass(frozen=True, kw_only=True)
class WindowSettings(PromptSettings):
    """How a canvas is cut into windows and put together again."""

    window: OwnSide = OWN
    """side of the square window in pixels; -1: the model's own"""
    stride: OwnSide = OWN
    """from one window to the next in pixels; -1: the model's own, or a quarter of a window that is set"""
    weights: WeightKind = "uniform"
    """W_i of eq. 4: how much each part of a window counts where windows overlap"""
    edge: Edge = "flush"
    """flush: the last window ends at the edge; uncovered: what the stride does not reach stays zero"""
    wrap: bool = False
    """join the left and right ends, for a scroll that closes to a ring"""
    window_batch: Natural = 0
    """windows per forward; 0: as many as half of the free memory holds"""
    scheduler: str = "own"
    """own (ddim; for transformers checkpoint), ddim, euler, pndm, dpmpp_2m, unipc, or checkpoint for what
    the model was published with"""
    time_ids: TimeIdsMode = "window"
    """what SDXL tells a window about sizes: window (an image of its own), scroll, or crop (where it lies)"""

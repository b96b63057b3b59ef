"""What the gradient engine is given, and what it gives back: noisy scrolls that one network sees, a result
each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from generate.canvas.windows import Window

Predict = Callable[[Tensor, list[Window]], Tensor]
Schedule = Literal["stream", "two_pass", "autograd"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One scroll: what the network sees, and what it should say."""

    latents: Tensor
    """Noisy scroll J_t [1, C, H, W]."""
    target: Tensor
    """What a perfect A equals [1, C, H, W]: the noise for an epsilon model (`train.objective.noise` for
    others)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Scrolls at one timestep, seen by one network through the same windows: of a pair the winner, then the
    loser."""

    sides: tuple[Side, ...]
    windows: tuple[Window, ...]
    weights: Tensor
    """W_i [h, w], positive, the same for every window."""
    predict: Predict
    """(crops [n, C, h, w], their windows) -> predictions [n, C, h, w]; knows t, prompt and time ids."""
    micro_batch: int = 1
    """Windows of one scroll per call."""
    together: bool = False
    """Every call holds the windows of all scrolls, the first one's first."""
    error_weight: Literal["uniform", "overlap"] = "uniform"
    error_scale: float = 1.0
    """Constant factor on E (loss_space=epsilon for other targets)."""


@dataclass(frozen=True, slots=True)
class Trainable:
    """The part of the network that learns, and ways to look through it."""

    parameters: Sequence[Tensor]
    off: Callable[[], AbstractContextManager[Any]]
    """Inside, the network is the frozen base: `lambda: reference(network)`."""
    twins: Callable[[], AbstractContextManager[list[Tensor]]] | None = None
    """Inside, each scroll of a call has parameters of its own, given as leaves [scrolls, ...]; None where the
    network cannot. `lambda: twins(network)`."""
    on: Callable[[], AbstractContextManager[Any]] = nullcontext
    """Inside, while its parameters stay, the network computes the same at less cost: `lean(network)`."""


@dataclass(slots=True)
class SideResult:
    """One scroll's error and the gradient of that error by the trainable parameters."""

    error: float
    aggregate: Tensor
    """A [1, C, H, W], detached."""
    grads: list[Tensor]
    """dE/dtheta, one tensor per parameter, in their order."""
    drift: float = 0.0
    """mean (A - A_ref)^2, where an anchor was given."""
    anchor_grads: list[Tensor] | None = None
    """d drift / dtheta."""
    alive_peak: int = 0
    """Most windows of this scroll whose graphs were alive at once."""

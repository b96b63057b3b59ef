"""What the gradient engine is given, and what it gives back: a pair of noisy scrolls, one side of it, a
result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from generate.canvas.windows import Window

Predict = Callable[[Tensor, list[Window]], Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One scroll: what the network sees, what it should say, and how its windows are averaged."""

    latents: Tensor
    """Noisy scroll J_t [1, C, H, W]."""
    target: Tensor
    """What a perfect A equals [1, C, H, W]."""
    windows: tuple[Window, ...]
    weights: Tensor
    """W_i [h, w], positive, the same for every window."""
    predict: Predict
    """(crops [n, C, h, w], their windows) -> predictions [n, C, h, w]; knows t, prompt and time ids."""
    micro_batch: int = 1
    error_weight: Literal["uniform", "overlap"] = "uniform"
    error_scale: float = 1.0
    """Constant factor on E (loss_space=epsilon for other targets)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One preference pair at one timestep: two noisy scrolls with their targets, seen by the same network."""

    latents_w: Tensor
    latents_l: Tensor
    noise_w: Tensor
    """Target of the winner: the noise itself for an epsilon model (`train.objective.noise` for others)."""
    noise_l: Tensor
    windows: tuple[Window, ...]
    weights: Tensor
    predict: Predict
    micro_batch: int = 1
    error_weight: Literal["uniform", "overlap"] = "uniform"
    error_scale: float = 1.0

    def side(self, which: Literal["w", "l"]) -> Side:
        """The winner's or the loser's scroll."""
        latents, target = (self.latents_w, self.noise_w) if which == "w" else (self.latents_l, self.noise_l)
        return Side(
            latents=latents,
            target=target,
            windows=self.windows,
            weights=self.weights,
            predict=self.predict,
            micro_batch=self.micro_batch,
            error_weight=self.error_weight,
            error_scale=self.error_scale,
        )


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
    """Most windows whose graphs were alive at once."""

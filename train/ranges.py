"""The range of every number among the settings; not-a-number and infinity lie in none."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from drspo.errors import UserError
from train.settings import PIXELS_PER_LATENT


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`; `open_low` and `open_high` leave the ends out. Infinity is in none."""

    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False
    besides: tuple[float, ...] = ()
    """Single values that are allowed too."""
    multiple: int = 1
    """What divides a whole number."""

    def holds(self, value: float) -> bool:
        """True where the value may be used; False for not-a-number."""
        if value in self.besides:
            return True
        above = value > self.low if self.open_low else value >= self.low
        below = value < self.high if self.open_high else value <= self.high
        return above and below and math.isfinite(value) and (self.multiple == 1 or value % self.multiple == 0)

    def words(self) -> str:
        """The range as advice."""
        ends = [f"above {self.low:g}" if self.open_low else f"{self.low:g} or more"]
        if math.isfinite(self.high):
            ends.append(f"below {self.high:g}" if self.open_high else f"at most {self.high:g}")
        if self.multiple > 1:
            ends.append(f"a multiple of {self.multiple}")
        others = "".join(f", or {value:g}" for value in self.besides)
        return " and ".join(ends) + others


ANY_COUNT, SOME, SHARE = Range(0), Range(1), Range(0, 1, open_high=True)
NOT_NEGATIVE, POSITIVE = Range(0.0), Range(0.0, open_low=True)
PIXELS = Range(PIXELS_PER_LATENT, besides=(-1,), multiple=PIXELS_PER_LATENT)

RANGES: Mapping[str, Range] = {
    "seed": ANY_COUNT,
    "max_steps": SOME,
    "pairs_per_step": SOME,
    "checkpoint_every": SOME,
    "keep_last": SOME,
    "ema": SHARE,
    "max_bad_steps": SOME,
    "group_timeout": POSITIVE,
    "data.validation_pairs": ANY_COUNT,
    "data.limit": ANY_COUNT,
    "canvas.height": PIXELS,
    "canvas.width": PIXELS,
    "canvas.window": PIXELS,
    "canvas.stride": PIXELS,
    "lora.rank": SOME,
    "lora.alpha": POSITIVE,
    "lora.dropout": SHARE,
    "loss.beta": POSITIVE,
    "loss.beta_reference_numel": ANY_COUNT,
    "loss.label_smoothing": Range(0, 0.5, open_high=True),
    "loss.winner_anchor": NOT_NEGATIVE,
    "loss.reference_anchor": NOT_NEGATIVE,
    "loss.safeguard_margin": SHARE,
    "loss.mapo_beta": POSITIVE,
    "loss.region_weight": NOT_NEGATIVE,
    "optimizer.lr": POSITIVE,
    "optimizer.warmup_steps": ANY_COUNT,
    "optimizer.weight_decay": NOT_NEGATIVE,
    "optimizer.beta1": SHARE,
    "optimizer.beta2": SHARE,
    "optimizer.max_grad_norm": NOT_NEGATIVE,
    "noise.t_min": ANY_COUNT,
    "noise.t_max": ANY_COUNT,
    "memory.window_batch": SOME,
    "validation.every": ANY_COUNT,
    "validation.timesteps": SOME,
    "validation.max_winner_drift": NOT_NEGATIVE,
    "validation.patience": SOME,
    "samples.every": ANY_COUNT,
    "samples.count": ANY_COUNT,
    "samples.steps": SOME,
    "samples.guidance_scale": NOT_NEGATIVE,
    "samples.seed": ANY_COUNT,
    "tracking.log_every": SOME,
}
"""Every number of a configuration, by its dotted name; a test holds that none is missing."""


def numbers(settings: Any, prefix: str = "") -> dict[str, float]:
    """Dotted name -> value of every number in nested settings."""
    found: dict[str, float] = {}
    for field in fields(settings):
        value = getattr(settings, field.name)
        if is_dataclass(value):
            found |= numbers(value, f"{prefix}{field.name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[prefix + field.name] = value
    return found


def check_ranges(settings: Any, prefix: str = "") -> None:
    """Raises `UserError` for the first number that lies outside its range; prefix: "loss." for a part."""
    for name, value in numbers(settings, prefix).items():
        if not RANGES[name].holds(value):
            word = name.rpartition(".")[2]
            raise UserError(
                f"{word} is {value}", f"--{name.replace('_', '-')}", f"use {RANGES[name].words()}"
            )

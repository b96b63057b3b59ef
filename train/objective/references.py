"""What the frozen model says of a noised pair, kept on disk: the same draws ask it nothing again."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass
from typing import Any

import torch
from torch import Tensor

from drspo.hashing import content_hash
from train.config import TrainConfig
from train.engine.problem import Problem
from train.objective.losses import needs_reference
from train.objective.pair import Reference
from train.pairs.cache import TensorCache, cache_folder
from train.pairs.encoders import LENGTH, digest


@dataclass(frozen=True)
class References:
    """A cache of `Reference`, by the content of all that the frozen model is shown.

    Every draw is a function of (seed, step, pair), so a run with another loss, LoRA, learning rate or
    optimiser noises its pairs as the run before did, and the frozen model would repeat itself.
    """

    cache: TensorCache
    """Its folder names the frozen weights, their number format and the kind of device."""
    device: torch.device

    def get(self, key: str, ask: Callable[[], Reference]) -> Reference:
        """What was kept under `key`, or else what `ask()` gives, which is then kept."""
        found = self.find(key)
        if found is None:
            found = ask()
            self.keep(key, found)
        return found

    def find(self, key: str) -> Reference | None:
        """What was kept under `key`, to the bit; None where nothing was, or a damaged file is."""
        kept = self.cache.find(key)
        if kept is None:
            return None
        error_w, error_l = kept["errors"].tolist()
        aggregate_w, aggregate_l = (kept[name].to(self.device) for name in ("aggregate_w", "aggregate_l"))
        return Reference(error_w, error_l, aggregate_w, aggregate_l)

    def keep(self, key: str, seen: Reference) -> None:
        """Writes one; an overflow is not kept, since it may be the machine's and not the model's."""
        if seen.aggregate_w is None or seen.aggregate_l is None:
            raise ValueError("a reference is kept with its averaged predictions")
        if math.isfinite(seen.error_w) and math.isfinite(seen.error_l):
            errors = torch.tensor([seen.error_w, seen.error_l], dtype=torch.float64)
            kept = {"errors": errors, "aggregate_w": seen.aggregate_w, "aggregate_l": seen.aggregate_l}
            self.cache.put(key, kept)

    def summary(self) -> str:
        """How many were there and how many were asked for, in words."""
        counts = self.cache.counts
        return f"{counts['hits']} from the cache, {counts['misses']} asked of the model"


def open_references(config: TrainConfig, family: Any, device: torch.device) -> References | None:
    """The cache of a run's base model; None where the settings want none or the loss asks no reference."""
    if not (config.data.cache_references and needs_reference(config.loss)):
        return None
    mark = content_hash("base-v1", family.fingerprint, str(family.network.dtype), device.type, length=LENGTH)
    return References(TensorCache(cache_folder(config.data.cache), "references", mark), device)


def reference_key(problem: Problem, conditioning: Mapping[str, Tensor], time: float, *, place: object) -> str:
    """A name for everything the frozen model is shown, by content.

    conditioning: the prompt's embeddings; time: the timestep as the network hears it; place: the canvas, and
    how windows hear of it. Whether scrolls share a call is in it because that changes the last bits.
    """
    tensors = {"weights": problem.weights} | dict(conditioning)
    for number, side in enumerate(problem.sides):
        tensors |= {f"latents {number}": side.latents, f"target {number}": side.target}
    windows = [astuple(window) for window in problem.windows]
    how = [problem.micro_batch, problem.together, problem.error_weight, problem.error_scale]
    return content_hash("reference-v2", digest(tensors.items()), json.dumps([windows, how, time, place]))

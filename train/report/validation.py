"""Held-out pairs on a fixed grid of timesteps and noises: the figures that tell whether training works.

The training loss does not (it hovers about ln 2 while preferences improve); held-out accuracy, margin and
above all the winner's drift do.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object

from train.config import TrainConfig
from train.objective.draws import grid_draw, grid_timesteps
from train.objective.pair import Reference
from train.objective.trainee import Trainee
from train.pairs.prepare import PairSet
from train.report.metrics import summarise


class Validator:
    """Measures the network on held-out pairs; the reference's errors are computed once and kept."""

    def __init__(self, trainee: Trainee, pairs: PairSet, accelerator: Any) -> None:
        self.trainee, self.pairs, self.accelerator = trainee, pairs, accelerator
        self.references: dict[tuple[int, int], Reference] = {}

    @torch.no_grad()
    def measure(self) -> dict[str, Any]:
        """The summary over all pairs and timesteps, the same on every process; empty without held-out
        pairs."""
        if not len(self.pairs):
            return {}
        config, process = self.trainee.config, self.trainee.process
        times = grid_timesteps(process.timesteps, config.noise, config.validation.timesteps)
        count, world = len(self.pairs), self.accelerator.num_processes
        # Everybody measures equally often, since a network that is shared out is called by all or by none;
        # what comes after the last pair is measured twice and counted once.
        own = range(self.accelerator.process_index, count + -count % world, world)
        self.trainee.network.eval()
        try:
            measured = [(index, self._measure(index % count, t)) for index in own for t in times]
        finally:
            self.trainee.network.train()
        if self.accelerator.num_processes > 1:
            measured = gather_object(measured)
        # In the order of the pairs, so that the sums do not depend on the number of processes.
        ordered = sorted(
            (item for item in measured if item[0] < count), key=lambda item: (item[0], item[1]["t"])
        )
        record = relative_drift(summarise([metrics for _, metrics in ordered], process.timesteps))
        return record | pair_accuracy(ordered)

    def _measure(self, index: int, t: int) -> dict[str, float]:
        pair = self.pairs[index]
        config = self.trainee.config
        drawn = grid_draw(config.seed, pair.pair_id, t, tuple(pair.latents_w.shape), config.noise)
        kept = self.references.get((index, t))
        result = self.trainee.fitted(pair).errors(pair, drawn, lambda ask: kept or ask())
        if config.loss.reference_anchor == 0:
            # Two floats per point are kept, not the reference's scrolls: so there is no KL proxy here, not
            # even the first time, and a resumed run writes the same records as an unbroken one.
            self.references[index, t] = Reference(result.reference.error_w, result.reference.error_l)
        return {name: value for name, value in result.metrics.items() if not name.startswith("kl_proxy")}


def pair_accuracy(measured: Sequence[tuple[int, dict[str, float]]]) -> dict[str, float]:
    """The share of pairs whose winner has the larger implicit reward, ties counting half; empty without z.

    The reward is an expectation over timesteps and noise (Wallace et al. 2024, eq. 9), here the mean over the
    grid. `accuracy` asks each (t, noise) alone, most of which says little about a picture.
    """
    margins: dict[int, list[float]] = {}
    for index, metrics in measured:
        if math.isfinite(metrics.get("margin", math.nan)):
            margins.setdefault(index, []).append(metrics["margin"])
    if not margins:
        return {}
    right = [0.5 * (1 + np.sign(math.fsum(values))) for values in margins.values()]
    return {"pair_accuracy": float(np.mean(right))}


def relative_drift(record: dict[str, Any]) -> dict[str, Any]:
    """`record` with the winner's drift as a share of the reference's error, the number that early stopping
    watches."""
    if "winner_drift" in record:
        reference = record["error_w"] - record["winner_drift"]
        record["winner_drift_share"] = record["winner_drift"] / reference if reference > 0 else 0.0
    return record


def held_out_line(record: Mapping[str, Any]) -> str:
    """The figures of a measurement in words. What no pair could be measured on is left out: a loss without
    reference has no margin, and nothing is left where no pair gave a finite number."""
    shown = {
        "preference loss": ("preference_loss", "{:.4f}"),
        "accuracy": ("accuracy", "{:.3f}"),
        "of pairs": ("pair_accuracy", "{:.3f}"),
        "margin": ("margin", "{:+.4f}"),
        "winner drift": ("winner_drift_share", "{:+.2%}"),
    }
    found = [f"{word} {form.format(record[key])}" for word, (key, form) in shown.items() if key in record]
    return ", ".join(found) or "no finite figure"


def should_stop(shares: Sequence[float], config: TrainConfig) -> bool:
    """True when the last `patience` measurements all show the winner's error risen beyond the allowed
    share."""
    limit, patience = config.validation.max_winner_drift, max(1, config.validation.patience)
    return limit > 0 and len(shares) >= patience and all(share > limit for share in shares[-patience:])

"""What a step is measured by: averages over its pairs, per timestep bin, and quantiles of the margin."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from drspo.files.storage import Storage
from drspo.memory import peak_resident

BINS = 5
"""Timestep bins of equal width over the schedule."""

Metrics = Mapping[str, float]

AVERAGED = (
    "loss",
    "preference_loss",
    "accuracy",
    "reward_w",
    "reward_l",
    "margin",
    "winner_drift",
    "loser_drift",
    "error_w",
    "error_l",
    "gradient_factor",
    "kl_proxy_w",
    "kl_proxy_l",
    "grad_norm_w",
    "grad_norm_l",
    "grad_cosine",
    "safeguard_scale",
    "region_loss",
    "scroll_loss",
)
_OF_ALL = ("error_w", "error_l", "safeguard_scale", "region_loss", "scroll_loss")
BINNED = tuple(name for name in AVERAGED if name not in _OF_ALL)


def summarise(pairs: Sequence[Metrics], timesteps: int) -> dict[str, Any]:
    """One flat record for a set of measured pairs: means, quantiles of z, and means per timestep bin.

    Every pair carries "t". A pair without a metric (a loss without reference has no margin) does not count
    in its mean; non-finite values count in none, they are reported as `bad`.
    """
    record: dict[str, Any] = {"pairs": len(pairs), "bad": sum(not is_finite(pair) for pair in pairs)}
    record |= _means(pairs, AVERAGED) | _quantiles(pairs)
    for index, members in _by_bin(pairs, timesteps).items():
        low, high = index * timesteps // BINS, (index + 1) * timesteps // BINS - 1
        prefix = f"t{low:03d}-{high:03d}"
        record[f"{prefix}/pairs"] = len(members)
        found = _means(members, BINNED) | _quantiles(members)
        record |= {f"{prefix}/{name}": value for name, value in found.items()}
    return record


def is_finite(pair: Metrics) -> bool:
    """False when the loss or an error of this pair is not a number or infinite."""
    return all(math.isfinite(pair[name]) for name in ("loss", "error_w", "error_l") if name in pair)


def _means(pairs: Sequence[Metrics], names: Iterable[str]) -> dict[str, float]:
    found = {
        name: [pair[name] for pair in pairs if math.isfinite(pair.get(name, math.nan))] for name in names
    }
    # fsum: the mean must not depend on which process measured which pair.
    return {name: math.fsum(values) / len(values) for name, values in found.items() if values}


def _quantiles(pairs: Sequence[Metrics]) -> dict[str, float]:
    values = [pair["z"] for pair in pairs if math.isfinite(pair.get("z", math.nan))]
    if not values:
        return {}
    points = torch.tensor([0.0, 0.1, 0.5, 0.9, 1.0], dtype=torch.float64)
    found = torch.quantile(torch.tensor(values, dtype=torch.float64), points).tolist()
    return dict(zip(("z_min", "z_p10", "z_p50", "z_p90", "z_max"), found, strict=True))


def _by_bin(pairs: Sequence[Metrics], timesteps: int) -> dict[int, list[Metrics]]:
    bins: dict[int, list[Metrics]] = {}
    for pair in pairs:
        bins.setdefault(min(BINS - 1, int(pair["t"]) * BINS // timesteps), []).append(pair)
    return dict(sorted(bins.items()))


def peak_memory(device: torch.device) -> float:
    """Peak memory of this process in MiB: the device's when it is a GPU, else the resident set's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return peak_resident() / 2**20


def forget_peak(device: torch.device) -> float:
    """Peak memory so far in MiB, as `peak_memory` has it; on a GPU a new peak begins."""
    peak = peak_memory(device)
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    return peak


class JsonLines:
    """A file of one JSON record per step that a resumed run cuts back to its checkpoint.

    Records hold only what the mathematics determines; wall time and memory go to a second file, so that the
    first one of a resumed run equals that of an unbroken run byte for byte.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, record: Mapping[str, Any]) -> None:
        """Adds one line."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a") as file:
            file.write(json.dumps(record) + "\n")

    def records(self) -> list[dict[str, Any]]:
        """Every whole line; the last may be cut where a run was killed."""
        if not self.path.exists():
            return []
        found = []
        for line in self.path.read_text().splitlines():
            try:
                found.append(json.loads(line))
            except ValueError:
                break
        return found

    def truncate(self, step: int) -> None:
        """Removes the records after `step`."""
        if self.path.exists():
            kept = [json.dumps(record) + "\n" for record in self.records() if record["step"] <= step]
            Storage(self.path.parent).write(self.path.name, "".join(kept).encode())

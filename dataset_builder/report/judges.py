"""Which judge ranked a data set's pairs, how far the others agree with it, and where they disagree most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dataset_builder.config import score_columns
from drspo.files.parquet import open_parquet
from drspo.files.run import RunDir
from eval import METRICS
from eval.base import metric_class
from eval.settings import named
from pipeline.pairs.pairing import score_weights
from pipeline.settings import PairSettings

COUNTS = ("surplus", "surplus_photo", "repeated_objects")
"""Registered judges that count objects which stand there too often."""


@dataclass(frozen=True, slots=True)
class Judge:
    """One score of a data set and how it sees the pairs."""

    name: str
    weight: float
    """In the ranking that made the pairs; 0 for one that only looked on."""
    counts: bool
    """Whether it counts objects."""
    better: float
    """Share of pairs whose chosen side is the better one by it."""
    equal: float
    worse: float


@dataclass(frozen=True, slots=True)
class Dispute:
    """The pair about which the judges disagree most: shard, row group, row in it, and both sides' scores."""

    place: tuple[str, int, int]
    scores: dict[str, tuple[float, float]]
    """{judge: (chosen, rejected)}."""


def who_judged(
    run: RunDir, shards: Sequence[str], settings: Mapping[str, Any]
) -> tuple[list[Judge], Dispute | None]:
    """Every judge of the exported pairs, and the pair that is disputed most; None where nobody objects."""
    columns = score_columns(settings)
    weights = score_weights(PairSettings(weights=tuple(settings["pairs"]["weights"])), columns)
    voted = settings["pairs"].get("source") == "votes"
    chosen = named(settings["scoring"]["scorers"], "scoring.scorers")
    targets = dict(zip(columns, chosen.values(), strict=True))
    places, differences, scores = _read(run, shards, columns)
    if not places:
        return [], None
    signs = np.array([_sign(targets[name], weights.get(name, 0.0)) for name in columns])
    # A score that `drspo score` could not give is no opinion.
    directed = np.nan_to_num(differences) * signs
    judges = [
        Judge(
            name,
            0.0 if voted else weights.get(name, 0.0),
            targets[name] in COUNTS,
            *(float(share.mean()) for share in (one > 0, one == 0, one < 0)),
        )
        for name, one in zip(columns, directed.T, strict=True)
    ]
    return judges, _dispute(directed, places, scores, columns)


def _dispute(
    directed: np.ndarray, places: list[tuple[str, int, int]], scores: np.ndarray, columns: Sequence[str]
) -> Dispute | None:
    """The pair with the strongest two judges on opposite sides; each in units of its own spread."""
    standard = directed / np.maximum(directed.std(axis=0), 1e-12)
    conflict = np.minimum(standard.max(axis=1), -standard.min(axis=1))
    worst = int(conflict.argmax())
    if conflict[worst] <= 0:
        return None
    both = {name: (float(one[0]), float(one[1])) for name, one in zip(columns, scores[worst], strict=True)}
    return Dispute(places[worst], both)


def _sign(target: str, weight: float) -> float:
    """1 where more is better, -1 where less is; a plugin's goes by its weight: its code is not run here."""
    if target in METRICS:
        return 1.0 if metric_class(target).__dict__.get("higher_is_better", True) is not False else -1.0
    return -1.0 if weight < 0 else 1.0


def _read(
    run: RunDir, shards: Sequence[str], columns: Sequence[str]
) -> tuple[list[tuple[str, int, int]], np.ndarray, np.ndarray]:
    """Places of all pairs, [pairs, judges] chosen less rejected, [pairs, judges, 2] both; by place."""
    places, values = [], []
    for name in shards:
        with run.open(name) as stream:
            file = open_parquet(stream, name)
            for group in range(file.num_row_groups):
                rows = file.read_row_group(group, columns=["chosen_scores", "rejected_scores"]).to_pylist()
                for index, row in enumerate(rows):
                    sides = (dict(row["chosen_scores"]), dict(row["rejected_scores"]))
                    places.append((name, group, index))
                    values.append([[side[column] for side in sides] for column in columns])
    scores = np.array(values, float).reshape(len(values), len(columns), 2)
    return places, scores[..., 0] - scores[..., 1], scores

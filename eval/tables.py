"""Per-image records to tables: means with intervals, paired differences, win rates and average ranks.

The unit is the prompt. Seeds are averaged within their prompt first; a comparison of methods that were not
measured on the same prompts and seeds is refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.stats import rankdata

from drspo.errors import UserError
from eval.statistics import Interval, bootstrap_ci, mean_by_prompt, paired_difference, win_rate


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One number of one image, with everything it depends on."""

    method: str
    prompt: str
    seed: int
    scorer: str
    unit: str
    view: str
    checkpoint: str
    checkpoint_hash: str
    higher_is_better: bool
    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One method under one scorer."""

    method: str
    scorer: str
    mean: Interval
    difference: Interval | None
    """Against the baseline over the same prompts; None for the baseline itself."""
    wins: Interval | None


def check_complete(records: Iterable[Record]) -> None:
    """Nothing when every method was measured on the same prompts and seeds; UserError naming what lacks."""
    cells: dict[tuple[str, str], set[tuple[str, int]]] = {}
    for record in records:
        cells.setdefault((record.scorer, record.method), set()).add((record.prompt, record.seed))
    everything = set().union(*cells.values()) if cells else set()
    for (scorer, method), found in sorted(cells.items()):
        missing = sorted(everything - found)
        if missing:
            prompt, seed = missing[0]
            raise UserError(
                f"{method} lacks {len(missing)} of {len(everything)} images that others were measured on",
                f"{scorer}: for example seed {seed} of {prompt!r}",
                "run the same command again to finish them, or leave the method out",
            )


def table(records: list[Record], baseline: str) -> list[Row]:
    """A row per scorer and method, in order of first appearance."""
    check_complete(records)
    scorers = list(dict.fromkeys(record.scorer for record in records))
    methods = list(dict.fromkeys(record.method for record in records))
    if baseline not in methods:
        raise UserError(f"the baseline {baseline!r} is not among the methods", "", f"choose from {methods}")
    return [_row(records, scorer, method, baseline) for scorer in scorers for method in methods]


def prompt_means(records: list[Record], scorer: str, method: str) -> dict[str, float]:
    """The mean over seeds per prompt of one method under one scorer."""
    chosen = [record for record in records if (record.scorer, record.method) == (scorer, method)]
    return mean_by_prompt([record.prompt for record in chosen], np.array([record.value for record in chosen]))


def _row(records: list[Record], scorer: str, method: str, baseline: str) -> Row:
    ours, theirs = prompt_means(records, scorer, method), prompt_means(records, scorer, baseline)
    sign = next(1 if record.higher_is_better else -1 for record in records if record.scorer == scorer)
    keys = sorted(ours)
    same = method == baseline
    return Row(
        method=method,
        scorer=scorer,
        mean=bootstrap_ci(np.array([ours[key] for key in keys])),
        difference=None if same else paired_difference(ours, theirs),
        wins=None
        if same
        else win_rate(sign * np.array([ours[k] for k in keys]), sign * np.array([theirs[k] for k in keys])),
    )


def average_ranks(records: list[Record], draws: int = 2000, seed: int = 0) -> dict[str, Interval]:
    """Each method's rank averaged over scorers (1 is best, ties share) with a bootstrap over prompts."""
    methods = list(dict.fromkeys(record.method for record in records))
    values = _values(records, methods)
    prompts = values.shape[2]
    picks = np.random.default_rng(seed).integers(0, prompts, (draws, prompts))
    point = _ranks(values.mean(axis=2))
    drawn = np.stack([_ranks(values[:, :, pick].mean(axis=2)) for pick in picks])
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    return {
        method: Interval(float(point[n]), float(low[n]), float(high[n]), prompts)
        for n, method in enumerate(methods)
    }


def _values(records: list[Record], methods: list[str]) -> np.ndarray:
    """[scorers, methods, prompts], signed so that higher is better."""
    scorers = list(dict.fromkeys((record.scorer, record.higher_is_better) for record in records))
    rows = []
    for scorer, higher in scorers:
        means = [prompt_means(records, scorer, method) for method in methods]
        keys = sorted(means[0])
        rows.append([[(1 if higher else -1) * mean[key] for key in keys] for mean in means])
    return np.array(rows)


def _ranks(means: np.ndarray) -> np.ndarray:
    return rankdata(-means, axis=1).mean(axis=0)


def markdown(rows: list[Row], ranks: dict[str, Interval], records: list[Record], baseline: str) -> str:
    """The tables as Markdown, each headed by scorer, unit, view and checkpoint."""
    parts = []
    for scorer in dict.fromkeys(row.scorer for row in rows):
        about = next(record for record in records if record.scorer == scorer)
        better = "higher" if about.higher_is_better else "lower"
        parts.append(
            f"### {scorer}\n\n{about.unit}; view {about.view}; {about.checkpoint} `{about.checkpoint_hash}`; "
            f"{better} is better\n"
        )
        parts.append(f"| method | mean [95 %] | difference to {baseline} [95 %] | wins |\n|---|---|---|---|")
        parts += [_line(row) for row in rows if row.scorer == scorer]
        parts.append("")
    parts.append("### Average rank over scorers\n\n| method | rank [95 %] |\n|---|---|")
    parts += [f"| {method} | {r.mean:.2f} [{r.low:.2f}, {r.high:.2f}] |" for method, r in ranks.items()]
    return "\n".join(parts) + "\n"


def _line(row: Row) -> str:
    mean = f"{row.mean.mean:.4f} [{row.mean.low:.4f}, {row.mean.high:.4f}]"
    if row.difference is None or row.wins is None:
        return f"| {row.method} | {mean} | baseline | |"
    d = row.difference
    return (
        f"| {row.method} | {mean} | {d.mean:+.4f} [{d.low:+.4f}, {d.high:+.4f}] "
        f"| {100 * row.wins.mean:.0f} % [{100 * row.wins.low:.0f}, {100 * row.wins.high:.0f}] |"
    )


def as_json(rows: list[Row], ranks: dict[str, Interval]) -> dict[str, Any]:
    """The same tables for programs."""
    return {
        "rows": [asdict(row) for row in rows],
        "ranks": {name: asdict(rank) for name, rank in ranks.items()},
    }

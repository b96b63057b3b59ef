"""Which ranking makes better pairs: the aesthetic score alone, or less a penalty on surplus objects?

    python -m dataset_builder --config miniature --out runs/pairs --prompts.limit 24
    python -m benchmarks.pair_ranking --run runs/pairs

Takes a run of the builder whose units hold the scores `aesthetic` and `surplus`, pairs its candidates anew by
the builder's own rule at each weight (both scores standardised), and compares what the miniature's detector
sees in the chosen and in the rejected scroll: neither score ever saw a count. Prints for each weight

    objects    surplus objects of the chosen less those of the rejected; below 0 is right
    fewer      of the pairs whose counts differ, the share in which the chosen has fewer
    right      share of pairs in which the chosen shows the scene that was asked for, less the rejected's
    against 0  the difference of `objects` to the aesthetic score alone, on the same prompts

each with a 95 % interval from a bootstrap over prompts.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import polars as pl

from dataset_builder.config import score_columns, settings_of
from drspo.errors import UserError
from drspo.files.pictures import read_picture
from drspo.files.run import RunDir
from eval.base import build_scorer
from pipeline.candidates.plan import planned_hash
from pipeline.pairs.pairing import choose_pairs
from pipeline.settings import PairSettings
from pipeline.units import UnitStore

WEIGHTS = (0.0, 0.25, 0.5, 1.0, 2.0)
Pair = tuple[str, str, str]
"""The prompt's id, the chosen candidate's and the rejected one's."""


def candidates_of(run: RunDir) -> pl.DataFrame:
    """Every scored candidate with its count and whether it shows its scene, as the detector sees it."""
    count, right = build_scorer("repeated_objects"), build_scorer("scene_right")
    rows = []
    store = UnitStore(run, planned_hash(run), score_columns(run.manifest()["config"]))
    for unit in store.done():
        for group in store.read(unit).to_pylist():
            for one in group["candidates"] or []:
                if one["scores"] is None or one["error"]:
                    continue
                picture = read_picture(one["image"]["bytes"], unit)
                facts = {key: group[key] for key in ("unit_id", "prompt_id", "prompt")}
                facts |= {key: one[key] for key in ("candidate_id", "generator", "seed", "height", "width")}
                facts["scores"] = dict(one["scores"]) if isinstance(one["scores"], list) else one["scores"]
                facts["count"] = count.score([picture], [group["prompt"]])[0]
                facts["right"] = right.score([picture], [group["prompt"]])[0]
                rows.append(facts)
    if not rows:
        raise UserError("there is no scored candidate in this run", run.base, "build it first")
    return pl.DataFrame(rows)


def pairs_at(candidates: pl.DataFrame, weight: float, settings: PairSettings) -> list[Pair]:
    """The builder's own pairs when `surplus` is penalised by `weight`."""
    weights = ("aesthetic=1", f"surplus={-weight}") if weight else ("aesthetic=1",)
    scorers = [field.name for field in candidates.schema["scores"].fields]
    chosen = replace(settings, weights=weights, normalise="zscore", min_margin=0.0)
    pairs = choose_pairs(candidates, chosen, scorers)
    return list(pairs.select("prompt_id", "chosen_id", "rejected_id").iter_rows())


def by_prompt(pairs: list[Pair], read: Callable[[str, str], float]) -> dict[str, float]:
    """{prompt: mean of `read(chosen, rejected)`}; NaN says nothing."""
    found: dict[str, list[float]] = {}
    for prompt, chosen, rejected in pairs:
        value = read(chosen, rejected)
        if np.isfinite(value):
            found.setdefault(prompt, []).append(value)
    return {prompt: float(np.mean(values)) for prompt, values in found.items()}


def interval(values: list[float], draws: int = 2000) -> str:
    """The mean with its 95 % interval over prompts; none below five."""
    some = np.array(values)
    if len(some) < 5:
        return f"{some.mean():+.2f}" if len(some) else ""
    rng = np.random.default_rng(0)
    means = some[rng.integers(0, len(some), (draws, len(some)))].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return f"{some.mean():+.2f} [{low:+.2f}, {high:+.2f}]"


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--run", required=True, help="the builder's run folder")
    run = RunDir(parser.parse_args().run)
    said = settings_of(run.manifest())
    if not {"aesthetic", "surplus"} <= set(score_columns(said)):
        raise UserError("this run lacks a score", run.base, "score aesthetic and surplus")
    candidates = candidates_of(run)
    facts = {row["candidate_id"]: row for row in candidates.iter_rows(named=True)}
    method = said["pairs"]
    settings = PairSettings(method=method["method"], k=method["k"], balance=method["balance"])

    def objects(chosen: str, rejected: str) -> float:
        return float(facts[chosen]["count"] - facts[rejected]["count"])

    def fewer(chosen: str, rejected: str) -> float:
        less = objects(chosen, rejected)
        return float(less < 0) if less else float("nan")

    def right(chosen: str, rejected: str) -> float:
        return float(facts[chosen]["right"] - facts[rejected]["right"])

    prompts = candidates["prompt_id"].n_unique()
    print(f"{candidates.height} candidates of {prompts} prompts; pairs by {settings.method}\n")
    print("| weight | pairs | objects | fewer | right | against 0 |\n|---|---|---|---|---|---|")
    alone = by_prompt(pairs_at(candidates, 0.0, settings), objects)
    for weight in WEIGHTS:
        pairs = pairs_at(candidates, weight, settings)
        counts = by_prompt(pairs, objects)
        gain = [value - alone[prompt] for prompt, value in counts.items() if prompt in alone]
        cells = [interval(list(by_prompt(pairs, read).values())) for read in (objects, fewer, right)]
        print(f"| {weight} | {len(pairs)} | {' | '.join(cells)} | {interval(gain) if weight else ''} |")


if __name__ == "__main__":
    main()

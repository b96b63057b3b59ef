"""Do the measures of coherence follow what a detector counts on generated scrolls?

    python -m benchmarks.measures --out runs/measures [--prompts 24] [--first 62000000]
                                  [--methods multidiffusion mad drspo drspo-without-control] [--seeds 1]
    python -m benchmarks.measures --out runs/measures-study --run runs/study/scrolls-1-4 [--methods ...]

Makes the scrolls that the folder lacks (seconds each on an idle core; the same command again continues),
of prompts that no threshold was chosen on, or reads those of a finished benchmark (`--run`, every method
unless some are named), and prints for each measure against the miniature detector's surplus:

    within     Spearman's rho over the scrolls of a prompt, averaged over prompts: does it order the methods?
    partial    correlation of ranks with prompt and method taken out: does it follow the count beyond that?
    knowing    the same two for each method's own mean count, which is all that the first can be reached by
    detector   the detector against itself on the mirrored scroll: what a good measure could reach

with 95 % intervals from a bootstrap over prompts, and the mean of both numbers for each method. Last, what a
penalty on surplus objects does to pairs: of each prompt's scrolls the best and the worst by the aesthetic
score less a weight times the surplus (both standardised), and how many more surplus objects the detector
counts in the best than in the worst.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import rankdata, spearmanr

from drspo.errors import UserError
from drspo.files.pictures import read_picture
from drspo.files.run import RunDir
from eval.base import build_scorer, metric_settings
from eval.benchmark.cells import Cell
from eval.benchmark.records import RECORDS
from eval.benchmark.suite import cells, make_pictures
from eval.config import EvalConfig, Pictures
from eval.metrics.objects import surplus
from miniature.detector import count_objects
from miniature.world import sample_prompt

METHODS = ("multidiffusion", "mad", "drspo", "drspo-without-control")
MEASURES = ("surplus", "seam", "border_seam", "style", "border_frame")


@dataclass(frozen=True)
class Scroll:
    """One generated scroll and everything that was read from it."""

    method: str
    prompt: str
    numbers: dict[str, float]


def painted(chosen: argparse.Namespace) -> tuple[RunDir, list[Cell]]:
    """The folder of the benchmark's own scrolls, made where they are missing, and each of them."""
    folder = Path(chosen.out)
    texts = [sample_prompt(chosen.first + number) for number in range(chosen.prompts)]
    (folder / "prompts.txt").write_text("\n".join(texts) + "\n", encoding="utf-8")
    methods = tuple(chosen.methods or METHODS)
    config = EvalConfig(
        model="miniature",
        methods=methods,
        baseline=methods[0],
        out=chosen.out,
        pictures=Pictures(prompts=(str(folder / "prompts.txt"),), seeds=chosen.seeds),
    )
    run = RunDir(config.out)
    make_pictures(config, run)
    return run, cells(config)


def finished(chosen: argparse.Namespace) -> tuple[RunDir, list[Cell]]:
    """The folder of a finished benchmark and its scrolls, of the methods that were asked for."""
    run = RunDir(chosen.run)
    run.require("eval")
    lines = map(json.loads, run.read(RECORDS).decode().splitlines())
    found = dict.fromkeys(Cell(line["method"], line["prompt"], line["seed"]) for line in lines)
    some = [cell for cell in found if not chosen.methods or cell.method in chosen.methods]
    if not some:
        raise UserError(f"no scroll of {' '.join(chosen.methods)}", chosen.run, "name methods of the run")
    return run, [cell for cell in some if run.exists(cell.name)]


def scrolls(run: RunDir, every: list[Cell]) -> list[Scroll]:
    """Every number of every scroll."""
    scorers = {name: build_scorer(name) for name in MEASURES}
    options = ("aesthetic.view=windows",)
    scorers["aesthetic"] = build_scorer(
        "aesthetic", metric_settings("aesthetic", "aesthetic", model="miniature", options=options)
    )
    out = []
    for cell in every:
        image = read_picture(run.read(cell.name), cell.name)
        numbers = {name: scorer.score([image], [cell.prompt])[0] for name, scorer in scorers.items()}
        pixels = np.asarray(image)
        for name, seen in (("count", pixels), ("detector", np.ascontiguousarray(pixels[:, ::-1]))):
            numbers[name] = float(surplus([here.kind for here in count_objects(seen)]))
        out.append(Scroll(cell.method, cell.prompt, numbers))
    means = {
        method: np.mean([one.numbers["count"] for one in out if one.method == method])
        for method in dict.fromkeys(one.method for one in out)
    }
    for one in out:
        one.numbers["knowing"] = float(means[one.method])
    return out


def within(some: list[Scroll], name: str) -> float:
    """Mean over prompts of Spearman's rho with the count; prompts whose counts are all equal say nothing."""
    rhos = []
    for prompt in dict.fromkeys(one.prompt for one in some):
        own = [one.numbers for one in some if one.prompt == prompt]
        counts, values = [each["count"] for each in own], [each[name] for each in own]
        if len(set(counts)) > 1:
            rhos.append(float(spearmanr(counts, values)[0]) if len(set(values)) > 1 else 0.0)
    return float(np.mean(rhos)) if rhos else float("nan")


def partial(some: list[Scroll], name: str) -> float:
    """Correlation of the ranks of measure and count, means of prompts and methods taken out of both."""
    prompts = sorted({one.prompt for one in some})
    methods = sorted({one.method for one in some})
    design = np.array(
        [[one.prompt == p for p in prompts] + [one.method == m for m in methods] for one in some], float
    )

    def rest(key: str) -> np.ndarray:
        ranks = rankdata([one.numbers[key] for one in some])
        return ranks - design @ np.linalg.lstsq(design, ranks, rcond=None)[0]

    ours, theirs = rest(name), rest("count")
    if min(ours.std(), theirs.std()) < 1e-9:
        return float("nan")
    return float(np.corrcoef(ours, theirs)[0, 1])


def interval(
    some: list[Scroll], read: Callable[[list[Scroll], str], float], name: str, draws: int = 500
) -> str:
    """The number with its 95 % interval over prompts, each drawn prompt counted as one of its own."""
    groups: dict[str, list[Scroll]] = {}
    for one in some:
        groups.setdefault(one.prompt, []).append(one)
    prompts, rng = list(groups), np.random.default_rng(0)
    values = []
    for _ in range(draws):
        drawn = rng.integers(0, len(prompts), len(prompts))
        again = [
            Scroll(one.method, f"{place} {one.prompt}", one.numbers)
            for place, index in enumerate(drawn)
            for one in groups[prompts[index]]
        ]
        values.append(read(again, name))
    known = [value for value in values if np.isfinite(value)]
    if not known:
        return "the same everywhere"
    low, high = np.quantile(known, [0.025, 0.975])
    return f"{read(some, name):+.2f} [{low:+.2f}, {high:+.2f}]"


def pair_counts(some: list[Scroll], weight: float) -> np.ndarray:
    """Per prompt the count of the best less that of the worst, ranked with a penalty of `weight`."""

    def standard(name: str) -> np.ndarray:
        values = np.array([one.numbers[name] for one in some])
        return (values - values.mean()) / max(values.std(), 1e-9)

    scores = standard("aesthetic") - weight * standard("surplus")
    out = []
    for prompt in dict.fromkeys(one.prompt for one in some):
        own = [index for index, one in enumerate(some) if one.prompt == prompt]
        best, worst = max(own, key=lambda i: scores[i]), min(own, key=lambda i: scores[i])
        out.append(some[best].numbers["count"] - some[worst].numbers["count"])
    return np.array(out)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", required=True)
    parser.add_argument("--prompts", type=int, default=24)
    parser.add_argument("--first", type=int, default=62_000_000, help="seed of the first prompt")
    parser.add_argument("--methods", nargs="+", default=[])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--run", default="", help="a finished benchmark whose scrolls are read instead")
    chosen = parser.parse_args()
    folder = Path(chosen.out)
    folder.mkdir(parents=True, exist_ok=True)
    some = scrolls(*(finished(chosen) if chosen.run else painted(chosen)))
    (folder / "numbers.json").write_text(json.dumps([vars(one) for one in some]), encoding="utf-8")
    print(f"{len(some)} scrolls of {len({one.prompt for one in some})} prompts\n")
    print("| measure | within prompts | partial |\n|---|---|---|")
    for name in (*MEASURES, "knowing", "detector"):
        known = "" if name == "knowing" else interval(some, partial, name)
        print(f"| {name} | {interval(some, within, name)} | {known} |")
    print("\n| method | surplus | counted |\n|---|---|---|")
    for method in dict.fromkeys(one.method for one in some):
        own = [one.numbers for one in some if one.method == method]
        ours, theirs = (np.mean([each[key] for each in own]) for key in ("surplus", "count"))
        print(f"| {method} | {ours:.2f} | {theirs:.2f} |")
    print("\n| weight of the penalty | counted, best less worst | best has more | best has fewer |")
    print("|---|---|---|---|")
    for weight in (0.0, 0.5, 1.0, 2.0):
        found = pair_counts(some, weight)
        error = found.std(ddof=1) / len(found) ** 0.5
        print(
            f"| {weight} | {found.mean():+.2f} +- {error:.2f} | {(found > 0).sum()} | {(found < 0).sum()} |"
        )


if __name__ == "__main__":
    main()

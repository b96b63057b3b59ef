"""How many squares do the scorers' networks see when a benchmark is scored, and when it is scored again?

    python -m benchmarks.encodings --out runs/encodings [--scrolls 1000]

Draws scrolls that show different scenes, and scores them with the five scorers of the paper's columns and
with CLIP a second time over windows, which the aesthetic score has already encoded. Counts are of squares
that entered a network, taken at the networks' own door; nothing is timed. Three passes: a new folder; the
same folder again; and the folder without its numbers, where only the embeddings are left.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import shutil
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from drspo.errors import UserError
from drspo.files.run import RunDir
from eval.backbones.embeddings import Backbone, load_backbone
from eval.benchmark.cells import Cell
from eval.benchmark.scores import measure
from eval.config import Judges
from eval.controls.drawn import drawn
from eval.judges import build_judges
from eval.metrics.image_reward import RewardNetwork
from miniature.world import sample_prompt

FIRST = 71_000_000
JUDGES = Judges(
    scorers=("aesthetic", "hps_v2", "pickscore", "image_reward", "clip", "near=clip"),
    options=("near.view=windows",),
    batch=64,
)


@contextlib.contextmanager
def counting(seen: Counter[str]) -> Iterator[None]:
    """Counts the squares that enter an image tower, by the digest of its weights."""
    encode, forward = Backbone._encode, RewardNetwork.forward

    def counted_encode(self: Backbone, which: int, values: torch.Tensor) -> Any:
        seen[self.hash] += len(values) if which == 0 else 0
        return encode(self, which, values)

    def counted_forward(self: RewardNetwork, pixels: torch.Tensor, *rest: Any) -> torch.Tensor:
        seen["image_reward"] += len(pixels)
        return forward(self, pixels, *rest)

    Backbone._encode, RewardNetwork.forward = counted_encode, counted_forward  # type: ignore[method-assign]
    try:
        yield
    finally:
        Backbone._encode, RewardNetwork.forward = encode, forward  # type: ignore[method-assign]


def passed(run: RunDir, cells: list[Cell]) -> dict[str, int]:
    """One pass with new scorers, as a new process has them: squares seen while each scorer was at work."""
    load_backbone.cache_clear()
    judges = build_judges(JUDGES, model="miniature", device="cpu", cache=run.url("cache"))
    found = {}
    for column, judge in judges.items():
        seen: Counter[str] = Counter()
        with counting(seen):
            read = partial(_read, run)
            records = measure({column: judge}, cells, read, run, batch=JUDGES.batch)
        if lost := [record.error for record in records if record.error]:
            raise UserError(f"{len(lost)} scrolls have no number: {lost[0]}", column)
        found[column] = sum(seen.values())
    return found


def _read(run: RunDir, cell: Cell) -> bytes:
    return run.read(cell.name)


def drawings(run: RunDir, count: int) -> list[Cell]:
    """Different scenes in the run folder, each drawn once."""
    cells = [Cell("drawn", sample_prompt(FIRST + number), number) for number in range(count)]
    for cell in cells:
        if not run.exists(cell.name):
            data = io.BytesIO()
            Image.fromarray(drawn(FIRST + cell.seed).clean).save(data, "PNG")
            run.write(cell.name, data.getvalue())
    return cells


def counts(out: str, scrolls: int) -> dict[str, tuple[int, int, int]]:
    """{scorer: squares in the first pass, in the second, and in one that has embeddings and no numbers}."""
    run = RunDir(out)
    cells = drawings(run, scrolls)
    for leftover in ("scores", "cache"):
        shutil.rmtree(Path(out) / leftover, ignore_errors=True)
    first, second = passed(run, cells), passed(run, cells)
    shutil.rmtree(Path(out) / "scores")
    third = passed(run, cells)
    return {column: (first[column], second[column], third[column]) for column in first}


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", required=True)
    parser.add_argument("--scrolls", type=int, default=1000)
    chosen = parser.parse_args()
    print(f"{chosen.scrolls} scrolls; squares that entered a network\n")
    print("| scorer | first run | again | again without the numbers |\n|---|---|---|---|")
    for column, (first, second, third) in counts(chosen.out, chosen.scrolls).items():
        print(f"| {column} | {first} | {second} | {third} |")


if __name__ == "__main__":
    main()

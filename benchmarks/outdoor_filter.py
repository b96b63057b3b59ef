"""Precision and recall of the offline outdoor filter on labelled prompts.

    python -m benchmarks.outdoor_filter [FILE.tsv] [--part held-out|tuning|all] [--wrong]

The file has the columns label (outdoor or other), kind and prompt; without one it is the set beside this
program, 392 prompts of fourteen kinds, written for it. Half of it, by a hash of the prompt, is held out: the
words were chosen without looking at what they do there. `--wrong` prints the mistakes of the tuning part.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.ideas.filters import FilterSettings, OutdoorRules

PROMPTS = Path(__file__).parent / "outdoor_prompts.tsv"


@dataclass(frozen=True)
class Labelled:
    """A prompt, whether it shows an outdoor scene, and of which kind it is."""

    outdoor: bool
    kind: str
    prompt: str

    @property
    def held_out(self) -> bool:
        return hashlib.sha256(self.prompt.encode()).digest()[-1] % 2 == 1


def read(path: Path = PROMPTS) -> list[Labelled]:
    """All labelled prompts of a file."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        return [Labelled(row["label"] == "outdoor", row["kind"], row["prompt"]) for row in rows]


def accepted(prompt: str, undecided: str = "drop") -> bool:
    """Whether the filter keeps an idea."""
    rules = OutdoorRules(FilterSettings(undecided=undecided), lambda: None)  # type: ignore[arg-type]
    return rules({"text": prompt, "expander": ""}) is None


def measure(prompts: Sequence[Labelled], undecided: str = "drop") -> tuple[float, float]:
    """(precision, recall) of the accepted prompts as outdoor scenes."""
    kept = [one for one in prompts if accepted(one.prompt, undecided)]
    right = sum(one.outdoor for one in kept)
    return right / max(len(kept), 1), right / max(sum(one.outdoor for one in prompts), 1)


def main(argv: list[str]) -> int:
    """Print the figures, and of each kind how many were accepted."""
    parser = argparse.ArgumentParser(prog="benchmarks.outdoor_filter")
    parser.add_argument("file", nargs="?", type=Path, default=PROMPTS)
    parser.add_argument("--part", choices=("held-out", "tuning", "all"), default="held-out")
    parser.add_argument("--wrong", action="store_true")
    asked = parser.parse_args(argv)
    wanted = {"held-out": (True,), "tuning": (False,), "all": (True, False)}[asked.part]
    prompts = [one for one in read(asked.file) if one.held_out in wanted]
    for undecided in ("drop", "keep"):
        precision, recall = measure(prompts, undecided)
        print(
            f"{len(prompts)} prompts, undecided={undecided}: precision {precision:.3f}, recall {recall:.3f}"
        )
    kinds = Counter((one.kind, one.outdoor) for one in prompts)
    kept = Counter((one.kind, one.outdoor) for one in prompts if accepted(one.prompt))
    for (kind, outdoor), count in sorted(kinds.items(), key=lambda item: (not item[0][1], item[0][0])):
        print(
            f"  {'outdoor' if outdoor else 'other':8} {kind:10} {kept[kind, outdoor]:4} of {count:4} accepted"
        )
    if asked.wrong:
        for one in prompts:
            if not one.held_out and accepted(one.prompt) != one.outdoor:
                print(f"  wrong: {one.prompt}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

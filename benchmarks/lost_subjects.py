"""Where a scroll's subject goes missing: in its blueprint, or between blueprint and scroll.

    python -m benchmarks.lost_subjects BENCHMARK [--method drspo]

Reads a finished benchmark of the miniature that kept its blueprints. A subject is there when the miniature's
detector finds it; its lines are Canny's pixels around it, all that the second stage's control sees of it.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

from generate.images.lineart import LineArt, draw_lines, enlarge
from miniature.captions import SUBJECT_NOUNS
from miniature.detector import Found, count_objects

FEW = 40  # pixels of lines, below which a subject is as good as not drawn
_ASIDE, _ABOVE = 20, 32  # pixels of the scroll to each side of a subject's centre


def main() -> None:
    """Counts and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("benchmark", type=Path)
    parser.add_argument("--method", default="drspo")
    options = parser.parse_args()
    seen: Counter[str] = Counter()
    for asked in pictures(options.benchmark, options.method):
        seen.update(fate(options.benchmark, asked))
    print(
        f"{options.method}: of {seen['scrolls']} scrolls {seen['shown']} show the asked subject, and "
        f"{seen['planned']} of their blueprints; {seen['lost']} are lost on the way, {seen['won']} are won.\n"
        f"With fewer than {FEW} pixels of lines around it {seen['faint lost']} of {seen['faint']} are lost, "
        f"with more {seen['lost'] - seen['faint lost']} of {seen['planned'] - seen['faint']}."
    )


def pictures(benchmark: Path, method: str) -> list[dict]:
    """The method's scrolls as the benchmark's page lists them."""
    text = (benchmark / "data.js").read_text(encoding="utf-8")
    listed = json.JSONDecoder().raw_decode(text, text.index("{"))[0]["pictures"]
    return [each for each in listed if each["m"] == method]


def fate(benchmark: Path, asked: dict) -> list[str]:
    """What became of one scroll's subject, as the names of the counts that it adds to."""
    subject = next(kind for kind, nouns in SUBJECT_NOUNS.items() if any(noun in asked["p"] for noun in nouns))
    scroll = Image.open(benchmark / asked["file"]).convert("RGB")
    plan = benchmark / "blueprints" / asked["m"] / Path(asked["file"]).name
    blueprint = enlarge(Image.open(plan).convert("RGB"), scroll.height, scroll.width)
    planned, shown = (_named(picture, subject) for picture in (blueprint, scroll))
    counts = ["scrolls"] + ["planned"] * bool(planned) + ["shown"] * bool(shown)
    if shown and not planned:
        counts.append("won")
    if planned:
        faint = lines_around(blueprint, planned[0]) < FEW
        counts += ["faint"] * faint + (["lost"] + ["faint lost"] * faint if not shown else [])
    return counts


def _named(picture: Image.Image, subject: str) -> list[Found]:
    return [here for here in count_objects(np.asarray(picture)) if here.kind == subject]


def lines_around(picture: Image.Image, here: Found) -> int:
    """How many pixels of line art lie around an object."""
    lines = np.asarray(draw_lines(picture, LineArt()))[..., 0] > 0
    top, left = max(0, round(here.y) - _ABOVE), max(0, round(here.x) - _ASIDE)
    return int(lines[top : round(here.y) + _ABOVE, left : round(here.x) + _ASIDE].sum())


if __name__ == "__main__":
    main()

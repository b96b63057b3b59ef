"""May windows on a transformer keep their own positions? Repeated objects with either, on the miniature.

    python -m benchmarks.places [--prompts 6] [--steps 10]

Each prompt is painted in one piece (`direct`), by windows from noise (`multidiffusion`) and along a
blueprint without control (`drspo`, at two strengths), the windows with positions of their own (`window`) and
with those of the canvas (`crop`). Counted as in `benchmarks.strength`: objects beyond the first of a kind,
and the share of scrolls that show the subject they were asked for. +- is the standard error over scrolls.
"""

from __future__ import annotations

import argparse
import statistics
from collections import defaultdict
from typing import Any

from PIL import Image

from benchmarks.strength import FIRST, Point, judge
from generate.methods.drspo.control import Control
from generate.methods.drspo.two_stage import DRSPO, Config
from generate.methods.multidiffusion import Config as Windows
from generate.models.family import load_family
from generate.request import Request, build_generator
from miniature.world import paint, sample_prompt, sample_scene

STRENGTHS = (0.5, 0.7)


def scrolls(family: Any, request: Request) -> dict[str, Image.Image]:
    """One scroll of each way, by its name."""
    made = {"direct": build_generator("direct", family).generate([request])[0].image}
    for mode in ("window", "crop"):
        settings = {"time_ids": mode}
        windowed = build_generator("multidiffusion", family, settings).generate([request])[0]
        made[f"multidiffusion, {mode}"] = windowed.image
    blueprint = DRSPO(family, Config(control=Control(enabled=False))).draw(request).image
    for strength in STRENGTHS:
        for mode in ("window", "crop"):
            windows = Windows(time_ids=mode)
            config = Config(strength=strength, control=Control(enabled=False), windows=windows)
            name = f"drspo without control, strength {strength}, {mode}"
            made[name] = DRSPO(family, config).paint(request, blueprint).image
    return made


def main(arguments: list[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prompts", type=int, default=6)
    parser.add_argument("--steps", type=int, default=10)
    chosen = parser.parse_args(arguments)
    family = load_family("miniature-sd3")
    height, width = family.spec.scroll
    points: dict[str, list[Point]] = defaultdict(list)
    for index in range(FIRST, FIRST + chosen.prompts):
        scene = sample_scene(index, height, width)
        request = Request(
            prompt=sample_prompt(index, height, width), height=height, width=width, steps=chosen.steps,
            guidance_scale=family.spec.guidance_scale,
        )  # fmt: skip
        drawn = Image.fromarray(paint(scene))
        for name, image in scrolls(family, request).items():
            points[name].append(judge(image, scene.subject, drawn))
    print("| | objects too many | subject found | detail |\n|---|---|---|---|")
    for name, found in points.items():
        extras = [point.extra for point in found]
        error = statistics.stdev(extras) / len(extras) ** 0.5
        kept, detail = (statistics.mean(getattr(p, part) for p in found) for part in ("kept", "detail"))
        print(f"| {name} | {statistics.mean(extras):.2f} +- {error:.2f} | {kept:.0%} | {detail:.2f} |")


if __name__ == "__main__":
    main()

"""How far should the windows depart from the blueprint? Repeated objects and detail against `strength`.

    python -m benchmarks.strength [--prompts 12] [--seeds 1] [--json docs/strength.json] [--out
    docs/images/strength.svg]

Every prompt and seed gets one blueprint; from it the high-resolution stage starts at each strength, without
control and with the ControlNet at several scales: about half a minute for a prompt on one idle core. The
prompts are `sample_prompt(2000)`, `2001`, ... Counted by the miniature's detector in each scroll:

    extra     objects of a kind beyond the first, summed over kinds: a scene of this world has one subject and
              one sun or moon, so anything beyond is repetition
    kept      share of scrolls in which the subject that the prompt names is found
    detail    mean absolute Laplacian of the brightness, over that of drawn scenes of the same prompts

The first two are what strength endangers, the third is what it is for. Blueprint (enlarged) and
MultiDiffusion (from noise, no blueprint) are the two ends. The table gives means, and of the first also its
standard error over scrolls.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from generate.images.lineart import LineArt, enlarge
from generate.methods.drspo.control import Control
from generate.methods.drspo.two_stage import DRSPO, Config
from generate.models.family import load_family
from generate.request import Request, build_generator
from miniature.detector import count_objects
from miniature.world import SUBJECTS, paint, sample_prompt, sample_scene

FIRST = 2000


@dataclass(frozen=True)
class Point:
    """One scroll's numbers."""

    extra: int
    kept: bool
    detail: float


def main() -> None:
    """Measures, prints the table, writes the numbers and the curve."""
    options = _options()
    family = load_family("miniature", controlnet=True)
    points: dict[tuple[str, float], list[Point]] = defaultdict(list)
    started = time.monotonic()
    for done, index in enumerate(range(FIRST, FIRST + options.prompts), start=1):
        for seed in range(options.seeds):
            _measure(family, index, seed, options, points)
        passed = time.monotonic() - started
        left = passed * (options.prompts - done) / done
        print(f"{done} of {options.prompts} prompts, {passed:.0f} s, about {left:.0f} s left", flush=True)
    table = {f"{name} @ {strength}": _mean(values) for (name, strength), values in points.items()}
    _print(points)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    settings = {
        "prompts": options.prompts,
        "seeds": options.seeds,
        "first": FIRST,
        "steps": options.steps,
        "lines": options.lines,
        "model": family.fingerprint,
    }
    options.json.write_text(json.dumps({"settings": settings, "table": table}, indent=1) + "\n")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(curve(points))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prompts", type=int, default=12)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--strengths", type=float, nargs="+", default=[0.3, 0.5, 0.7, 1.0])
    parser.add_argument(
        "--scales", type=float, nargs="+", default=[0.0, 0.5, 1.0, 1.5], help="0: without control"
    )
    parser.add_argument(
        "--lines", type=int, nargs=2, default=[LineArt().low, LineArt().high], help="Canny's thresholds"
    )
    parser.add_argument("--pictures", type=Path, help="a folder for every scroll")
    parser.add_argument("--json", type=Path, default=Path("docs/strength.json"))
    parser.add_argument("--out", type=Path, default=Path("docs/images/strength.svg"))
    return parser.parse_args()


def _measure(family: Any, index: int, seed: int, options: argparse.Namespace, points: Any) -> None:
    spec = family.spec
    height, width = spec.scroll
    scene = sample_scene(index, height, width)
    drawn = Image.fromarray(paint(scene))
    request = Request(
        prompt=sample_prompt(index, height, width),
        height=height,
        width=width,
        seed=seed,
        steps=options.steps,
        guidance_scale=spec.guidance_scale,
    )

    def note(name: str, strength: float, image: Image.Image) -> None:
        points[name, strength].append(judge(image, scene.subject, drawn))
        if options.pictures:
            options.pictures.mkdir(parents=True, exist_ok=True)
            image.save(options.pictures / f"{index}-{seed}-{name.replace(' ', '-')}-{strength:.2f}.png")

    note("drawn by the world", 0.0, drawn)
    blueprint = DRSPO(family, Config(control=Control(enabled=False))).draw(request).image
    note("blueprint, enlarged", 0.0, enlarge(blueprint, height, width))
    note("multidiffusion", 1.0, build_generator("multidiffusion", family, {}).generate([request])[0].image)
    for scale in options.scales:
        low, high = options.lines
        control = Control(enabled=scale > 0, scale=scale, lines=LineArt(low=low, high=high))
        name = f"control {scale:g}" if scale else "without control"
        for strength in options.strengths:
            painter = DRSPO(family, Config(strength=strength, control=control))
            note(name, strength, painter.paint(request, blueprint).image)


def judge(image: Image.Image, subject: str, drawn: Image.Image) -> Point:
    """The three numbers of one scroll."""
    counts = Counter(found.kind for found in count_objects(np.asarray(image.convert("RGB"))))
    extra = sum(max(0, counts[name] - 1) for name in SUBJECTS)
    extra += max(0, counts["sun"] + counts["moon"] - 1)
    return Point(extra, counts[subject] > 0, detail(image) / detail(drawn))


def detail(image: Image.Image) -> float:
    """Mean absolute Laplacian of the brightness, in grey levels."""
    grey = cv2.cvtColor(np.asarray(image.convert("RGB")), cv2.COLOR_RGB2GRAY)
    return float(np.abs(cv2.Laplacian(grey, cv2.CV_32F)).mean())


def _mean(values: list[Point]) -> dict[str, float]:
    return {
        "extra": round(statistics.mean(v.extra for v in values), 3),
        "extra_error": round(_standard_error([float(v.extra) for v in values]), 3),
        "kept": round(statistics.mean(v.kept for v in values), 3),
        "detail": round(statistics.mean(v.detail for v in values), 3),
        "scrolls": len(values),
    }


def _standard_error(values: list[float]) -> float:
    return statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0


def _print(points: dict[tuple[str, float], list[Point]]) -> None:
    """The table as the documentation has it."""
    print("| | strength | objects too many | subject found | detail | scrolls |\n|---|---|---|---|---|---|")
    for (name, strength), values in sorted(
        points.items(), key=lambda item: ("control" in item[0][0], item[0])
    ):
        m = _mean(values)
        at = f"{strength:g}" if "control" in name else ""
        extra = f"{m['extra']:.2f} +- {m['extra_error']:.2f}"
        print(f"| {name} | {at} | {extra} | {m['kept']:.0%} | {m['detail']:.2f} | {m['scrolls']} |")


COLOURS = ("#b3552e", "#2e7d8c", "#5a4a9c", "#8a8a2e", "#444444")
PANELS = (
    ("extra", "objects too many per scroll"),
    ("kept", "subject found"),
    ("detail", "detail, of drawn scenes"),
)


def curve(points: dict[tuple[str, float], list[Point]]) -> str:
    """The three measures against strength, a line for each kind of control, as an SVG of its own."""
    lines = sorted({name for name, _ in points if "control" in name})
    body = [panel(points, lines, key, title, 60 + 300 * column) for column, (key, title) in enumerate(PANELS)]
    keys = "".join(
        f'<text x="{60 + 140 * i}" y="262" fill="{COLOURS[i]}">&#9632; {name}</text>'
        for i, name in enumerate(lines)
    )
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 940 275" '
        'font-family="sans-serif" font-size="12">'
        f'<rect width="940" height="275" fill="white"/>{"".join(body)}{keys}'
        '<text x="640" y="262" fill="#777">dashed: the blueprint; dotted: MultiDiffusion</text></svg>\n'
    )


def panel(points: Any, lines: list[str], key: str, title: str, left: float) -> str:
    """One measure; x is strength from 0.25 to 1, y from 0 to the largest mean."""
    means = {k: _mean(v)[key] for k, v in points.items()}
    top = max(1.0, *means.values()) * 1.05

    def place(x: float, y: float) -> str:
        return f"{left + 240 * (x - 0.25) / 0.75:.1f},{210 - 170 * y / top:.1f}"

    parts = [f'<text x="{left}" y="24" font-weight="bold">{title}</text>']
    parts += [_tick(left, 210 - 170 * y / top, f"{y:.2g}") for y in (0.0, top / 2.1, top / 1.05)]
    parts += [
        f'<text x="{place(x, 0).split(",")[0]}" y="228" text-anchor="middle" fill="#777">{x:g}</text>'
        for x in (0.4, 0.6, 0.8, 1.0)
    ]
    for name, style in (("blueprint, enlarged", "7 4"), ("multidiffusion", "2 3")):
        y = next(value for (n, _), value in means.items() if n == name)
        parts.append(_line([place(0.25, y), place(1.0, y)], "#999999", style))
    for index, name in enumerate(lines):
        parts.append(
            _line([place(s, y) for (n, s), y in sorted(means.items()) if n == name], COLOURS[index], "")
        )
    return "".join(parts)


def _line(places: list[str], colour: str, dashes: str) -> str:
    dash = f' stroke-dasharray="{dashes}"' if dashes else ""
    return f'<polyline points="{" ".join(places)}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>'


def _tick(left: float, y: float, text: str) -> str:
    return (
        f'<line x1="{left}" x2="{left + 240}" y1="{y:.1f}" y2="{y:.1f}" stroke="#e4e4e4"/>'
        f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end" fill="#777">{text}</text>'
    )


if __name__ == "__main__":
    main()

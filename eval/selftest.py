"""`python -m eval --selftest`: whether each measure answers to what it is for, and to nothing else.

Every scene is drawn whole (the clean twin) and with each fault that we can draw. A measure passes when each
control it is for is ordered against its twin in at least 95 % of the scenes, and every other control moves
its mean by less than a tenth of what its weakest intended control does. What a measure cannot tell, its
limits, is measured and printed beside it, and decides nothing.
"""

from __future__ import annotations

import argparse
import zlib
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
from PIL import Image

from eval.controls.checks import CHECKS, CONTROLS, DEFAULT, TWINS
from eval.controls.drawn import Drawn, drawn
from eval.metrics.fidelity import fidelity

ORDERED, LEAK = 0.95, 0.10
FIRST_SEED = 95_000_000
"""The first scene; no threshold was chosen on scenes from here on."""


@dataclass(frozen=True, slots=True)
class Line:
    """One control under one measure."""

    measure: str
    control: str
    role: str
    """for, silent or limit."""
    count: int
    shift: float
    """The mean rise over the clean twin."""
    above: float
    """The share of scenes above the twin; equal counts half."""
    passed: bool | None
    """None for a limit."""


def measure_scene(seed: int, names: tuple[str, ...]) -> dict[tuple[str, str], float]:
    """(measure, control) to the rise over the clean twin in one scene; "clean" holds the twin's own value."""
    parts = drawn(seed)
    readers = {name: _reader(name, parts) for name in names}
    out: dict[tuple[str, str], float] = {}

    def values(image: np.ndarray) -> dict[str, float]:
        return {name: read(image) for name, read in readers.items()}

    clean = values(parts.clean)
    out.update({(name, "clean"): value for name, value in clean.items()})
    for control, change in CONTROLS.items():
        image = change(parts, _draws(seed, control))
        if image is None:
            continue
        twin = values(_twin(control, parts, seed)) if control in TWINS else clean
        out.update({(name, control): value - twin[name] for name, value in values(image).items()})
    return out


def _reader(name: str, parts: Drawn) -> Callable[[np.ndarray], float]:
    """The measure's number of a picture; what was lost of the blueprint is read against the clean scene."""
    from eval.base import build_scorer

    if name == "blueprint_loss":
        return lambda image: 1 - fidelity(image, parts.clean)
    scorer = build_scorer(name, dict(CHECKS[name].settings))
    return lambda image: scorer.score([Image.fromarray(image)], [""])[0]


def _twin(control: str, parts: Drawn, seed: int) -> np.ndarray:
    image = TWINS[control](parts, _draws(seed, control))
    assert image is not None, control
    return image


def _draws(seed: int, control: str) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(control.encode())])


def judge(scenes: Iterable[dict[tuple[str, str], float]], names: tuple[str, ...]) -> list[Line]:
    """A line per measure and control, with the verdict."""
    rises: dict[tuple[str, str], list[float]] = {}
    for scene in scenes:
        for key, value in scene.items():
            rises.setdefault(key, []).append(value)
    return [line for name in names for line in _judge_one(name, rises)]


def _judge_one(name: str, rises: dict[tuple[str, str], list[float]]) -> list[Line]:
    check = CHECKS[name]
    shift = {
        control: float(np.mean(rises[name, control])) for control in CONTROLS if (name, control) in rises
    }
    weakest = min(shift[control] for control in check.rises_for)
    lines = []
    for control, mean in shift.items():
        some = np.array(rises[name, control])
        above = float((some > 0).mean() + 0.5 * (some == 0).mean())
        if control in check.rises_for:
            role, passed = "for", above >= ORDERED
        elif control in check.limits:
            role, passed = "limit", None
        else:
            role, passed = "silent", abs(mean) < LEAK * weakest
        lines.append(Line(name, control, role, len(some), mean, above, passed))
    return lines


def run(count: int, names: tuple[str, ...], workers: int = 1, first: int = FIRST_SEED) -> list[Line]:
    """The lines of `count` scenes from seed `first` on, in `workers` processes."""
    seeds = range(first, first + count)
    one = partial(measure_scene, names=names)
    if workers == 1:
        return judge(map(one, seeds), names)
    with ProcessPoolExecutor(workers) as pool:
        return judge(pool.map(one, seeds, chunksize=4), names)


def failures(lines: list[Line]) -> list[str]:
    """A sentence for each control that a measure fails."""
    weakest = {
        line.measure: min(o.shift for o in lines if o.measure == line.measure and o.role == "for")
        for line in lines
    }
    return [
        f"{line.measure} is for {line.control} and rises in {line.above:.0%} of {line.count} scenes"
        if line.role == "for"
        else f"{line.measure} moves by {line.shift:+.3f} for {line.control}; "
        f"a tenth of its weakest intended shift is {LEAK * weakest[line.measure]:.3f}"
        for line in lines
        if line.passed is False
    ]


def markdown(lines: list[Line]) -> str:
    """The tables, one per measure."""
    parts = []
    for name in dict.fromkeys(line.measure for line in lines):
        own = [line for line in lines if line.measure == name]
        verdict = "fails" if failures(own) else "passes"
        parts.append(f"### {name}: {verdict}\n\n| control | role | scenes | mean shift | above its twin | |")
        parts.append("|---|---|---|---|---|---|")
        order = {"for": 0, "silent": 1, "limit": 2}
        for line in sorted(own, key=lambda line: order[line.role]):
            mark = {True: "ok", False: "FAILS", None: ""}[line.passed]
            parts.append(
                f"| {line.control} | {line.role} | {line.count} | {line.shift:+.3f} "
                f"| {line.above:.0%} | {mark} |"
            )
        parts.append("")
    return "\n".join(parts)


def summary(lines: list[Line]) -> str:
    """A row per measure: its weakest intended control, the least ordered one, and what moves it most else."""
    head = "| measure | scenes | weakest intended shift | least ordered | most moved by | passes |"
    rows = [head, "|---|---|---|---|---|---|"]
    for name in dict.fromkeys(line.measure for line in lines):
        own = [line for line in lines if line.measure == name]
        wanted = [line for line in own if line.role == "for"]
        weak, least = min(wanted, key=lambda line: line.shift), min(wanted, key=lambda line: line.above)
        most = max((line for line in own if line.role == "silent"), key=lambda line: abs(line.shift))
        rows.append(
            f"| `{name}` | {max(line.count for line in own)} | {weak.shift:+.3f} ({weak.control}) "
            f"| {least.above:.0%} ({least.control}) | {most.shift:+.3f} ({most.control}) "
            f"| {'no' if failures(own) else 'yes'} |"
        )
    return "\n".join(rows)


def main(argv: list[str]) -> int:
    """Draws the controls, prints the tables, and says which measures fail: 1 then, else 0."""
    parser = argparse.ArgumentParser(
        prog="drspo eval --selftest", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--scenes", type=int, default=400, help="scenes to draw, at least 20")
    parser.add_argument("--measures", nargs="+", choices=sorted(CHECKS), default=DEFAULT)
    parser.add_argument("--workers", type=int, default=1, help="processes")
    parser.add_argument(
        "--photographs", metavar="BACKBONE", help="calibrate surplus_photo for this network instead"
    )
    parser.add_argument("--cache", default="", help="where that is kept: a run's cache folder")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps; for --photographs")
    chosen = parser.parse_args(argv)
    if chosen.photographs:
        return _photographs(chosen.photographs, chosen.cache, chosen.device)
    if chosen.scenes < 20 or chosen.workers < 1:
        parser.error("--scenes must be 20 or more and --workers 1 or more")
    lines = run(chosen.scenes, tuple(chosen.measures), chosen.workers)
    print(f"{markdown(lines)}\n{summary(lines)}\n")
    wrong = failures(lines)
    print("\n".join(wrong) if wrong else "Every measure passes.")
    return 1 if wrong else 0


def _photographs(backbone: str, cache: str, device: str) -> int:
    """Calibrates surplus objects of photographs for a network and prints how its controls come out."""
    from eval.backbones.patches import PatchMaps
    from eval.metrics.calibration import calibrated

    maps = PatchMaps(backbone, "surplus_photo", device)
    found = calibrated(maps, maps.hash, cache)
    print(f"### surplus_photo on {backbone}: {'fails' if found.failures else 'passes'}\n\n{found.table()}\n")
    print(f"floor {found.floor}, likeness {found.gate.low:.2f} to {found.gate.full:.2f}")
    print("\n".join(found.failures) or "Every control comes out: the measure may be printed.")
    return 1 if found.failures else 0

"""The demonstration's page: one self-contained HTML file, pictures and curves inside it."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from drspo.demo import story
from drspo.demo.config import PAGE, SCROLL, STAGES, UNTRAINED, DemoConfig
from drspo.files.run import RunDir
from drspo.files.storage import Storage
from drspo.web import viewer

TITLES = {"blueprint": "The blueprint", "highres": "The windows"}
WIDTH, HEIGHT = 360.0, 150.0
LEFT, RIGHT, TOP, BOTTOM = 46.0, 10.0, 12.0, 24.0


def write_page(run: RunDir, config: DemoConfig, commands: list[str]) -> None:
    """Reads what the phases left in the run folder and writes `index.html` there."""
    import jinja2

    templates = Path(__file__).with_name("templates")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(templates), autoescape=True, undefined=jinja2.StrictUndefined
    )
    text = environment.get_template("demo.html.jinja").render(page(run, config, commands))
    run.write(PAGE, text.encode("utf-8"))


def page(run: RunDir, config: DemoConfig, commands: list[str]) -> dict[str, Any]:
    """Everything the template shows."""
    data = Storage(f"{run.base}/data")
    groups = story.read_groups(data)
    manifest = run.manifest()
    return {
        "viewer": viewer(),
        "prompt": config.prompt,
        "seed": config.seed,
        "prompts": story.read_prompts(data),
        "groups": groups,
        "shown": groups[0],
        "scores": score_range(groups),
        "number": f"%.{decimals(score_range(groups))}f",
        "winners": winners(groups),
        "trainings": [_training(run, stage) for stage in STAGES],
        "pictures": {name: story.picture_source(run.read(file)) for name, file in scroll_files(run).items()},
        "windows": [100 * 32 * index / 512 for index in range(13)],
        "commands": commands,
        "phases": manifest["phases"],
        "versions": manifest["versions"],
        "seconds": sum(facts["seconds"] for facts in manifest["phases"].values()),
    }


def scroll_files(run: RunDir) -> dict[str, str]:
    """The files of the final scroll that exist, by what they show."""
    files = {
        "scroll": SCROLL,
        "blueprint": "scroll.blueprint.png",
        "lines": "scroll.lines.png",
        "untrained": UNTRAINED,
    }
    return {name: file for name, file in files.items() if run.exists(file)}


def score_range(groups: list[story.Group]) -> tuple[float, float]:
    """The smallest and the largest score of all candidates, for the bars."""
    scores = [picture.score for group in groups for picture in group.pictures]
    return min(scores), max(scores)


def decimals(scores: tuple[float, float]) -> int:
    """How many decimals tell the scores of the page apart."""
    low, high = scores
    return 2 if high - low >= 0.2 else 4


def winners(groups: list[story.Group]) -> list[tuple[str, float, int, int]]:
    """Per generator: its mean score, and how often it was chosen and rejected; the best mean first."""
    rows = []
    pictures = [picture for group in groups for picture in group.pictures]
    for generator in sorted({picture.generator for picture in pictures}):
        own = [picture for picture in pictures if picture.generator == generator]
        roles = [picture.role for picture in own]
        mean = statistics.fmean(picture.score for picture in own)
        rows.append((generator, mean, roles.count("chosen"), roles.count("rejected")))
    return sorted(rows, key=lambda row: -row[1])


def _training(run: RunDir, stage: str) -> dict[str, Any]:
    told = story.read_training(run, stage)
    return {"title": TITLES[stage], "facts": told.facts, "curves": [drawn(curve) for curve in told.curves]}


def drawn(curve: story.Curve) -> dict[str, Any]:
    """A curve as coordinates of a small chart: points, a running mean, the untrained level, the axes."""
    low = min(*curve.values, curve.level)
    high = max(*curve.values, curve.level)
    room = 0.08 * (high - low) or 0.1
    low, high = low - room, high + room
    last = max(curve.steps[-1], 2)

    def place(step: float, value: float) -> tuple[float, float]:
        x = LEFT + (WIDTH - LEFT - RIGHT) * (step - 1) / (last - 1)
        y = TOP + (HEIGHT - TOP - BOTTOM) * (high - value) / (high - low)
        return round(x, 1), round(y, 1)

    points = [place(step, value) for step, value in zip(curve.steps, curve.values, strict=True)]
    smooth = [place(step, value) for step, value in zip(curve.steps, running_mean(curve.values), strict=True)]
    return {
        "title": curve.title,
        "note": curve.note,
        "points": points,
        "line": " ".join(f"{x},{y}" for x, y in smooth),
        "level": place(1, curve.level)[1],
        "ticks": [(place(1, value)[1], f"{value:.3g}") for value in (low + room, high - room)],
        "last": last,
        "size": (WIDTH, HEIGHT, LEFT, RIGHT, BOTTOM),
    }


def running_mean(values: tuple[float, ...], reach: int = 2) -> list[float]:
    """Each value averaged with up to `reach` neighbours on both sides."""
    return [
        statistics.fmean(values[max(0, index - reach) : index + reach + 1]) for index in range(len(values))
    ]

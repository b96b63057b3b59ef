"""The page of a training: what it learnt, what it draws, what was dropped and why, from its files alone."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2

from drspo.files.lora import FACTS
from drspo.files.run import CONFIG, RunDir
from drspo.web import viewer
from train.report.lines import Point, binned, draw, share
from train.report.metrics import JsonLines

EXAMPLES = 5
"""Rows shown of each reason for which pairs were dropped."""
STEPS = (
    ("preference_loss", "preference loss, of the steps' own pairs"),
    ("accuracy", "implicit accuracy, of the steps' own pairs"),
    ("margin", "margin z, of the steps' own pairs"),
    ("winner_drift", "winner drift: its error less the frozen model's"),
    ("grad_norm", "gradient norm before clipping"),
    ("lr", "learning rate"),
)
HELD_OUT = (
    ("preference_loss", "held-out preference loss"),
    ("margin", "held-out margin z"),
    ("winner_drift_share", "held-out winner drift, in the frozen model's error"),
)
SHARES = (("accuracy", "held-out implicit accuracy"), ("pair_accuracy", "held-out accuracy of pairs"))


@dataclass
class Training:
    """Everything on the page."""

    title: str
    done: int
    asked: int
    facts: dict[str, str]
    held_out: list[str]
    steps: list[str]
    samples: list[tuple[int, list[str]]] = field(default_factory=list)
    """(step, the pictures' places beside the run), the last one first"""
    prompts: list[str] = field(default_factory=list)
    dropped: dict[str, list[str]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    settings: str = ""


def read_training(folder: Path) -> Training:
    """The page of a run in `folder`, also of one that goes on or was killed. UserError for no run."""
    run = RunDir(folder)
    config = run.require("train")["config"]
    steps, held_out = (JsonLines(folder / name).records() for name in ("metrics.jsonl", "validation.jsonl"))
    timings = JsonLines(folder / "timings.jsonl").records()
    pairs = _pairs(folder)
    samples = _samples(folder)
    dropped = _dropped(folder)
    return Training(
        title=f"stage {config['stage']} of {config['model']}",
        done=max((record["step"] for record in steps), default=0),
        asked=int(config["max_steps"]),
        facts=_facts(folder, pairs, held_out, timings),
        held_out=_held_out(held_out, len(pairs.get("held_out", ()))),
        steps=[*_of_steps(steps), *_speed(timings)],
        samples=samples,
        prompts=_prompts(pairs, config, max((len(row) for _, row in samples), default=0)),
        dropped={reason: rows[:EXAMPLES] for reason, rows in dropped.items()},
        counts={reason: len(rows) for reason, rows in dropped.items()},
        settings=(folder / CONFIG).read_text(encoding="utf-8") if (folder / CONFIG).exists() else "",
    )


def render(training: Training, pictures: str) -> str:
    """The page as HTML; `pictures` leads from it to the run's folder, and nothing else is needed."""
    loader = jinja2.PackageLoader("train.report", "templates")
    page = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    page.filters["place"] = lambda name: escape(quote(f"{pictures}{name}"))
    return page.get_template("training.html.jinja").render(training=training, viewer=viewer())


def _of_steps(records: Sequence[Mapping[str, Any]]) -> list[str]:
    return [draw(title, binned(_values(records, key))) for key, title in STEPS if _values(records, key)]


def _speed(timings: Sequence[Mapping[str, Any]]) -> list[str]:
    values = _values(timings, "seconds")
    return [draw("seconds a step", binned(values))] if values else []


def _held_out(records: Sequence[Mapping[str, Any]], pairs: int) -> list[str]:
    """Shares with the interval of so many pairs: one pair at several timesteps is one case."""
    shares = [
        draw(title, [share(step, value, pairs) for step, value in _values(records, key)])
        for key, title in SHARES
        if pairs
    ]
    others = [
        draw(title, [Point(step, value, value, value) for step, value in _values(records, key)])
        for key, title in HELD_OUT
    ]
    return [drawing for drawing in (*shares, *others) if drawing]


def _values(records: Sequence[Mapping[str, Any]], key: str) -> list[tuple[int, float]]:
    return [(r["step"], float(r[key])) for r in records if isinstance(r.get(key), int | float)]


def _pairs(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """The run's list of its pairs; empty where it has not come so far."""
    place = folder / "pairs.json"
    return dict(json.loads(place.read_text(encoding="utf-8"))) if place.exists() else {}


def _facts(
    folder: Path,
    pairs: Mapping[str, Sequence[Any]],
    held_out: Sequence[Mapping[str, Any]],
    timings: Sequence[Mapping[str, Any]],
) -> dict[str, str]:
    """What stands in the boxes at the top."""
    facts: dict[str, str] = {}
    if pairs:
        facts |= {"training pairs": f"{len(pairs['train']):,}", "held out": f"{len(pairs['held_out']):,}"}
    if held_out and "accuracy" in held_out[-1]:
        facts["held-out accuracy"] = f"{held_out[-1]['accuracy']:.1%}"
    if timings:
        seconds = sorted(record["seconds"] for record in timings)
        facts["seconds a step"] = f"{seconds[len(seconds) // 2]:.2f}"
        facts["peak memory"] = f"{max(record['peak_mib'] for record in timings) / 1024:.1f} GiB"
    if (folder / FACTS).exists():
        facts["LoRA"] = "written"
    return facts


def _samples(folder: Path) -> list[tuple[int, list[str]]]:
    found = []
    for place in sorted((folder / "samples").glob("step-*"), reverse=True):
        if names := [f"samples/{place.name}/{path.name}" for path in sorted(place.glob("*.png"))]:
            found.append((int(place.name.removeprefix("step-")), names))
    return found


def _prompts(pairs: Mapping[str, Sequence[Any]], config: Mapping[str, Any], count: int) -> list[str]:
    """What the samples were asked for: the configured prompts, or the first held-out ones."""
    own = list(config["samples"]["prompts"])
    prompts = own or list(dict.fromkeys(pair["prompt"] for pair in pairs.get("held_out", ())))
    return (prompts + [""] * count)[:count]


def _dropped(folder: Path) -> dict[str, list[str]]:
    """{reason: the rows} of pairs that were not trained on, the most frequent reason first."""
    rows: dict[str, list[str]] = {}
    for record in JsonLines(folder / "dropped.jsonl").records():
        reason = str(record.get("reason", "")).partition(":")[0]
        rows.setdefault(reason, []).append(f"{record.get('pair_id', '')}: {record.get('reason', '')}")
    order = Counter({reason: len(found) for reason, found in rows.items()})
    return {reason: rows[reason] for reason, _ in order.most_common()}

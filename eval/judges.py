"""The metrics that a configuration names, built and checked before anything is made."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from drspo.errors import UserError
from drspo.options import check_options
from eval import METRICS, SCORERS
from eval.base import build_scorer, check_metric, metric_settings
from eval.config import VIEWS, Judges
from eval.settings import named, short_names

PLANS = {
    "miniature": ("repeated_objects", "subject_present", "scene_right", "style", "aesthetic"),
    "": ("surplus", "style"),
}
"""What blueprints are judged by, for each model and for all others: counts where the world is known, and
measures that pass their controls. The first decides, the next where it sees no difference."""
COUNTS = {"repeated_objects", "subject_present", "scene_right", "surplus"}
"""Measures that count, so that a part of one is no difference."""


@dataclass(frozen=True)
class Ranking:
    """What judges say about pictures."""

    scores: dict[str, list[float]]
    """By judge, one number for each picture."""
    order: list[int]
    """The pictures' indices, best first."""


def plan_judges(names: Sequence[str], *, model: str, device: str) -> dict[str, Any]:
    """The judges of blueprints by name, each built; without names those that go with the model."""
    judges = Judges(scorers=tuple(names) or PLANS.get(model, PLANS[""]))
    return build_judges(judges, model=model, device=device)


def rank_plans(judges: Mapping[str, Any], images: list[Image.Image], prompt: str) -> Ranking:
    """Every judge's number of each picture, and the pictures from best to worst.

    The first judge decides; where it sees no difference, or has no number, the next one does; then the order.
    """
    # Pictures of its own for each: a judge may work on them in place.
    scores = {
        name: judge.score([image.copy() for image in images], [prompt] * len(images))
        for name, judge in judges.items()
    }

    def key(index: int) -> list[float]:
        return [*(_cost(judge, name in COUNTS, scores[name][index]) for name, judge in judges.items()), index]

    return Ranking(scores, sorted(range(len(images)), key=key))


def _cost(judge: Any, whole: bool, score: float) -> float:
    """Lower is better; a number that could not be taken is no difference."""
    if math.isnan(score):
        return 0.0
    value = float(round(score)) if whole else score
    return -value if judge.higher_is_better else value


def columns_of(judges: Judges) -> tuple[str, ...]:
    """The names of the score columns, in order. UserError for none, and for two that are equal."""
    if not judges.scorers:
        raise UserError("a benchmark needs a scorer", "judges.scorers", f"for example {' '.join(SCORERS)}")
    if judges.batch < 1:
        raise UserError(f"{judges.batch} pictures at once", "judges.batch", "1 or more")
    columns = short_names([entry.partition("=")[0] for entry in judges.scorers])
    for key, names in (("trained", judges.trained), ("aside", judges.aside)):
        for name in names:
            if name not in (*columns, *METRICS):  # a preset may name what this run leaves out
                where, hint = f"judges.{key}", f"one of {', '.join(columns)}"
                raise UserError(f"{name!r} is no scorer here", where, hint)
    if set(columns) <= set(judges.aside):
        raise UserError("no scorer is left to rank by", "judges.aside", "leave one of them in")
    return columns


def build_judges(judges: Judges, *, model: str, device: str, cache: str = "") -> dict[str, Any]:
    """Every metric by its column's name: settings and files are checked, no network is loaded.

    UserError for an unknown scorer, setting or view, a name used twice, and weights that are missing.
    """
    columns = columns_of(judges)
    chosen = named(judges.scorers, "judges.scorers")
    check_options(judges.options, list(chosen), "judges.options")
    built = {}
    for column, (name, target) in zip(columns, chosen.items(), strict=True):
        shared = {"device": device, "cache": cache} | ({"view": VIEWS[target]} if target in VIEWS else {})
        settings = metric_settings(name, target, model=model, options=judges.options, shared=shared)
        built[column] = build_scorer(target, settings)
        check_metric(built[column], target)
    return built

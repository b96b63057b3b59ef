"""The metrics that a configuration names, built and checked before anything is made."""

from __future__ import annotations

from typing import Any

from drspo.errors import UserError
from drspo.options import check_options
from eval import SCORERS
from eval.base import build_scorer, check_metric, metric_settings
from eval.config import VIEWS, Judges
from eval.settings import named, short_names


def columns_of(judges: Judges) -> tuple[str, ...]:
    """The names of the score columns, in order. UserError for none, and for two that are equal."""
    if not judges.scorers:
        raise UserError("a benchmark needs a scorer", "judges.scorers", f"for example {' '.join(SCORERS)}")
    if judges.batch < 1:
        raise UserError(f"{judges.batch} pictures at once", "judges.batch", "1 or more")
    columns = short_names([entry.partition("=")[0] for entry in judges.scorers])
    for key, names in (("trained", judges.trained), ("aside", judges.aside)):
        for name in names:
            if name not in columns:
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

"""A run's scorers by the names of their columns: encoded images of one prompt to numbers.

The builder's scoring stage and `drspo score` call this very class, so that a score added later is the score
that would have been there from the start.
"""

from __future__ import annotations

from typing import Any

from drspo.errors import UserError
from eval.base import build_scorer, metric_settings
from pipeline.candidates.answers import checked_scores
from pipeline.candidates.images import decode
from pipeline.plugins import contained
from pipeline.settings import ScoringSettings


class Judges:
    """The scorers that a configuration names, loaded once. UserError for one without a scorer's contract."""

    def __init__(self, scoring: ScoringSettings, model: str) -> None:
        self.scorers = {}
        for column, (name, target) in zip(scoring.columns, scoring.named.items(), strict=True):
            shared = {"device": "auto"}
            settings = metric_settings(name, target, model=model, options=scoring.options, shared=shared)
            self.scorers[column] = _checked(build_scorer(target, settings), target)

    @property
    def versions(self) -> dict[str, str]:
        """{column: checkpoint, its hash, and the view of the long image}."""
        return {
            column: f"{scorer.checkpoint}@{scorer.checkpoint_hash} view={scorer.view}"
            for column, scorer in self.scorers.items()
        }

    def score(self, images: list[bytes], prompt: str) -> list[dict[str, float]]:
        """{column: score} for each encoded image of the prompt; each scorer sees the decoded stored bytes.

        Scores that are not finite are there too: see `answers.problem`. Raises WrongAnswerError, with the
        column's name, when a scorer fails or gives anything but a number for each image.
        """
        decoded = [decode(data) for data in images]
        columns: dict[str, list[float]] = {}
        for column, scorer in self.scorers.items():
            # What a scorer does to its pictures (a thumbnail, a mark) must not reach the next one.
            own = [image.copy() for image in decoded]
            with contained(column):
                columns[column] = checked_scores(scorer.score(own, [prompt] * len(images)), len(images))
        return [{column: values[i] for column, values in columns.items()} for i in range(len(images))]


def _checked(scorer: Any, target: str) -> Any:
    wanted = ("score", "checkpoint", "checkpoint_hash", "view")
    if lacking := [name for name in wanted if not hasattr(scorer, name)]:
        raise UserError(f"the scorer {target!r} lacks {', '.join(lacking)}", hint="See eval.base.Metric.")
    return scorer

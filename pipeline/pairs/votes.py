"""What people said of two scrolls: a file of lines that is only added to, and the pairs that come of it."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import polars as pl

from drspo.errors import UserError
from drspo.files.storage import Storage
from pipeline.settings import PairSettings

log = logging.getLogger(__name__)
VOTES_NAME = "votes.jsonl"
Verdict = Literal["first", "second", "tie", "bad"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Vote:
    """One judge's word on two scrolls of a prompt; `bad` says that neither is any good."""

    judge: str
    ballot: str
    first: str
    second: str
    verdict: Verdict

    @property
    def is_check(self) -> bool:
        """Whether both were the same scroll, to see if the judge looks."""
        return self.first == self.second


def read_votes(storage: Storage, name: str = VOTES_NAME) -> list[Vote]:
    """The votes that stand: of a judge's several on one ballot the last, unless it was taken back.

    A last line that a kill cut short is left out; UserError for any other that is none of ours.
    """
    return standing(storage.read(name)) if storage.exists(name) else []


def standing(data: bytes) -> list[Vote]:
    """The votes that stand in a file's bytes."""
    lines = data.split(b"\n")
    found: dict[tuple[str, str], Vote] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            _take(json.loads(line), found)
        except (ValueError, KeyError, TypeError) as error:
            if number == len(lines):
                break
            hint = "Take the line out, or restore the file."
            raise UserError(f"line {number} is no vote: {error}", VOTES_NAME, hint) from error
    return list(found.values())


def _take(line: dict[str, Any], found: dict[tuple[str, str], Vote]) -> None:
    key = (str(line["judge"]), str(line["ballot"]))
    if line.get("undone"):
        found.pop(key, None)
        return
    if line["verdict"] not in get_args(Verdict):
        raise ValueError(f"a verdict of {line['verdict']!r}")
    names = ("judge", "ballot", "first", "second", "verdict")
    found[key] = Vote(**{name: str(line[name]) for name in names})  # type: ignore[arg-type]


def tell_what_scores_decide(settings: PairSettings) -> None:
    """Names the settings that weigh scores, such as a preset's, and have no say where votes decide."""
    own = PairSettings()
    idle = [
        name
        for name in ("weights", "method", "k", "normalise")
        if getattr(settings, name) != getattr(own, name)
    ]
    if idle:
        log.info("votes decide: %s have no say", ", ".join(f"pairs.{name}" for name in idle))


def tally(votes: Iterable[Vote]) -> dict[tuple[str, str], dict[str, float]]:
    """(first, second) in the order of their ids -> how many votes each got: first, second, and neither."""
    found: dict[tuple[str, str], dict[str, float]] = {}
    for vote in votes:
        if vote.is_check:
            continue
        turned = vote.first > vote.second
        pair = (vote.second, vote.first) if turned else (vote.first, vote.second)
        other = {"first": "second", "second": "first"}
        verdict = other.get(vote.verdict, vote.verdict) if turned else vote.verdict
        counted = found.setdefault(pair, {"first": 0, "second": 0, "neither": 0})
        counted["neither" if verdict in ("tie", "bad") else verdict] += 1
    return found


def vote_sides(candidates: pl.DataFrame, votes: Sequence[Vote], side: Sequence[str]) -> pl.DataFrame:
    """Every two candidates that a majority tells apart, as `pairing` has its sides.

    A side's score is its share of the votes, in which a tie is half a vote for each; the margin is their
    difference, 1 where all agree. `side` names what a candidate brings along.
    """
    rows = []
    for (first, second), counted in tally(votes).items():
        wins, losses, count = counted["first"], counted["second"], sum(counted.values())
        chosen, rejected = (first, second) if wins > losses else (second, first)
        if wins != losses:
            most, least = (side + counted["neither"] / 2 for side in (max(wins, losses), min(wins, losses)))
            # Of whole votes, so that three of five are 0.2 and not a rounding below it.
            row = (chosen, rejected, most / count, least / count, abs(wins - losses) / count)
            rows.append(row)
    kinds = {"chosen_id": pl.String, "rejected_id": pl.String}
    numbers = dict.fromkeys(("chosen_score", "rejected_score", "margin"), pl.Float64)
    decided = pl.DataFrame(rows, schema={**kinds, **numbers}, orient="row")
    kept = [name for name in side if name not in ("candidate_id", "score")]
    for which in ("chosen", "rejected"):
        brought = candidates.select(
            pl.col("candidate_id").alias(f"{which}_id"), *(pl.col(n).alias(f"{which}_{n}") for n in kept)
        )
        decided = decided.join(brought, on=f"{which}_id", how="inner")
    facts = ("unit_id", "prompt_id", "prompt", "height", "width")
    whole = candidates.select("candidate_id", *facts).rename({"candidate_id": "chosen_id"})
    return decided.join(whole, on="chosen_id", how="inner").with_columns(
        rank=pl.lit(1),
        rank_rejected=pl.lit(2),
    )

"""The pairs that scores or votes decide for, a part of a run in memory at a time, and figures on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import polars as pl

from dataset_builder.report.stats import Figures
from drspo.files.storage import Storage
from pipeline.pairs.added import Added
from pipeline.pairs.pairing import decided_by, deciding_score, pairs_of
from pipeline.pairs.scanned import Scanned
from pipeline.pairs.scores import alive
from pipeline.pairs.votes import Vote
from pipeline.pairs.whole import EqualWins, Whole
from pipeline.settings import PairSettings
from pipeline.spill import Spill

Finish = Callable[[pl.DataFrame, pl.DataFrame, Whole], pl.DataFrame]
"""(candidates with all their scores, their pairs, what is known of all others) -> the pairs as wanted."""


def decided_pairs(
    storage: Storage,
    scanned: Scanned,
    added: Added,
    settings: PairSettings,
    votes: Sequence[Vote],
    figures: Figures,
    finish: Finish,
) -> Iterator[pl.DataFrame]:
    """The pairs of all candidates, in the units' order; figures count all that passes.

    `finish` sees every part once, whether its pairs stay or not. What must be known of all lies on disk.
    """
    figures.decided_by = decided_by(settings, added.scorers)
    whole = Whole.of(lambda: added.join(scanned.alive()), settings, added.scorers, storage.spool)

    def counted() -> Iterator[pl.DataFrame]:
        for part in scanned:
            figures.candidates(part)
            yield alive(part)

    def found() -> Iterator[pl.DataFrame]:
        for scored in added.join(counted()):
            figures.alive(scored.with_columns(deciding_score(scored, settings, added.scorers, whole)))
            yield finish(scored, pairs_of(scored, whole, added.scorers, votes), whole)

    with Spill(storage) as spill:
        left: Iterator[pl.DataFrame] = found()
        if settings.balance == "equal_wins":
            for pairs in left:
                spill.add(pairs)
            keep = EqualWins(lambda: spill, storage.spool)
            left = (keep(pairs) for pairs in spill)
        for pairs in left:
            figures.pairs(pairs)
            yield pairs

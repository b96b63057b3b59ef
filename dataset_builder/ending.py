"""Phase 6: scores of all units to pairs, shards and figures, a part of the run in memory at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from dataset_builder.config import BuildConfig, pairs_hash, pairs_settings, with_added
from dataset_builder.decided import decided_pairs
from dataset_builder.export import Lanes, Writer, conclude, export, group_bytes, with_bytes
from dataset_builder.layouts import PAIRS, RANKING
from dataset_builder.report import stats
from dataset_builder.report.head import README, about_run
from dataset_builder.report.stats import Figures, Prompts
from drspo.errors import UserError
from drspo.files.run import RunDir
from drspo.log import progress
from pipeline.pairs.added import Added
from pipeline.pairs.ranking import rank_groups
from pipeline.pairs.scanned import Scanned
from pipeline.pairs.votes import Vote, read_votes, tell_what_scores_decide
from pipeline.pairs.whole import Whole
from pipeline.units import UnitStore

SCORES_NAME = "scores.parquet"


@dataclass(frozen=True)
class Ended:
    """What came of the units: the pairs of each split, the shards, and how many prompts are dead."""

    pairs: dict[str, int]
    shards: list[str]
    dead: int


class Ending:
    """The end of one run, from what its units say."""

    def __init__(
        self, run: RunDir, store: UnitStore, config: BuildConfig, prompts: Prompts, write: Writer | None
    ) -> None:
        self.run, self.store, self.config, self.write = run, store, config, write
        self.prompts = prompts

    def __call__(self, scanned: Scanned) -> Ended:
        """Store scores, pairs and figures. Raises DamagedFile when an image cannot be read."""
        run, config = self.run, self.config
        run.put(SCORES_NAME, scanned.scores)
        votes = self._votes()
        with (
            Added(run, scanned.alive, self.store.scorers, config.pairs) as added,
            Figures(self.prompts, added.scorers, run.spool) as figures,
            Lanes(run, config.export) as lanes,
        ):

            def finish(scored: pl.DataFrame, pairs: pl.DataFrame, whole: Whole) -> pl.DataFrame:
                groups = rank_groups(scored, config.pairs, added.scorers, whole)
                lanes.add(RANKING, group_bytes(groups, scored))
                return with_bytes(pairs, scored, config.export.pickapic)

            for pairs in decided_pairs(run, scanned, added, config.pairs, votes, figures, finish):
                lanes.add(PAIRS, pairs)
            names = lanes.cut()
            with progress(len(names), "export", "shards") as bar:
                marked = export(self.store, lanes, names, added.scorers, self.write, bar.advance)
            run.write(README, about_run(names, config.export))
            stats.write(run, figures.all(lambda: added.join(scanned.alive())))
        ended = Ended(dict(sorted(figures.splits.items())), names, figures.counts["lost"])
        self._record(ended, votes, added.scorers)
        if marked:
            conclude(run)
        return ended

    def _votes(self) -> list[Vote]:
        if self.config.pairs.source != "votes":
            return []
        votes = read_votes(self.run)
        if not votes:
            hint = f"`drspo vote {self.run.base}` opens the page on which people judge."
            raise UserError("pairs are to come from votes, and nobody has voted yet", self.run.base, hint)
        tell_what_scores_decide(self.config.pairs)
        return votes

    def _record(self, ended: Ended, votes: Sequence[Vote], scorers: Sequence[str]) -> None:
        config = self.config
        facts = {
            "pairs": sum(ended.pairs.values()),
            "shards": len(ended.shards),
            "dead": ended.dead,
            "hash": pairs_hash(config),
        }
        facts |= {"votes": len(votes), "judges": len({vote.judge for vote in votes})} if votes else {}
        settings = {**pairs_settings(config), "scoring": with_added(config.scoring, self.run, scorers)}
        self.run.phase_done("export", **facts, settings=settings)

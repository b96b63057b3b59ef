"""The seven phases, each with a durable boundary: what a phase has stored, no later start does again."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import polars as pl
import pyarrow as pa

from dataset_builder.check import check
from dataset_builder.config import (
    BuildConfig,
    pairs_hash,
    pairs_settings,
    run_hash,
    same_prompts,
    units_hash,
    uses_llm,
    with_added,
)
from dataset_builder.export import export, plan_shards
from dataset_builder.ideas import conclude, count_accepted, texts
from dataset_builder.metrics import Metrics
from dataset_builder.report import stats
from dataset_builder.report.head import README, about_run
from drspo import __version__, consent
from drspo.config import dump
from drspo.errors import UserError
from drspo.files.run import CONFIG, MANIFEST, RunDir
from drspo.log import progress
from pipeline.candidates.actors import StageSpec
from pipeline.candidates.guard import units_with_attempts
from pipeline.candidates.plan import PLAN_NAME, freeze_plan, make_plan, read_plan, todo
from pipeline.candidates.provenance import read_models
from pipeline.checks import check_weights
from pipeline.ideas.blocks import Texts
from pipeline.ideas.finished import PROMPTS_NAME
from pipeline.ideas.prompts import unfinished
from pipeline.pairs.columns import join_added
from pipeline.pairs.pairing import choose_pairs
from pipeline.pairs.ranking import rank_groups
from pipeline.pairs.scores import Scan, scan_units
from pipeline.pairs.votes import read_votes
from pipeline.records import DEAD, OK
from pipeline.tables import parquet
from pipeline.units import DamagedFile, UnitStore, unit_name

log = logging.getLogger(__name__)

SCORES_NAME = "scores.parquet"
# Of a run without images: what another configuration of the images goes on with, and what it replaces.
TEXTS, PLANNED = ("phases/", PROMPTS_NAME), (PLAN_NAME, "attempts/", "models/")
ANSWERS = "cache/llm/"  # each by its own question, so true for any configuration
# So many prompts in a row without a single image say that the set-up is wrong, not the prompts.
HOPELESS = 5

Executor = Callable[[pa.Table | Texts, StageSpec], Iterator[dict[str, Any]]]
"""Makes the units of a table, or of blocks of prompts that it makes too, and gives each one's summary."""


@dataclass
class Outcome:
    """What a run came to."""

    prompts: int = 0
    accepted: int = 0
    made_now: int = 0
    dead: int = 0
    unfinished: int = 0
    pairs: dict[str, int] = field(default_factory=dict)
    shards: list[str] = field(default_factory=list)
    dead_share: float = 0.0


class Build:
    """One start of the builder on one run folder."""

    def __init__(self, config: BuildConfig, execute: Executor) -> None:
        check(config)
        self.config = config
        self.execute = execute
        self.run = RunDir(config.out)
        self.spec = stage_spec(config, self.run.base)
        self.store = UnitStore(self.run, self.spec.config_hash, self.spec.scorers)

    def __call__(self) -> Outcome:
        """All phases, from wherever an earlier start left them."""
        self._begin()
        if uses_llm(self.config) and self.config.until != "prompts" and not self.run.exists(PROMPTS_NAME):
            check_weights(self.config.candidates, self.config.scoring)
        made = self._texts()
        prompts = conclude(self.run, self.config)
        if self.config.until == "prompts":
            return self._stopped(prompts)
        plan = self._plan(prompts)
        made += self._candidates(plan)
        return self._pairs(prompts, plan, made)

    def _texts(self) -> int:
        """Phases 1 to 4, block by block, each painted while the next is asked; gives the units made."""
        if self.run.exists(PROMPTS_NAME):
            return 0
        alone = self.config.until == "prompts" or not self.config.block
        blocks = texts(self.config, self.run.base, alone=alone)
        if not alone:
            return self._make(blocks, len(self.store.done()), 0)
        for _ in self.execute(blocks, self.spec):
            pass
        return 0

    def _stopped(self, prompts: pa.Table) -> Outcome:
        outcome = Outcome(prompts=prompts.num_rows, accepted=count_accepted(prompts))
        self._count_dead(outcome, prompts, 0)
        return outcome

    def _count_dead(self, outcome: Outcome, prompts: pa.Table, dead: int) -> None:
        """Fill in what was lost: here, and before the plan by death or without an answer."""
        early = prompts["status"].to_pylist().count(DEAD)
        outcome.unfinished = unfinished(prompts)
        outcome.dead = dead + early
        lost = outcome.dead + outcome.unfinished
        outcome.dead_share = lost / max(outcome.accepted + early + outcome.unfinished, 1)

    def _begin(self) -> None:
        reusable, stale = self._reusable()
        try:
            continued = self.run.start(
                "dataset_builder",
                self.config,
                run_hash(self.config),
                reusable=reusable,
                stale=stale,
            )
        except FileNotFoundError as error:
            # Writing needs no folder to exist, but it does need the bucket.
            raise UserError(str(error), self.run.base, "Create the bucket, or mend the URL.") from error
        if continued:
            log.info("continuing the run in %s", self.run.base)
            # Pairing, export and resources may change within a run; the file says what the last start used.
            self.run.write(CONFIG, dump(self.config).encode())

    def _reusable(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """What stays true of a folder without images when something else is asked for, and what is replaced.

        With the same prompts these stay. Other prompts replace unfinished ones and those that cost nothing;
        finished ones that a language model was paid for are never removed.
        """
        if not self.run.exists(MANIFEST):
            return (), PLANNED
        manifest = self.run.manifest()
        if same_prompts(self.config, manifest):
            return (*TEXTS, ANSWERS), PLANNED
        paid = "llm" in manifest["phases"].get("prompts", {})
        return (ANSWERS,), PLANNED if paid else (*TEXTS, *PLANNED)

    # Phase 4 -----------------------------------------------------------------------------------

    def _plan(self, prompts: pa.Table) -> pa.Table:
        if self.run.exists(PLAN_NAME):
            return read_plan(self.run)
        plan = make_plan(prompts, self.spec.config_hash, self.config.candidates.prompts_per_unit)
        plan = freeze_plan(self.run, plan)
        self.run.phase_done("plan", units=plan.num_rows, config_hash=self.spec.config_hash)
        return plan

    # Phase 5 -----------------------------------------------------------------------------------

    def _candidates(self, plan: pa.Table) -> int:
        planned = set(plan["unit_id"].to_pylist())
        done, others = self.store.listing()
        for name in [*others, *(unit_name(unit) for unit in sorted(done - planned))]:
            self.store.move_aside(name, "no unit of this run's plan")
        missing = suspects_last(todo(plan, done), units_with_attempts(self.run))
        if not missing.num_rows:
            return 0
        if done:
            log.info("%d of %d units stand already", len(done), plan.num_rows)
        return self._make(missing, plan.num_rows - missing.num_rows, plan.num_rows)

    def _make(self, work: pa.Table | Texts, done: int, total: int) -> int:
        """Units made of a table of them, or of blocks, of which nobody knows yet how many (0) they give."""
        metrics = Metrics(self.run, total, done)
        committed = dead = images = 0
        with progress(total, "images", "units") as bar:
            bar.set(done)
            for unit in self.execute(work, self.spec):
                committed += 1
                dead += unit["dead"]
                images += unit["images"]
                metrics.unit(unit)
                bar.advance(1, **({"dead": dead} if dead else {}))
                if committed >= HOPELESS and not images:
                    raise _hopeless(unit["error"], self.run.base)
        metrics.close()
        return committed

    # Phase 6 -----------------------------------------------------------------------------------

    def _pairs(self, prompts: pa.Table, plan: pa.Table, made: int) -> Outcome:
        for _ in range(3):
            scan = self._scan(plan)
            try:
                if not scan.damaged:
                    return self._export(prompts, scan, made)
                damaged = scan.damaged
            except DamagedFile:
                # An image rotted under intact scores; where one did, others may have.
                damaged = self._check_images(plan)
            for file in damaged:
                self.store.move_aside(file.name, file.why)
            made += self._candidates(plan)
        raise UserError(
            "unit files are damaged again as soon as they are written", self.run.base, "Check the disk."
        )

    def _scan(self, plan: pa.Table) -> Scan:
        return scan_units(self.store, plan["unit_id"].to_pylist())

    def _check_images(self, plan: pa.Table) -> list[DamagedFile]:
        damaged = []
        for unit in plan["unit_id"].to_pylist():
            try:
                self.store.read(unit)
            except DamagedFile as error:
                damaged.append(error)
        return damaged

    def _export(self, prompts: pa.Table, scan: Scan, made: int) -> Outcome:
        config, alive = self.config, scan.alive()
        if len(models := read_models(self.run)) > 1:
            log.warning("images of this run were made by different weights: %s", models)
        outcome = Outcome(prompts=prompts.num_rows, accepted=count_accepted(prompts), made_now=made)
        dead = scan.candidates.filter(pl.col("status") != OK)["prompt_id"].n_unique()
        self._count_dead(outcome, prompts, dead)
        self.run.write(SCORES_NAME, parquet(scan.candidates.to_arrow()))
        votes = read_votes(self.run) if config.pairs.source == "votes" else []
        if config.pairs.source == "votes" and not votes:
            raise _no_votes(self.run.base)
        alive, scorers = join_added(self.run, alive, self.spec.scorers, config.pairs)
        pairs = choose_pairs(alive, config.pairs, scorers, votes)
        groups = rank_groups(alive, config.pairs, scorers)
        shards = plan_shards(pairs, groups, alive, config.export)
        with progress(len(shards), "export", "shards") as bar:
            outcome.shards = export(self.store, shards, scorers, config.export, bar.advance)
        self.run.write(README, about_run(outcome.shards, config.export))
        stats.write(self.run, stats.collect(prompts, scan, alive, pairs, scorers))
        outcome.pairs = dict(pairs.group_by("split").len().sort("split").iter_rows())
        facts = {"pairs": pairs.height, "shards": len(shards), "dead": dead, "hash": pairs_hash(config)}
        facts |= {"votes": len(votes), "judges": len({vote.judge for vote in votes})} if votes else {}
        settings = {**pairs_settings(config), "scoring": with_added(config.scoring, self.run, scorers)}
        self.run.phase_done("export", **facts, settings=settings)
        return outcome


def stage_spec(config: BuildConfig, url: str) -> StageSpec:
    """What the stages are told; the session marks the attempts of this start of the program."""
    return StageSpec(
        url=url,
        candidates=config.candidates,
        scoring=config.scoring,
        guard=config.guard,
        config_hash=units_hash(config),
        code_version=__version__,
        session=uuid.uuid4().hex[:12],
        plugins=consent.allowed(),
    )


def suspects_last(units: pa.Table, suspects: set[str]) -> pa.Table:
    """The units with those last that were in flight when a worker ended: they may end this one too."""
    if not suspects:
        return units
    suspected = pa.array([unit in suspects for unit in units["unit_id"].to_pylist()], pa.bool_())
    return pa.concat_tables([units.filter(pa.compute.invert(suspected)), units.filter(suspected)])


def _no_votes(where: str) -> UserError:
    hint = f"`drspo vote {where}` opens the page on which people judge."
    return UserError("pairs are to come from votes, and nobody has voted yet", where, hint)


def _hopeless(error: str, where: str) -> UserError:
    return UserError(
        f"none of the first prompts gave enough images: {error}",
        where,
        f"Mend it, then `drspo retry-dead {where}` and the same command again.",
    )

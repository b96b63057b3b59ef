"""The seven phases, each with a durable boundary: what a phase has stored, no later start does again."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from dataset_builder.check import check
from dataset_builder.config import BuildConfig, units_hash, uses_llm
from dataset_builder.ending import Ending
from dataset_builder.export import Writer
from dataset_builder.folder import begin, refuse_other_settings
from dataset_builder.ideas import conclude, texts
from dataset_builder.metrics import Metrics
from dataset_builder.report.stats import Prompts
from drspo import __version__, consent
from drspo.errors import UserError
from drspo.files.run import RunDir
from drspo.log import progress
from pipeline.candidates.actors import StageSpec
from pipeline.candidates.guard import units_with_attempts
from pipeline.candidates.plan import PLAN_NAME, freeze_plan, plan_pieces, read_plan, todo
from pipeline.candidates.provenance import SCORERS, read_models
from pipeline.checks import check_weights
from pipeline.ideas.blocks import Texts, finished_blocks
from pipeline.ideas.finished import PROMPTS_NAME
from pipeline.pairs.scanned import Scanned
from pipeline.records import DEAD, UNFINISHED
from pipeline.tables import regrouped
from pipeline.units import DamagedFile, UnitStore, unit_name

log = logging.getLogger(__name__)

# So many prompts in a row without a single image say that the set-up is wrong, not the prompts.
HOPELESS = 5
# Units of a plan that an executor is handed at once: more would be in the driver's memory.
_AT_ONCE = 1 << 16

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

    def __init__(self, config: BuildConfig, execute: Executor, write: Writer | None = None) -> None:
        check(config)
        self.config = config
        self.execute = execute
        self.write = write
        """What writes shards; None: this process."""
        self.run = RunDir(config.out)
        self.spec = stage_spec(config, self.run.base)
        self.store = UnitStore(self.run, self.spec.config_hash, self.spec.scorers)

    def __call__(self) -> Outcome:
        """All phases, from wherever an earlier start left them."""
        self._begin()
        if uses_llm(self.config) and self.config.until != "prompts" and not self.run.exists(PROMPTS_NAME):
            check_weights(self.config.candidates, self.config.scoring)
        made = self._texts()
        refuse_other_settings(self.run, self.config, planned=False)
        prompts = conclude(self.run, self.config)
        if self.config.until == "prompts":
            return self._outcome(prompts)
        self._plan()
        made += self._candidates()
        return self._pairs(prompts, made)

    def _begin(self) -> None:
        begin(self.run, self.config)

    def _texts(self) -> int:
        """Phases 1 to 4, block by block, each painted while the next is asked; gives the units made."""
        if self.run.exists(PROMPTS_NAME):
            return 0
        alone = self.config.until == "prompts" or not self.config.block
        blocks = texts(self.config, self.run.base, alone=alone)
        if not alone:
            return self._make([blocks], len(self.store.done()), 0)
        for _ in self.execute(blocks, self.spec):
            pass
        return 0

    def _outcome(self, prompts: Prompts, dead: int = 0, **what: Any) -> Outcome:
        """What the run came to; lost is what died here or before the plan, or was left without an answer."""
        early, unfinished = prompts.states[DEAD], prompts.states[UNFINISHED]
        lost = dead + early + unfinished
        return Outcome(
            prompts=prompts.rows,
            accepted=prompts.accepted,
            dead=dead + early,
            unfinished=unfinished,
            dead_share=lost / max(prompts.accepted + early + unfinished, 1),
            **what,
        )

    # Phase 4 -----------------------------------------------------------------------------------

    def _plan(self) -> None:
        if self.run.exists(PLAN_NAME):
            return
        blocks = finished_blocks(texts(self.config, self.run.base, alone=True).spec)
        pieces = plan_pieces(blocks, self.spec.config_hash, self.config.candidates.prompts_per_unit)
        freeze_plan(self.run, pieces)
        refuse_other_settings(self.run, self.config)
        units = sum(len(units) for units in self._planned())
        self.run.phase_done("plan", units=units, config_hash=self.spec.config_hash)

    def _planned(self) -> Iterator[list[str]]:
        """The ids of the plan's units, in order, a piece at a time."""
        return (piece["unit_id"].to_pylist() for piece in read_plan(self.run))

    # Phase 5 -----------------------------------------------------------------------------------

    def _candidates(self) -> int:
        planned = sum(len(units) for units in self._planned())
        done, others = self.store.listing()
        refuse_other_settings(self.run, self.config)
        strays = done.besides(self._planned())
        # A plan that was made again may lack a unit that a pack holds; nobody asks for it.
        alone = (unit_name(unit) for unit in strays if not self.store.packs.name(unit))
        for name in [*others, *alone]:
            self.store.move_aside(name, "no unit of this run's plan, nor a pack that says what it holds")
        standing = len(done) - len(strays)
        if standing == planned:
            return 0
        if done:
            log.info("%d of %d units stand already", len(done), planned)
        suspects = units_with_attempts(self.run)
        missing = suspects_last((todo(piece, done) for piece in read_plan(self.run)), suspects)
        return self._make(regrouped(missing, _AT_ONCE), standing, planned)

    def _make(self, works: Iterable[pa.Table | Texts], done: int, total: int) -> int:
        """Units made of tables of them, or of blocks, of which nobody knows yet how many (0) they give."""
        metrics = Metrics(self.run, total, done)
        if not done:  # before any image is judged, a scorer may be another than the last start's
            self.run.delete(SCORERS)
        committed = dead = images = 0
        with progress(total, "images", "units") as bar:
            bar.set(done)
            for unit in (unit for work in works for unit in self.execute(work, self.spec)):
                committed += 1
                dead += unit["dead"]
                images += unit["images"]
                metrics.unit(unit)
                bar.advance(1, **({"dead": dead} if dead else {}))
                if committed == 1:  # from now on no other start can take the folder
                    refuse_other_settings(self.run, self.config)
                if committed >= HOPELESS and not images:
                    raise _hopeless(unit["error"], self.run.base)
        metrics.close()
        return committed

    # Phase 6 -----------------------------------------------------------------------------------

    def _pairs(self, prompts: Prompts, made: int) -> Outcome:
        if len(models := read_models(self.run)) > 1:
            log.warning("images of this run were made by different weights: %s", models)
        end = Ending(self.run, self.store, self.config, prompts, self.write)
        for _ in range(3):
            refuse_other_settings(self.run, self.config)
            units = (unit for units in self._planned() for unit in units)
            with self.run.explained(), Scanned(self.store, units) as scanned:
                damaged = scanned.damaged
                try:
                    if not damaged:
                        ended = end(scanned)
                        facts = {"pairs": ended.pairs, "shards": ended.shards}
                        return self._outcome(prompts, ended.dead, made_now=made, **facts)
                except DamagedFile:
                    # An image rotted under intact scores; where one did, others may have.
                    damaged = self._check_images()
            refuse_other_settings(self.run, self.config)
            for name, why in {file.name: file.why for file in damaged}.items():
                self.store.move_aside(name, why)
            made += self._candidates()
        raise UserError(
            "unit files are damaged again as soon as they are written", self.run.base, "Check the disk."
        )

    def _check_images(self) -> list[DamagedFile]:
        with ThreadPoolExecutor(4) as pool:
            parts = (units[at : at + 64] for units in self._planned() for at in range(0, len(units), 64))
            found = (error for part in parts for error in pool.map(self._damage, part))
            return [error for error in found if error]

    def _damage(self, unit: str) -> DamagedFile | None:
        try:
            self.store.read(unit)
        except DamagedFile as error:
            return error
        return None


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


def suspects_last(pieces: Iterable[pa.Table], suspects: set[str]) -> Iterator[pa.Table]:
    """The units with those last that were in flight when a worker ended: they may end this one too."""
    last = []
    for units in pieces:
        suspected = pa.array([unit in suspects for unit in units["unit_id"].to_pylist()], pa.bool_())
        yield units.filter(pa.compute.invert(suspected))
        last.append(units.filter(suspected))
    yield from (units for units in last if units.num_rows)


def _hopeless(error: str, where: str) -> UserError:
    return UserError(
        f"none of the first prompts gave enough images: {error}",
        where,
        f"Mend it, then `drspo retry-dead {where}` and the same command again.",
    )

"""`drspo score RUN --scoring.scorers hps_v2 pickscore`: more scores for the images of a finished run.

Nothing that stands is changed: each scorer becomes a column in files of its own, which pairing can use like
any other. The same command again goes on where it ended, and tries again what had no number.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import polars as pl

from dataset_builder.folder import command
from dataset_builder.unscored import Images
from drspo import log as logs
from drspo.config import load
from drspo.errors import UserError
from drspo.files.run import RunDir
from drspo.log import progress
from drspo.options import check_options
from pipeline.candidates.answers import problem
from pipeline.candidates.guard import Guard, PoisonedError
from pipeline.candidates.judge import Judges
from pipeline.candidates.plan import planned_hash
from pipeline.checks import check_scorers
from pipeline.local import restart
from pipeline.pairs.columns import Column, Score, claim_column, write_scores
from pipeline.plugins import describe
from pipeline.records import DEAD, Candidate, UnitRow
from pipeline.settings import GuardSettings, ScoringSettings
from pipeline.units import UnitStore

log = logging.getLogger(__name__)

# Rows are stored after so many seconds: what a kill can cost.
INTERVAL = 30.0
_AHEAD = 4  # units that are read while one is scored


@dataclass(frozen=True, kw_only=True)
class AddedScoring(ScoringSettings):
    """The scorers to add; their columns stand beside those that the run has."""

    scorers: tuple[str, ...] = ()
    """Registered scorers or measures, or module:Class; own_name=either names the column."""


@dataclass(frozen=True, kw_only=True)
class ScoreConfig:
    """More scores for the images of a finished run: drspo score RUN --scoring.scorers NAME ..."""

    run: str = ""
    """The run folder, or its URL."""
    scoring: AddedScoring = field(default_factory=AddedScoring)
    guard: GuardSettings = field(default_factory=GuardSettings)
    share: str = "1/1"
    """Of several processes, each with its own GPU, the second of four says 2/4."""


def main(argv: list[str]) -> int:
    """Score what has no number yet, and say how many there are."""
    if argv and not argv[0].startswith("-"):
        argv = ["--run", *argv]
    config = load(ScoreConfig, argv, package="dataset_builder", prog="drspo score", description=__doc__ or "")
    if not config.run or not config.scoring.scorers:
        raise UserError("which run, and which scorers?", hint="drspo score RUN --scoring.scorers pickscore")
    logs.setup(file=RunDir(config.run).local_path("log.txt"))
    with RunDir(config.run).understood(), Scoring(config) as session:
        session()
        session.tell()
    return 0


class Scoring:
    """One start of `drspo score` on one run. What it knows of all images lies on disk until it is closed."""

    def __init__(self, config: ScoreConfig) -> None:
        self.config = config
        self.run = RunDir(config.run)
        self.columns = config.scoring.columns
        self.share = _share(config.share)
        model = _model(self.run, config)
        self.images = Images(self.run)
        self.store = UnitStore(self.run, planned_hash(self.run), _built(self.run))
        self.guard = Guard(self.run, config.guard, uuid.uuid4().hex[:12], on_deadline=restart)
        self.judges = {name: Judges(one, model) for name, one in _apart(config.scoring).items()}
        for name, judges in self.judges.items():
            claim_column(self.run, _column(name, config.scoring, judges.versions[name]))
        self.waiting: dict[str, list[Score]] = {name: [] for name in self.columns}
        self.written = time.monotonic()

    def __enter__(self) -> Scoring:
        return self

    def __exit__(self, *_: object) -> None:
        self.images.close()

    def __call__(self) -> None:
        """Score every image of the share that a column has no number for."""
        with (
            self.images.lacking(self.columns, self.share) as todo,
            progress(todo.height, "scoring", "units") as bar,
        ):
            units = (row for piece in todo for row in piece.iter_rows())
            try:
                for columns, rows in _read_ahead(self.store, units):
                    for index, group in enumerate(rows):
                        self._score_group(index, group, columns)
                    self._store()
                    bar.advance(1)
            finally:
                self._store(at_once=True)

    def tell(self) -> None:
        """Say how many images each column has a number for, and what to do with it."""
        for name in self.columns:
            numbers = none = 0
            reason = ""
            for _, rows in self.images.scored(name):
                without = rows.filter(pl.col("score").is_null())
                numbers += rows.height - without.height
                none += without.height
                reason = reason or (without["error"][0] if without.height else "")
            lost = f", {none} without a score ({reason})" if none else ""
            print(f"{name:<12} {numbers} of {len(self.images)} images{lost}")
        print(f"next         {command(self.run)} --pairs.weights {self.columns[0]}=1")

    def _score_group(self, index: int, group: UnitRow, columns: Sequence[str]) -> None:
        """A whole group is scored at once, as the builder does, so that the numbers are the very same."""
        good = [candidate for candidate in group.candidates if candidate.image is not None]
        if group.status == DEAD or not good:
            return
        for name in columns:
            try:
                with self.guard.attempt(group.unit_id, f"column-{name}-{index}"):
                    self.waiting[name] += _scores(self.judges[name], good, group.prompt)
            except PoisonedError as error:
                self.waiting[name] += [_failed(candidate, str(error)) for candidate in good]

    def _store(self, at_once: bool = False) -> None:
        if not at_once and time.monotonic() - self.written < INTERVAL:
            return
        for name, rows in self.waiting.items():
            if rows:
                write_scores(self.run, name, rows)
        self.waiting = {name: [] for name in self.columns}
        self.written = time.monotonic()


def _scores(judges: Judges, candidates: Sequence[Candidate], prompt: str) -> list[Score]:
    """The candidates' scores; where the group as a whole fails, each image alone."""
    try:
        values = judges.score([c.image["bytes"] for c in candidates if c.image], prompt)
    except Exception as error:
        if len(candidates) == 1:
            return [_failed(candidates[0], describe(error))]
        return [score for candidate in candidates for score in _scores(judges, [candidate], prompt)]
    rows = []
    for candidate, scores in zip(candidates, values, strict=True):
        (value,) = scores.values()
        reason = problem(scores)
        rows.append(
            _failed(candidate, reason) if reason else Score(candidate_id=candidate.candidate_id, score=value)
        )
    return rows


def _failed(candidate: Candidate, reason: str) -> Score:
    return Score(candidate_id=candidate.candidate_id, score=None, error=reason)


def _apart(scoring: ScoringSettings) -> dict[str, ScoringSettings]:
    """{column: the settings of its scorer alone}."""
    return {
        column: ScoringSettings(scorers=(entry,), options=_options(entry, scoring))
        for column, entry in zip(scoring.columns, scoring.scorers, strict=True)
    }


def _options(entry: str, scoring: ScoringSettings) -> tuple[str, ...]:
    name = entry.partition("=")[0]
    return tuple(option for option in scoring.options if option.startswith(f"{name}."))


def _column(name: str, scoring: ScoringSettings, version: str) -> Column:
    entry = scoring.scorers[scoring.columns.index(name)]
    return Column(name=name, scorer=entry, options=_options(entry, scoring), version=version)


def _model(run: RunDir, config: ScoreConfig) -> str:
    """The model whose judges are the run's. UserError for whatever is wrong with the scorers asked for."""
    settings = run.require("dataset_builder")["config"]
    scoring = config.scoring
    if twice := set(scoring.columns) & set(_built(run)):
        name = sorted(twice)[0]
        raise UserError(
            f"the run has scores called {name!r} already",
            "scoring.scorers",
            f"A second look under other settings has a name of its own: near={name}.",
        )
    check_options(scoring.options, tuple(scoring.named), "scoring.options")
    check_scorers(scoring)
    return str(settings["candidates"]["model"])


def _built(run: RunDir) -> tuple[str, ...]:
    """The columns that the run was built with."""
    return ScoringSettings(scorers=tuple(run.manifest()["config"]["scoring"]["scorers"])).columns


def _share(share: str) -> tuple[int, int]:
    """(which, of how many) processes this is."""
    mine, _, of = share.partition("/")
    if not (mine.isdecimal() and of.isdecimal() and 1 <= int(mine) <= int(of)):
        raise UserError(f"{share!r} is no share", "share", "The second of four processes says 2/4.")
    return int(mine), int(of)


def _read_ahead(
    store: UnitStore, units: Iterable[tuple[str, list[str]]]
) -> Iterator[tuple[list[str], list[UnitRow]]]:
    """(the columns of a unit, its rows) in order; the next units are read while one is at work."""
    with ThreadPoolExecutor(_AHEAD) as pool:
        waiting: deque[tuple[list[str], Future[list[UnitRow]]]] = deque()
        for unit, columns in units:
            waiting.append((columns, pool.submit(store.read_rows, unit)))
            if len(waiting) > _AHEAD:
                earliest, rows = waiting.popleft()
                yield earliest, rows.result()
        while waiting:
            earliest, rows = waiting.popleft()
            yield earliest, rows.result()

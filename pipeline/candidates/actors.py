"""The stages of phase 5: generate, score, commit. Both executors call these very classes.

What travels between them is a plain row: the unit's id, its prompts, and later its candidates as
Parquet bytes, so that no executor has to understand nested images.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import pyarrow.parquet as pq

from drspo import consent
from drspo.config import config_hash
from drspo.files.storage import Storage
from drspo.options import options_of
from eval.settings import short_names
from pipeline.candidates.answers import checked_batch, checked_image, problem
from pipeline.candidates.guard import Guard, PoisonedError
from pipeline.candidates.images import encode, extension
from pipeline.candidates.judge import Judges
from pipeline.candidates.provenance import claim_scorers, record_model
from pipeline.checks import ONCE
from pipeline.plugins import WrongAnswerError, contained, describe
from pipeline.records import DEAD, OK, Candidate, UnitRow, candidate_id, candidate_seed, unit_rows, unit_table
from pipeline.settings import CandidateSettings, GuardSettings, ScoringSettings
from pipeline.units import UnitStore, encode_unit


@dataclass(frozen=True, kw_only=True)
class StageSpec:
    """Everything a stage needs, on any machine: where the run is, what to make, who is asking."""

    url: str
    candidates: CandidateSettings
    scoring: ScoringSettings
    guard: GuardSettings
    config_hash: str
    code_version: str
    session: str
    plugins: tuple[str, ...] = ()
    """What the driver's command line lets be imported; a worker knows of it from here alone."""

    @property
    def scorers(self) -> tuple[str, ...]:
        """The names of the score columns."""
        return self.scoring.columns

    def store(self) -> UnitStore:
        """The run's unit files."""
        return UnitStore(Storage(self.url), self.config_hash, self.scorers)


def generator_hash(settings: CandidateSettings, name: str) -> str:
    """A hash of everything besides prompt and seed that shapes an image of this generator."""
    shaping = ("model", "height", "width", "steps", "guidance_scale", "negative_prompt")
    facts = {key: getattr(settings, key) for key in shaping}
    return config_hash({**facts, "generator": name, "options": options_of(settings.options, name)})


class Generate:
    """A unit's prompts to encoded candidates: one model in memory, every generator and seed."""

    def __init__(self, spec: StageSpec, guard: Guard | None = None) -> None:
        from generate.request import build_generator

        consent.allow(*spec.plugins)
        self.spec = spec
        self.guard = guard or Guard(Storage(spec.url), spec.guard, spec.session)
        settings = spec.candidates
        options = {name: options_of(settings.options, name) for name in settings.generators}
        family = _load_family(settings.model, options)
        if family is not None:
            record_model(Storage(spec.url), family)
        self.device = str(family.device) if family is not None else "cpu"
        short_names(settings.generators, ONCE)
        self.generators = [
            (name, build_generator(name, family, options[name])) for name in settings.generators
        ]
        self.hashes = {name: generator_hash(settings, name) for name in settings.generators}
        self.encoders = ThreadPoolExecutor(max_workers=2, thread_name_prefix="encode")

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """The row {unit_id, prompts} with its candidates added under `data`."""
        started = time.monotonic()
        prompts = json.loads(row["prompts"])
        rows = [self._group(row["unit_id"], index, prompt) for index, prompt in enumerate(prompts)]
        table = unit_table(rows, self.spec.scorers)
        return {"unit_id": row["unit_id"], "data": encode_unit(table), "seconds": time.monotonic() - started}

    def _group(self, unit: str, index: int, prompt: dict[str, str]) -> UnitRow:
        group = UnitRow(
            unit_id=unit,
            prompt_id=prompt["prompt_id"],
            parent_id=prompt["parent_id"],
            prompt=prompt["text"],
            status=OK,
            config_hash=self.spec.config_hash,
            code_version=self.spec.code_version,
        )
        try:
            with self.guard.attempt(unit, f"generate-{index}"):
                candidates = tuple(self._candidates(group))
        except PoisonedError as error:
            return replace(group, status=DEAD, error=f"generate: {error}")
        return _checked(replace(group, candidates=candidates), self.spec.candidates.min_candidates)

    def _candidates(self, group: UnitRow) -> Iterator[Candidate]:
        """Every candidate; one that fails carries its error. Encoding overlaps the next generator."""
        pending: list[tuple[Candidate, Future[bytes] | None]] = []
        for name, generator in self.generators:
            for candidate, image in self._images(name, generator, group):
                encoded = image and self.encoders.submit(encode, image, self.spec.candidates.encoding)
                pending.append((candidate, encoded))
        for candidate, encoded in pending:
            yield self._with_image(candidate, encoded) if encoded else candidate

    def _images(self, name: str, generator: Any, group: UnitRow) -> Iterator[tuple[Candidate, Any]]:
        """(candidate, image or None) for each seed; the seeds share one call unless it fails."""
        empty = [self._empty(name, group.prompt_id, index) for index in range(self.spec.candidates.seeds)]
        requests = [self._request(group.prompt, candidate.seed) for candidate in empty]
        try:
            made = _generated(generator, requests)
        except WrongAnswerError:
            # One bad seed must not take the others with it: each is tried alone.
            made = [_generate_alone(generator, request) for request in requests]
        settings = self.spec.candidates
        for candidate, result in zip(empty, made, strict=True):
            try:
                with contained():
                    if isinstance(result, Exception):
                        raise result
                    image, seconds = checked_image(result, settings.height, settings.width)
            except WrongAnswerError as error:
                yield replace(candidate, error=describe(error)), None
            else:
                yield (
                    replace(candidate, seconds=seconds, height=settings.height, width=settings.width),
                    image,
                )

    def _empty(self, name: str, prompt: str, index: int) -> Candidate:
        short = name.rpartition(":")[2]
        seed = candidate_seed(prompt, short, index)
        identity = candidate_id(prompt, short, self.hashes[name], seed)
        return Candidate(candidate_id=identity, generator=short, seed=seed, device=self.device)

    def _request(self, prompt: str, seed: int) -> Any:
        from generate.request import Request

        settings = self.spec.candidates
        return Request(
            prompt=prompt,
            negative_prompt=settings.negative_prompt,
            height=settings.height,
            width=settings.width,
            seed=seed,
            steps=settings.steps,
            guidance_scale=settings.guidance_scale,
        )

    def _with_image(self, candidate: Candidate, encoded: Future[bytes]) -> Candidate:
        try:
            with contained():  # a picture may be of a plugin's own class
                data = encoded.result()
        except WrongAnswerError as error:
            return replace(candidate, error=describe(error))
        path = f"{candidate.candidate_id}.{extension(self.spec.candidates.encoding)}"
        return replace(candidate, image={"bytes": data, "path": path}, image_bytes=len(data))


class Score:
    """A unit's candidates with scores from every scorer, computed on the decoded stored bytes, and ranks."""

    def __init__(self, spec: StageSpec, guard: Guard | None = None) -> None:
        consent.allow(*spec.plugins)
        self.spec = spec
        self.guard = guard or Guard(Storage(spec.url), spec.guard, spec.session)
        self.judges = Judges(spec.scoring, spec.candidates.model)
        self.versions = self.judges.versions
        claim_scorers(spec.store(), self.versions)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """The row with its `data` scored and ranked."""
        started = time.monotonic()
        rows = unit_rows(pq.read_table(io.BytesIO(row["data"])))
        scored = [self._score_group(index, group) for index, group in enumerate(rows)]
        data = encode_unit(unit_table(scored, self.spec.scorers))
        return {**row, "data": data, "seconds": row["seconds"] + time.monotonic() - started}

    def _score_group(self, index: int, group: UnitRow) -> UnitRow:
        if group.status == DEAD:
            return group
        try:
            with self.guard.attempt(group.unit_id, f"score-{index}"):
                candidates = self._score(group)
        except PoisonedError as error:
            return replace(group, status=DEAD, error=f"score: {error}")
        ranked = rank(candidates, self.spec.scorers[0])
        return _checked(replace(group, candidates=ranked), self.spec.candidates.min_candidates)

    def _score(self, group: UnitRow) -> list[Candidate]:
        good = [c for c in group.candidates if c.image is not None]
        try:
            values = self.judges.score([c.image["bytes"] for c in good if c.image], group.prompt)
            scored = dict(zip((c.candidate_id for c in good), values, strict=True))
            return [self._with_scores(c, scored.get(c.candidate_id)) for c in group.candidates]
        except Exception:
            return [self._score_alone(c, group.prompt) if c.image else c for c in group.candidates]

    def _score_alone(self, candidate: Candidate, prompt: str) -> Candidate:
        assert candidate.image
        try:
            return self._with_scores(candidate, self.judges.score([candidate.image["bytes"]], prompt)[0])
        except Exception as error:
            return replace(candidate, error=f"score: {describe(error)}")

    def _with_scores(self, candidate: Candidate, scores: dict[str, float] | None) -> Candidate:
        if scores is None:
            return candidate
        if reason := problem(scores):
            return replace(candidate, error=f"score: {reason}")
        return replace(candidate, scores=scores, scorer_versions=self.versions)


class Commit:
    """A scored unit to its file; what is left of the row is a summary of a few bytes."""

    def __init__(self, spec: StageSpec) -> None:
        self.store = spec.store()

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """{unit_id, rows, dead, images, seconds, won, error}; `won` is False when another copy was first."""
        rows = unit_rows(pq.read_table(io.BytesIO(row["data"])))
        dead = [group for group in rows if group.status == DEAD]
        # The reason first: a dead row without one could not be retried.
        for group in dead:
            self._record_death(group)
        won = self.store.create(row["unit_id"], row["data"])
        self._forget_the_living(row["unit_id"], rows, won)
        return {
            "unit_id": row["unit_id"],
            "rows": len(rows),
            "dead": len(dead),
            "images": sum(c.image is not None for group in rows for c in group.candidates),
            "seconds": float(row["seconds"]),
            "won": won,
            "error": dead[0].error if dead else "",
        }

    def _forget_the_living(self, unit: str, rows: list[UnitRow], won: bool) -> None:
        """Take back reasons that another worker, or an earlier life, left of rows that are alive.

        By their names, which follow from the ids: no listing, however many prompts are dead. Whoever lost
        takes back what it said itself.
        """
        states = {row.prompt_id: row.status for row in rows}
        if not won:
            said = [prompt for prompt, status in states.items() if status == DEAD]
            table = self.store.read(unit, ["prompt_id", "status"]) if said else None
            found = dict(zip(*(column.to_pylist() for column in table.columns))) if table else {}
            states = {prompt: found.get(prompt, DEAD) for prompt in said}
        for prompt, status in states.items():
            if status != DEAD:
                self.store.storage.delete(_death_name(unit, prompt))

    def _record_death(self, group: UnitRow) -> None:
        """Leave the reason where `drspo status` finds it without opening any unit."""
        facts = {key: getattr(group, key) for key in ("unit_id", "prompt_id", "prompt", "error")}
        errors = sorted({f"{c.generator}: {c.error}" for c in group.candidates if c.error})
        name = _death_name(group.unit_id, group.prompt_id)
        self.store.storage.write(name, json.dumps({**facts, "candidates": errors}, indent=1).encode())


class ScoreAndCommit:
    """Both on one actor: a unit becomes a file where it was scored, and its pictures travel no further."""

    def __init__(self, spec: StageSpec) -> None:
        self.score, self.commit = Score(spec), Commit(spec)
        self.guard = self.score.guard

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """The summary of `Commit`."""
        return self.commit(self.score(row))


def _death_name(unit: str, prompt: str) -> str:
    return f"dead/{unit}-{prompt}.json"


def rank(candidates: Sequence[Candidate], scorer: str) -> tuple[Candidate, ...]:
    """The candidates in their order with rank 1 for the highest score; ties go by candidate id."""
    scored = [c for c in candidates if c.scores is not None]
    order = sorted(scored, key=lambda c: (-(c.scores or {})[scorer], c.candidate_id))
    ranks = {c.candidate_id: position for position, c in enumerate(order, start=1)}
    return tuple(replace(c, rank=ranks.get(c.candidate_id)) for c in candidates)


def _checked(group: UnitRow, least: int) -> UnitRow:
    """The group, dead when too few of its candidates are without error."""
    good = sum(not candidate.error for candidate in group.candidates)
    if good >= least:
        return group
    failed = (f"{c.generator}: {c.error}" for c in group.candidates if c.error)
    first = next(failed, "no candidate was asked for")
    return replace(
        group, status=DEAD, error=f"only {good} of {len(group.candidates)} candidates succeeded: {first}"
    )


def _generated(generator: Any, requests: Sequence[Any]) -> list[Any]:
    """An answer to each request. Raises WrongAnswerError for whatever goes wrong in the generator."""
    with contained():
        return checked_batch(generator.generate(list(requests)), len(requests))


def _generate_alone(generator: Any, request: Any) -> Any:
    try:
        return _generated(generator, [request])[0]
    except WrongAnswerError as error:
        return error


def _load_family(model: str, options: dict[str, dict[str, Any]]) -> Any:
    """The model, with its ControlNet and its IP-Adapter where one of the generators asks for them."""
    if not model:
        return None
    from generate.models.family import load_family
    from generate.request import needs_control, needs_ip_adapter

    return load_family(
        model,
        controlnet=any(needs_control(*each) for each in options.items()),
        ip_adapter=any(needs_ip_adapter(*each) for each in options.items()),
    )

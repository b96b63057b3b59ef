"""What can be judged: the scrolls of a dataset run or of a benchmark, and the ballots about them."""

from __future__ import annotations

import io
import json
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations

from dataset_builder.config import score_columns
from drspo.errors import UserError
from drspo.files.pictures import read_picture
from drspo.files.run import RunDir
from drspo.hashing import content_hash, seed_from
from eval.benchmark.cells import Cell
from eval.benchmark.records import RECORDS
from pipeline.candidates.plan import plan_names, planned_hash, read_plan_so_far
from pipeline.pairs.scores import scan_tables
from pipeline.records import DEAD, prompt_id
from pipeline.units import DamagedFile, UnitStore

log = logging.getLogger(__name__)
_SHOWN = ["unit_id", "prompt_id", "prompt", "candidate_id", "generator", "status", "image_bytes"]

WEBP_SIDE = 16383
"""Pixels at which WebP ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scroll:
    """One scroll that may stand on a ballot."""

    name: str
    prompt_id: str
    prompt: str
    method: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ballot:
    """Two scrolls of one prompt, in the order of their names; a check shows one of them twice."""

    name: str
    first: Scroll
    second: Scroll

    @property
    def is_check(self) -> bool:
        """Whether both are the same."""
        return self.first == self.second


class Contest:
    """The scrolls of a run and a way to their pictures; runs that are still being made may be judged too."""

    def __init__(self, scrolls: list[Scroll], read: Callable[[str], bytes]) -> None:
        self.scrolls = {scroll.name: scroll for scroll in scrolls}
        self._read = read

    def picture(self, name: str) -> bytes:
        """The scroll without loss and without a word about what made it: WebP, or PNG where it is longer."""
        image = read_picture(self._read(name)).convert("RGB")
        buffer = io.BytesIO()
        if max(image.size) > WEBP_SIDE:
            image.save(buffer, "PNG")
        else:
            image.save(buffer, "WEBP", lossless=True, method=1)
        return buffer.getvalue()


def open_contest(where: str) -> Contest:
    """The scrolls of a run folder; UserError where there are none to compare."""
    run = RunDir(where)
    with run.understood():
        found = _of_dataset(run) if plan_names(run) else _of_benchmark(run)
    prompts = [scroll.prompt_id for scroll in found.scrolls.values()]
    if len(set(prompts)) == len(prompts):
        raise UserError("no prompt has two scrolls yet", where, "Build or paint first; `drspo status` shows.")
    return found


def _of_dataset(run: RunDir) -> Contest:
    store = UnitStore(run, planned_hash(run), score_columns(run.manifest()["config"]))
    done = store.done()
    planned = (unit for piece in read_plan_so_far(run) for unit in piece["unit_id"].to_pylist())
    units: dict[str, str] = {}
    scrolls = []
    for table in scan_tables(store, (unit for unit in planned if unit in done), _tell):
        for row in table.select(_SHOWN).to_pylist():
            if row["status"] != DEAD and row["image_bytes"]:
                units[row["candidate_id"]] = row["unit_id"]
                scrolls.append(
                    Scroll(
                        name=row["candidate_id"],
                        prompt_id=row["prompt_id"],
                        prompt=row["prompt"],
                        method=row["generator"],
                    )
                )

    @lru_cache(maxsize=16)
    def pictures(unit: str) -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        for row in store.read_rows(unit):
            found |= {c.candidate_id: c.image["bytes"] for c in row.candidates if c.image}
        return found

    return Contest(scrolls, lambda name: pictures(units[name])[name])


def _tell(damaged: DamagedFile) -> None:
    log.warning("nobody judges %s: %s", damaged.name, damaged.why)


def _of_benchmark(run: RunDir) -> Contest:
    if not run.exists(RECORDS):
        hint = "Give the folder of a dataset run or of a finished benchmark."
        raise UserError("there is nothing to judge here", run.base, hint)
    there, places = set(run.list("images/")), {}
    scrolls: dict[str, Scroll] = {}
    for line in run.read(RECORDS).decode().splitlines():
        told = json.loads(line)
        place = Cell(told["method"], told["prompt"], told["seed"]).name
        name = content_hash("judged", place)
        if place in there:
            places[name] = place
            prompt, method = told["prompt"], told["method"]
            scrolls[name] = Scroll(name=name, prompt_id=prompt_id(prompt), prompt=prompt, method=method)
    return Contest([*scrolls.values()], lambda name: run.read(places[name]))


def ballots(contest: Contest, per_prompt: int = 3, checks: float = 0.0, seed: int = 0) -> list[Ballot]:
    """The questions, in an order that is the same for every judge, so that judges can be compared.

    In turn every prompt is asked once, then once more, up to `per_prompt` times: `seed` shuffles prompts and
    their pairs. Two scrolls of one method are compared last. A share `checks` of further ballots shows a
    scroll beside itself.
    """
    groups: dict[str, list[Scroll]] = {}
    for scroll in sorted(contest.scrolls.values(), key=lambda scroll: scroll.name):
        groups.setdefault(scroll.prompt_id, []).append(scroll)
    draw = random.Random(seed_from("ballots", seed))
    order = sorted(groups)
    draw.shuffle(order)
    asked = {prompt: _pairs(groups[prompt], draw) for prompt in order}
    found: list[Ballot] = []
    for turn in range(per_prompt):
        for prompt in order:
            if turn < len(asked[prompt]):
                found.append(_ballot(*asked[prompt][turn]))
                if draw.random() < checks:
                    one = draw.choice(groups[prompt])
                    found.append(_ballot(one, one))
    return list({ballot.name: ballot for ballot in found}.values())


def _pairs(scrolls: list[Scroll], draw: random.Random) -> list[tuple[Scroll, Scroll]]:
    pairs = list(combinations(scrolls, 2))
    draw.shuffle(pairs)
    return sorted(pairs, key=lambda pair: pair[0].method == pair[1].method)


def _ballot(first: Scroll, second: Scroll) -> Ballot:
    return Ballot(name=content_hash("ballot", first.name, second.name), first=first, second=second)


def turned(ballot: Ballot, judge: str) -> bool:
    """Whether this judge sees the second scroll first: chance, but always the same."""
    return bool(seed_from("side", ballot.name, judge) % 2)

"""Prompts in blocks by source order: each is screened, asked about, finished, and gives its part of the plan.

One block holds everything unless `block` says how many ideas it has; then the next is asked while this one is
painted. Blocks come out as one block would: duplicates, exact and near, are sought in all earlier ones, and
the count of accepted prompts goes on; once as many are accepted as were asked for, the blocks that follow
are asked nothing, and their ideas leave as surplus. Every table is stored before the next is begun. `Screen`
and `Finish` take blocks in order; `Ask` takes them in any, on as many machines as there are.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import chain, count, islice

import pyarrow as pa
import pyarrow.compute as pc

from drspo import consent
from drspo.errors import UserError
from drspo.files.storage import Storage
from drspo.files.texts import parse_json
from drspo.llm.pace import one_after_another
from drspo.llm.settings import LLMSettings
from drspo.log import Progress
from pipeline.candidates.plan import PLAN_NAME, make_plan
from pipeline.ideas import prompts as phases
from pipeline.ideas.dedup import KeptTexts
from pipeline.ideas.expanders import ExpandSettings
from pipeline.ideas.filters import FilterSettings
from pipeline.ideas.finished import PROMPTS_NAME
from pipeline.ideas.origin import OTHER_SETTINGS, THEIRS, Taken, record_source, refuse_other_prompts
from pipeline.ideas.quota import SURPLUS, keep_first
from pipeline.ideas.sources import PromptSettings
from pipeline.ideas.stages import NewPace
from pipeline.records import OK, PLAN_SCHEMA, PROMPT_SCHEMA
from pipeline.tables import read_pieces, read_table, store_pieces, store_table

IDEAS = "phases/ideas.parquet"
"""What was read of the source, where it is one block."""
READ_NAME = "phases/blocks.json"
"""Says how many blocks the source has, once it was read to its end."""
UNFINISHED_TABLE = "phases/unfinished.parquet"
"""The first block that the language model left unfinished, for the message."""
_WHOLE = {"prompts": PROMPTS_NAME, "plan": PLAN_NAME}
_NEAR = "near duplicate"

Tell = Callable[[int, str, str], AbstractContextManager[Progress]]


def silent(total: int, description: str, unit: str) -> AbstractContextManager[Progress]:
    """A progress display that nobody sees: blocks are told by the units that come of them."""
    return nullcontext(Progress(total, description, unit))


@dataclass(frozen=True, kw_only=True)
class TextSpec:
    """Everything that makes prompts of ideas, on any machine."""

    url: str
    prompts: PromptSettings
    expand: ExpandSettings
    filter: FilterSettings
    llm: LLMSettings
    config_hash: str
    """of the units"""
    prompts_hash: str = ""
    """of what decides the prompts"""
    prompts_per_unit: int = 1
    block: int = 0
    """ideas in a block; 0: all are one"""
    accept_unfinished: bool = False
    taken: Taken | None = None
    """the run that has made and judged the prompts, as the driver found it"""
    plugins: tuple[str, ...] = ()
    said: tuple[tuple[str, str], ...] = ()
    """(option, value) that the driver's command line gives: workers send keys where the person said so"""

    def storage(self) -> Storage:
        """The run's folder."""
        return Storage(self.url)

    def consent(self) -> None:
        """Lets this process do what the driver's command line allowed."""
        consent.allow(*self.plugins)
        for option, value in self.said:
            consent.say(option, value)

    def name(self, kind: str, number: int) -> str:
        """Where a block's table lies: ideas, screened, expanded, prompts or plan."""
        if self.block:
            return f"phases/{kind}-{number:06d}.parquet"
        return _WHOLE.get(kind, f"phases/{kind}.parquet")


def read_blocks(spec: TextSpec, tell: Tell = silent) -> int:
    """Reads the source to its end, stores its blocks, and gives how many there are.

    UserError where the source has changed since an earlier start stored some of them.
    """
    storage = spec.storage()
    if storage.exists(READ_NAME):
        return _count(storage)
    record_source(storage, spec.prompts.source, spec.taken, spec.prompts_hash)
    if not spec.block:
        if not storage.exists(spec.name("ideas", 0)):
            with tell(spec.prompts.limit, "reading prompts", "prompts") as bar:
                store_table(storage, spec.name("ideas", 0), phases.ingest(spec.prompts, bar.advance))
        return 1
    rows = phases.ideas(spec.prompts)
    for number in count():
        table = phases.table_of(islice(rows, spec.block))
        if number and not table.num_rows:
            break
        kept = store_table(storage, spec.name("ideas", number), table)
        if not kept.equals(table):
            raise UserError(
                f"the source gives other ideas than when this run began (after {number * spec.block})",
                f"--prompts.source {spec.prompts.source}",
                "Restore it, or begin a run in another folder.",
            )
    storage.write(READ_NAME, json.dumps({"blocks": number}).encode())
    return number


def _count(storage: Storage) -> int:
    """How many blocks the folder says that there are."""
    where = storage.url(READ_NAME)
    hint = "Delete it: the next start reads the source again and writes it anew."
    found = parse_json(storage.read(READ_NAME), where, hint=hint)
    blocks = found.get("blocks") if isinstance(found, dict) else None
    if type(blocks) is not int or blocks < 1:
        raise UserError("this does not say how many blocks there are", where, hint)
    return blocks


def read_block(spec: TextSpec, kind: str, number: int) -> pa.Table:
    """A stored table of a block."""
    schema = PLAN_SCHEMA if kind == "plan" else PROMPT_SCHEMA
    return read_table(spec.storage(), spec.name(kind, number), schema)


class Screen:
    """A block's ideas with the objections that cost nothing, such as being near an earlier one."""

    def __init__(self, spec: TextSpec) -> None:
        self.spec = spec
        self._begin()

    def _begin(self) -> None:
        threshold = self.spec.filter.near_duplicates
        self.kept = KeptTexts(threshold) if threshold else None
        self.next = 0

    def __call__(self, number: int) -> pa.Table:
        """The block's screened ideas. In whatever order it is asked, earlier blocks are seen first."""
        if number < self.next:
            self._begin()
        while self.next < number:
            self._screen(self.next)
        return self._screen(number)

    def _screen(self, number: int) -> pa.Table:
        table = read_block(self.spec, "ideas", number)
        if not self.spec.taken:
            table = phases.screen_freely(table, self.spec.filter, self.kept)
        self.next = number + 1
        return table


class Ask:
    """A block's screened ideas to prompts with the filters' objections: what asks a language model."""

    def __init__(self, spec: TextSpec, tell: Tell = silent, pace: NewPace | None = None) -> None:
        self.spec, self.tell, self.pace = spec, tell, pace

    def is_needed(self, number: int) -> bool:
        """Whether anything is still to be asked about the block."""
        return not (self.spec.taken or self.spec.storage().exists(self.spec.name("prompts", number)))

    def __call__(self, number: int, screened: pa.Table) -> pa.Table:
        """The block's prompts before duplicates are sought; the ideas again where the block is finished."""
        spec, storage = self.spec, self.spec.storage()
        if not self.is_needed(number):
            return screened
        asked = self._stored("screened", number, lambda: self._screen(screened, storage))
        expanded = self._stored("expanded", number, lambda: self._expand(asked, storage))
        with self.tell(expanded.num_rows, "filtering", "prompts") as bar:
            return phases.object_to(expanded, spec.filter, spec.llm, storage, bar.advance, self.pace)

    def _screen(self, table: pa.Table, storage: Storage) -> pa.Table:
        with self.tell(table.num_rows, "screening ideas", "ideas") as bar:
            return phases.screen_asking(
                table, self.spec.filter, self.spec.llm, storage, bar.advance, self.pace
            )

    def _expand(self, table: pa.Table, storage: Storage) -> pa.Table:
        with self.tell(table.num_rows, f"expanding ({self.spec.expand.expander})", "ideas") as bar:
            return phases.expand(table, self.spec.expand, self.spec.llm, storage, bar.advance, self.pace)

    def _stored(self, kind: str, number: int, make: Callable[[], pa.Table]) -> pa.Table:
        """A table: stored, or made now and stored unless a later start can add to it."""
        storage, name = self.spec.storage(), self.spec.name(kind, number)
        if storage.exists(name):
            return read_block(self.spec, kind, number)
        table = make()
        refuse_other_prompts(storage, self.spec.prompts_hash)
        return table if phases.unfinished(table) else store_table(storage, name, table)


class Finish:
    """A block's prompts freed of duplicates and surplus, stored, and its part of the plan."""

    def __init__(self, spec: TextSpec) -> None:
        self.spec = spec
        self.next = self.accepted = self.units = 0
        self.seen: set[bytes] = set()
        threshold = spec.filter.near_duplicates
        self.kept = KeptTexts(threshold) if threshold else None
        self.stopped = False
        """Whether the language model left a block unfinished, so that no later one can be finished."""
        spec.storage().delete(UNFINISHED_TABLE)

    @property
    def enough(self) -> bool:
        """Whether as many prompts are accepted as were asked for: of later blocks nothing need be known."""
        most = self.spec.filter.accept
        return not self.spec.taken and 0 < most <= self.accepted

    def __call__(self, number: int, prompts: pa.Table | None) -> pa.Table | None:
        """The block's part of the plan, stored with its prompts; None where it cannot be finished yet.

        Once there are enough, what was made of a block does not count: its ideas leave as surplus. A block
        without prompts, about which nothing was asked, cannot be finished before.
        """
        while self.next < number and self._is_stored(self.next):
            self._remember(self.next)
        if self._is_stored(number):
            return self._remember(number)
        if self.stopped or self.next < number:
            return None
        if self.enough:
            prompts = read_block(self.spec, "ideas", number)
            table = keep_first(prompts, self.spec.filter.accept, self.accepted)
        elif prompts is None:
            return None
        else:
            table = prompts if self.spec.taken else self._without_copies(prompts)
        refuse_other_prompts(self.spec.storage(), self.spec.prompts_hash)
        if phases.unfinished(table) and not self.spec.accept_unfinished:
            self.stopped = True
            self.spec.storage().delete(UNFINISHED_TABLE)
            store_table(self.spec.storage(), UNFINISHED_TABLE, table)
            return None
        store_table(self.spec.storage(), self.spec.name("prompts", number), table)
        return self._planned(number, read_block(self.spec, "prompts", number))

    def _is_stored(self, number: int) -> bool:
        return self.spec.storage().exists(self.spec.name("prompts", number))

    def _without_copies(self, prompts: pa.Table) -> pa.Table:
        table = phases.drop_duplicates(prompts, self.seen)
        table = phases.drop_near_duplicates(table, self.spec.filter.near_duplicates, self.kept)
        return keep_first(table, self.spec.filter.accept, self.accepted)

    def _remember(self, number: int) -> pa.Table:
        """What an earlier start, or another copy of the job, made of a block, as if it had been made here."""
        table = read_block(self.spec, "prompts", number)
        if number == self.next and not self.spec.taken:
            judged = table.filter(pc.not_equal(table["expander"], ""))
            surplus = pc.starts_with(judged["reason"], SURPLUS)
            kept = judged.filter(pc.or_(pc.equal(judged["status"], OK), surplus))
            near = judged.filter(pc.starts_with(judged["reason"], _NEAR))
            ids = pa.chunked_array([*kept["prompt_id"].chunks, *near["prompt_id"].chunks], pa.string())
            self.seen |= {bytes.fromhex(id_) for id_ in ids.to_pylist()}
            if self.kept is not None:
                self.kept.remember(kept["text"].to_pylist())
        return self._planned(number, table)

    def _planned(self, number: int, table: pa.Table) -> pa.Table:
        """The block's part of the plan, stored if it is a part; the counts go on."""
        spec, name = self.spec, self.spec.name("plan", number)
        if number < self.next and spec.block:
            return read_block(spec, "plan", number)
        first = 0 if number < self.next else self.units
        plan = make_plan(table, spec.config_hash, spec.prompts_per_unit, first)
        if number < self.next:
            return plan
        if spec.block:
            plan = store_table(spec.storage(), name, plan)
            if plan.num_rows and plan["config_hash"][0].as_py() != spec.config_hash:
                raise UserError(OTHER_SETTINGS, spec.storage().url(name), THEIRS)
        self.next = number + 1
        self.units += plan.num_rows
        self.accepted += pc.sum(pc.equal(table["status"], OK)).as_py() or 0
        return plan


class Texts:
    """All blocks in this process, one after the other: iterating gives their parts of the plan."""

    def __init__(
        self, spec: TextSpec, tell: Tell = silent, *, alone: bool = True, painted: bool = True
    ) -> None:
        self.spec, self.tell = spec, tell
        self.alone = alone
        """Whether nothing is to be painted yet."""
        self.painted = painted
        """Whether anything ever is, by this start."""

    def __iter__(self) -> Iterator[pa.Table]:
        ask = Ask(self.spec, self.tell, one_after_another(self.spec.llm))
        screen, finish = Screen(self.spec), Finish(self.spec)
        for number in range(read_blocks(self.spec, self.tell)):
            prompts = None if finish.enough else ask(number, screen(number))
            plan = finish(number, prompts)
            if plan is None:
                return
            yield plan


def is_settled(spec: TextSpec) -> bool:
    """Whether every block is finished, or known to be left unfinished by the language model."""
    storage = spec.storage()
    if storage.exists(UNFINISHED_TABLE):
        return True
    return all(storage.exists(spec.name("prompts", number)) for number in range(read_blocks(spec)))


def finished_blocks(spec: TextSpec) -> Iterator[Iterator[pa.Table]]:
    """The finished prompts of each block, a piece at a time; UserError where a block's are gone."""
    storage = spec.storage()
    for number in range(read_blocks(spec)) if spec.block else [0]:
        name = spec.name("prompts", number)
        if not storage.exists(name):
            hint = "It says which prompts share a unit: restore it, or begin a run in another folder."
            raise UserError(f"{name} is missing", storage.url(name), hint)
        yield read_pieces(storage, name, PROMPT_SCHEMA)


def join_blocks(spec: TextSpec) -> bool:
    """Joins the blocks' tables to those of the run, when all are finished; gives whether they are."""
    storage = spec.storage()
    if not spec.block or storage.exists(PROMPTS_NAME):
        return storage.exists(PROMPTS_NAME)
    if not storage.exists(READ_NAME):
        return False
    numbers = range(read_blocks(spec))
    if not all(storage.exists(spec.name("plan", number)) for number in numbers):
        return False
    schemas = {"prompts": PROMPT_SCHEMA, "plan": PLAN_SCHEMA}
    for kind, name in reversed(_WHOLE.items()):  # the prompts last: they say that all is there
        tables = (read_block(spec, kind, number) for number in numbers)
        filled = (table for table in tables if table.num_rows)
        first = list(islice(filled, 1))
        if kind == "prompts" or first:
            store_pieces(storage, name, schemas[kind], chain(first, filled))
    return True

"""Phases 1 to 3: read ideas, screen them, expand them into prompts, filter those. No row is lost.

What costs nothing comes first: `ingest`, then `screen_freely` and `screen_asking` on what the person asked,
`expand`, and `filter_prompts` on what the expansion may have broken. Each takes a table of PROMPT_SCHEMA, the
whole or a block of it, in bounded batches; the stages they run are in `stages.py`. Blocks that share a `kept`
for the ideas and another for the prompts are freed of near duplicates as the whole table would be.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from drspo.files.storage import Storage
from drspo.files.texts import is_unicode
from drspo.llm.account import summary
from drspo.llm.settings import LLMSettings
from pipeline.ideas.dedup import KeptTexts
from pipeline.ideas.expanders import ExpandSettings
from pipeline.ideas.filters import FilterSettings
from pipeline.ideas.sources import Item, PromptSettings, read_source
from pipeline.ideas.stages import ExpandStage, FilterStage, NewPace, TextStage
from pipeline.ideas.texts import LONGEST, clean, unusable
from pipeline.plugins import storable
from pipeline.records import DROPPED, OK, PROMPT_SCHEMA, UNFINISHED, Prompt, prompt_id

log = logging.getLogger(__name__)

Row = dict[str, Any]
Advance = Callable[[int], None]
_BATCH = 4096
_KEPT = 10_000  # characters that are kept of what is no prompt


def ingest(settings: PromptSettings, advance: Advance = lambda count: None) -> pa.Table:
    """The source's ideas as a table of PROMPT_SCHEMA, a row per entry; unusable ones dropped with a reason.

    Accepted texts are normalised (NFC, single spaces, no control characters); `source_text` is the original.
    """
    return table_of(ideas(settings, advance))


def screen_freely(table: pa.Table, settings: FilterSettings, kept: KeptTexts | None = None) -> pa.Table:
    """The ideas with the objections that cost nothing: of filters that ask nobody, and near duplicates."""
    stage = FilterStage(settings, LLMSettings(), "memory://nowhere", "idea", asking=False)
    return drop_near_duplicates(run_stage(stage, table), settings.near_duplicates, kept)


def screen_asking(
    table: pa.Table,
    settings: FilterSettings,
    llm: LLMSettings,
    storage: Storage,
    advance: Advance = lambda count: None,
    pace: NewPace | None = None,
) -> pa.Table:
    """The ideas with the objections of the filters that ask a language model."""
    return run_stage(FilterStage(settings, llm, storage, "idea", asking=True, pace=pace), table, advance)


def expand(
    table: pa.Table,
    settings: ExpandSettings,
    llm: LLMSettings,
    storage: Storage,
    advance: Advance = lambda count: None,
    pace: NewPace | None = None,
) -> pa.Table:
    """The prompts of the accepted ideas: k rows, or one dropped or dead, for each; other rows unchanged."""
    return run_stage(ExpandStage(settings, llm, storage, pace), table, advance)


def filter_prompts(
    table: pa.Table,
    settings: FilterSettings,
    llm: LLMSettings,
    storage: Storage,
    advance: Advance = lambda count: None,
    kept: KeptTexts | None = None,
) -> pa.Table:
    """The table with the filters' objections, exact and near duplicates marked as dropped rows."""
    table = drop_duplicates(object_to(table, settings, llm, storage, advance))
    return drop_near_duplicates(table, settings.near_duplicates, kept)


def object_to(
    table: pa.Table,
    settings: FilterSettings,
    llm: LLMSettings,
    storage: Storage,
    advance: Advance = lambda count: None,
    pace: NewPace | None = None,
) -> pa.Table:
    """The table with the filters' objections to each prompt by itself."""
    return run_stage(FilterStage(settings, llm, storage, "prompt", pace=pace), table, advance)


def run_stage(stage: TextStage, table: pa.Table, advance: Advance = lambda count: None) -> pa.Table:
    """The table after a stage, batch by batch in order."""

    def rows() -> Iterator[Row]:
        for start in range(0, table.num_rows, stage.batch_rows):
            batch = table.slice(start, stage.batch_rows).to_pylist()
            yield from stage(batch)
            advance(len(batch))

    with stage:
        done = table_of(rows())
        if report := stage.report():
            log.info("language model: %s", summary(report))
        return done


def drop_duplicates(table: pa.Table, seen: set[bytes] | None = None) -> pa.Table:
    """Of accepted rows with the same id the first stays; the others are dropped and name it as the reason.

    `seen` are the ids of earlier blocks, to which this one's are added.
    """
    seen = set() if seen is None else seen
    accepted = pc.indices_nonzero(pc.equal(table["status"], OK))
    ids = table["prompt_id"].take(accepted)
    twins = {}
    for row, id_ in zip(accepted.to_pylist(), ids.to_pylist(), strict=True):
        if (key := bytes.fromhex(id_)) in seen:
            twins[row] = f"duplicate of {id_}"
        seen.add(key)
    return _dropped(table, twins)


def drop_near_duplicates(table: pa.Table, threshold: float, kept: KeptTexts | None = None) -> pa.Table:
    """Accepted rows that resemble an earlier one by `threshold` or more are dropped; 0 keeps all of them.

    `kept` are the rows of earlier blocks, to which those that stay are added.
    """
    if not threshold:
        return table
    kept = KeptTexts(threshold) if kept is None else kept
    accepted = pc.indices_nonzero(pc.equal(table["status"], OK)).to_pylist()
    texts = table["text"].take(pa.array(accepted, pa.int64())).to_pylist()
    start = kept.count
    return _dropped(
        table,
        {
            accepted[i - start]: f"near duplicate of {prompt_id(kept.text(j))}"
            for i, j in kept.add(texts).items()
        },
    )


def unfinished(table: pa.Table) -> int:
    """How many rows another start may finish: those the budget or the server left without answer."""
    return pc.sum(pc.equal(table["status"], UNFINISHED)).as_py() or 0


def reason_kind(reason: str) -> str:
    """A reason without its details, to count by: "too long: 10000 characters" is a "too long"."""
    if " of " in reason and "duplicate" in reason:
        return reason.partition(" of ")[0]
    return reason.partition(":")[0]


def ideas(settings: PromptSettings, advance: Advance = lambda count: None) -> Iterator[Row]:
    """The source's ideas as rows of PROMPT_SCHEMA, one after the other; see `ingest`."""
    seen: set[bytes] = set()
    for count, item in enumerate(read_source(settings), 1):
        row = _idea(item, settings)
        key = bytes.fromhex(row["prompt_id"])
        if row["status"] == OK:
            if key in seen:
                row |= {"status": DROPPED, "reason": f"duplicate of {row['prompt_id']}"}
            seen.add(key)
        yield row
        if count % _BATCH == 0:
            advance(_BATCH)
        if settings.limit and len(seen) >= settings.limit:
            return


def _idea(item: Item, settings: PromptSettings) -> Row:
    """One entry as a row of PROMPT_SCHEMA."""
    if item.row is not None:
        return item.row
    original, text, reason = _read(item)
    text = clean(text)
    reason = reason or unusable(text, settings.max_characters)
    prompt = Prompt(
        prompt_id=prompt_id(text),
        text=text,
        source_text=original,
        source=item.place,
        status=DROPPED if reason else OK,
        reason=reason,
    )
    # dataclasses.asdict copies deeply, which a million rows of text need not pay for.
    return {name: getattr(prompt, name) for name in PROMPT_SCHEMA.names}


def _read(item: Item) -> tuple[str, str, str]:
    """(the original as it can be stored, the text, why it is none)."""
    if item.value is None or item.value == "":
        return "", "", item.problem or "empty"
    if not isinstance(item.value, str):
        return str(item.value)[:_KEPT], "", f"not text: {type(item.value).__name__}"
    if not is_unicode(item.value):
        return storable(item.value), "", "not UTF-8"
    if len(item.value) > LONGEST:  # not even cleaned: a source of many such would take hours
        return item.value[:_KEPT], item.value[:_KEPT], f"too long: {len(item.value)} characters"
    return item.value, item.value, item.problem


def _dropped(table: pa.Table, reasons: dict[int, str]) -> pa.Table:
    """The table with these rows dropped for these reasons."""
    if not reasons:
        return table
    status, reason = table["status"].to_pylist(), table["reason"].to_pylist()
    for index, why in reasons.items():
        status[index], reason[index] = DROPPED, why
    columns = {"status": status, "reason": reason}
    for name, values in columns.items():
        table = table.set_column(table.schema.get_field_index(name), name, pa.array(values, pa.string()))
    return table


def table_of(rows: Iterable[Row]) -> pa.Table:
    """Rows as a table, a batch at a time, so that only Arrow's compact form grows."""
    batches: list[pa.RecordBatch] = []
    pending: list[Row] = []
    for row in rows:
        pending.append(row)
        if len(pending) == _BATCH:
            batches.append(pa.RecordBatch.from_pylist(pending, schema=PROMPT_SCHEMA))
            pending = []
    batches.append(pa.RecordBatch.from_pylist(pending, schema=PROMPT_SCHEMA))
    return pa.Table.from_batches(batches, schema=PROMPT_SCHEMA)

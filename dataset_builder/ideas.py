"""Phases 1 to 3: ideas are read, screened, expanded and filtered; each table is stored before the next."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import pyarrow as pa

from dataset_builder.config import BuildConfig, prompts_hash, uses_llm
from dataset_builder.report.stats import prompt_losses
from dataset_builder.tables import parquet
from drspo.errors import UserError
from drspo.files.run import RunDir
from drspo.llm.journal import Journal
from drspo.log import progress
from pipeline.candidates.plan import read_table
from pipeline.ideas import prompts as phases
from pipeline.ideas.finished import PROMPTS_NAME, check_run, is_run
from pipeline.ideas.quota import keep_first
from pipeline.records import OK, PROMPT_SCHEMA

log = logging.getLogger(__name__)

IDEAS_NAME, SCREENED_NAME = "phases/ideas.parquet", "phases/screened.parquet"
EXPANDED_NAME, UNFINISHED_NAME = "phases/expanded.parquet", "phases/unfinished.json"


def make_prompts(run: RunDir, config: BuildConfig) -> pa.Table:
    """Every prompt with its status, from wherever an earlier start left them.

    UserError when the language model left some unanswered, unless the configuration accepts that.
    """
    if run.exists(PROMPTS_NAME):
        return read_table(run, PROMPTS_NAME, PROMPT_SCHEMA)
    ideas = _stored(run, IDEAS_NAME, lambda: _ingest(config))
    if taken := is_run(config.prompts.source):
        table = ideas
    else:
        screened = _stored(run, SCREENED_NAME, lambda: _screen(run, config, ideas))
        expanded = _stored(run, EXPANDED_NAME, lambda: _expand(run, config, screened))
        table = _filter(run, config, expanded)
    _refuse_unfinished(run, config, table)
    table = _store(run, PROMPTS_NAME, table)
    run.delete(UNFINISHED_NAME)
    facts: dict[str, Any] = {
        "rows": table.num_rows,
        "accepted": count_accepted(table),
        "unfinished": phases.unfinished(table),
        "hash": prompts_hash(config),
    }
    if uses_llm(config):
        facts["llm"] = asdict(Journal(run).books())
    if taken:
        facts["taken_from"] = {"run": config.prompts.source, "hash": check_run(config.prompts.source)["hash"]}
    run.phase_done("prompts", **facts)
    log.info("%d of %d prompts accepted; lost: %s", count_accepted(table), table.num_rows, _losses(table))
    if count_accepted(table) < config.filter.accept:
        log.warning("fewer than the %d prompts that were asked for passed", config.filter.accept)
    return table


def count_accepted(prompts: pa.Table) -> int:
    """How many of the prompts go on to images."""
    return int(prompts["status"].to_pylist().count(OK))


def _ingest(config: BuildConfig) -> pa.Table:
    with progress(config.prompts.limit, "reading prompts", "prompts") as bar:
        return phases.ingest(config.prompts, bar.advance)


def _screen(run: RunDir, config: BuildConfig, ideas: pa.Table) -> pa.Table:
    kept = phases.screen_freely(ideas, config.filter)
    with progress(kept.num_rows, "screening ideas", "ideas") as bar:
        return phases.screen_asking(kept, config.filter, config.llm, run, bar.advance)


def _expand(run: RunDir, config: BuildConfig, ideas: pa.Table) -> pa.Table:
    with progress(ideas.num_rows, f"expanding ({config.expand.expander})", "ideas") as bar:
        return phases.expand(ideas, config.expand, config.llm, run, bar.advance)


def _filter(run: RunDir, config: BuildConfig, expanded: pa.Table) -> pa.Table:
    with progress(expanded.num_rows, "filtering", "prompts") as bar:
        found = phases.filter_prompts(expanded, config.filter, config.llm, run, bar.advance)
    return keep_first(found, config.filter.accept)


def _refuse_unfinished(run: RunDir, config: BuildConfig, table: pa.Table) -> None:
    count = phases.unfinished(table)
    if count and not config.accept_unfinished:
        facts = {"rows": table.num_rows, "unfinished": count, "losses": prompt_losses(table)}
        run.write(UNFINISHED_NAME, (json.dumps(facts, indent=2) + "\n").encode())
        raise UserError(
            f"the language model left {count} of {table.num_rows} prompts unanswered: {_losses(table)}",
            run.base,
            "The same command asks again, for these only (raise --llm.token-budget if that ended it). "
            "--accept-unfinished goes on without them.",
        )


def _stored(run: RunDir, name: str, make: Callable[[], pa.Table]) -> pa.Table:
    """A phase's table: stored, or made now and stored unless a later start can add to it."""
    if run.exists(name):
        return read_table(run, name, PROMPT_SCHEMA)
    table = make()
    return table if phases.unfinished(table) else _store(run, name, table)


def _store(run: RunDir, name: str, table: pa.Table) -> pa.Table:
    """Store a phase's table unless another copy of the job was first; gives what is stored."""
    return table if run.create(name, parquet(table)) else read_table(run, name, PROMPT_SCHEMA)


def _losses(prompts: pa.Table) -> str:
    losses = prompt_losses(prompts)
    return ", ".join(f"{count} {kind}" for kind, count in losses.items()) or "none"

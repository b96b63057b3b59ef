"""Phases 1 to 4: ideas to prompts to the plan, in one block or many (`pipeline/ideas/blocks.py`)."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import pyarrow as pa

from dataset_builder.config import BuildConfig, names_llm, prompts_hash, units_hash
from dataset_builder.report.stats import Prompts
from drspo import consent
from drspo.errors import UserError
from drspo.files.run import RunDir
from drspo.files.storage import Storage
from drspo.llm.access import is_withheld
from drspo.llm.journal import Journal
from drspo.log import progress
from pipeline.ideas.blocks import UNFINISHED_TABLE, Texts, TextSpec, join_blocks, silent
from pipeline.ideas.finished import PROMPTS_NAME
from pipeline.ideas.origin import Taken, taken_from
from pipeline.records import PROMPT_SCHEMA, UNFINISHED
from pipeline.tables import read_pieces, read_table

log = logging.getLogger(__name__)

UNFINISHED_NAME = "phases/unfinished.json"
PHASE = "prompts"


def texts(config: BuildConfig, url: str, *, alone: bool) -> Texts:
    """The blocks of a configuration; `alone` when nothing is to be painted of them yet."""
    taken = taken_from(Storage(url), config.prompts.source)
    spec = TextSpec(
        url=url,
        taken=taken,
        prompts=config.prompts,
        expand=config.expand,
        filter=config.filter,
        llm=config.llm,
        config_hash=units_hash(config),
        prompts_hash=prompts_hash(config),
        prompts_per_unit=config.candidates.prompts_per_unit,
        block=config.block,
        accept_unfinished=config.accept_unfinished,
        plugins=consent.allowed(),
        said=_said(config, taken),
    )
    tell, painted = silent if config.block else progress, config.until != "prompts"
    return Texts(spec, tell, alone=alone, painted=painted)


def _said(config: BuildConfig, taken: Taken | None) -> tuple[tuple[str, str], ...]:
    """What lets a worker send the key, where the person lets this program send it."""
    llm = config.llm
    if taken or not names_llm(config) or is_withheld(llm):
        return ()
    return (("llm.base_url", llm.base_url), ("llm.key_variable", llm.key_variable))


def make_prompts(run: RunDir, config: BuildConfig) -> pa.Table:
    """Every prompt with its status, made in this process, from wherever an earlier start left them."""
    if not run.exists(PROMPTS_NAME):
        for _ in texts(config, run.base, alone=True):
            pass
    conclude(run, config)
    return read_table(run, PROMPTS_NAME, PROMPT_SCHEMA)


def conclude(run: RunDir, config: BuildConfig) -> Prompts:
    """What became of the prompts, when all blocks are finished, which the manifest then says.

    UserError when the language model left some unanswered, unless the configuration accepts that.
    """
    spec = texts(config, run.base, alone=True).spec
    if not join_blocks(spec):
        _refuse_unfinished(run)
    prompts = Prompts.of(read_pieces(run, PROMPTS_NAME, PROMPT_SCHEMA))
    facts: dict[str, Any] = {
        "rows": prompts.rows,
        "accepted": prompts.accepted,
        "unfinished": prompts.states[UNFINISHED],
        "hash": prompts_hash(config),
    }
    said = run.phases().get(PHASE, {})
    if all(said.get(name) == fact for name, fact in facts.items()):
        return prompts
    for name in (UNFINISHED_NAME, UNFINISHED_TABLE):
        run.delete(name)
    if spec.taken:
        facts["taken_from"] = asdict(spec.taken)
    elif names_llm(config):
        facts["llm"] = asdict(Journal(run).books())
    run.phase_done(PHASE, **facts)
    log.info("%d of %d prompts accepted; lost: %s", prompts.accepted, prompts.rows, _told(prompts.losses))
    if prompts.accepted < config.filter.accept:
        log.warning("fewer than the %d prompts that were asked for passed", config.filter.accept)
    return prompts


def _refuse_unfinished(run: RunDir) -> None:
    if not run.exists(UNFINISHED_TABLE):
        raise UserError("the prompts were not finished", run.base, "The same command again goes on.")
    prompts = Prompts.of(read_pieces(run, UNFINISHED_TABLE, PROMPT_SCHEMA))
    count = prompts.states[UNFINISHED]
    facts = {"rows": prompts.rows, "unfinished": count, "losses": prompts.losses}
    run.write(UNFINISHED_NAME, (json.dumps(facts, indent=2) + "\n").encode())
    raise UserError(
        f"the language model left {count} of {prompts.rows} prompts unanswered: {_told(prompts.losses)}",
        run.base,
        "The same command asks again, for these only (raise --llm.token-budget if that ended it). "
        "--accept-unfinished goes on without them.",
    )


def _told(losses: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in losses.items()) or "none"

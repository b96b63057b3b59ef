"""A benchmark from prompts to tables and a page."""

from __future__ import annotations

import json
import logging
import shlex
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from drspo.config import config_hash, to_dict
from drspo.errors import UserError
from drspo.files.run import RunDir
from drspo.markup import inline
from eval.benchmark.claims import Claims
from eval.benchmark.extended import extends
from eval.benchmark.methods import rows
from eval.benchmark.prompt_lists import strata
from eval.benchmark.records import Record
from eval.benchmark.suite import check_sizes, fetch_models, forget_failures, make_pictures, take_numbers
from eval.benchmark.workers import gpus_for, helpers
from eval.config import EvalConfig
from eval.judges import build_judges, columns_of
from eval.report.comparison import Comparison
from eval.report.markdown import markdown
from eval.report.order import order
from eval.report.page import write_report


def evaluate(config: EvalConfig, arguments: list[str], *, joined: bool = False) -> int:
    """Makes what is missing, scores it, writes tables and the page, and says where they are.

    `arguments` are the words that gave `config`, for the helpers; a process that joined only does its share.
    """
    check(config)
    run = RunDir(config.out)
    judges = build_judges(config.judges, model=config.model, device=config.device, cache=cache_of(run))
    fetch_models(config)
    if run.start("eval", config, identity(config), extends=partial(extends, config)):
        logging.info("continuing the benchmark in %s", config.out)
    if joined:
        work(config, run, judges)
        return 0
    forget_failures(run)
    with helpers(arguments, config.workers, gpus_for(config.device, config.workers)):
        records = work(config, run, judges)
    found = Comparison(records, config.baseline, config.judges.trained, config.judges.aside)
    text = markdown(found) + by_stratum(config, records)
    run.write("tables.md", text.encode())
    facts = {"order": [asdict(place) for place in order(found)], **found.as_json()}
    run.write("tables.json", json.dumps(facts, indent=2).encode())
    write_report(config, run, found)
    print(text)
    print(f"page      {run.url('index.html')}")
    print(f"next      drspo strips {shlex.quote(config.out)} --out figure.png")
    return 0


def work(config: EvalConfig, run: RunDir, judges: dict[str, Any]) -> list[Record]:
    """This process's share of the pictures and numbers; all numbers, when everybody's are there."""
    claims = Claims(run)
    make_pictures(config, run, claims)
    return take_numbers(config, run, judges, claims)


def by_stratum(config: EvalConfig, records: list[Record]) -> str:
    """The same tables for each source of prompts, where there are several."""
    parts = strata(config)
    if len(parts) < 2:
        return ""
    text = []
    for name, prompts in parts.items():
        some = [record for record in records if record.prompt in set(prompts)]
        found = Comparison(some, config.baseline, config.judges.trained, config.judges.aside)
        text.append(f"\n## Prompts of {inline(name)} alone ({len(prompts)})\n\n{markdown(found)}")
    return "\n".join(text)


def identity(config: EvalConfig) -> str:
    """What makes a run's numbers: everything but where it lies and who works on it."""
    return config_hash(to_dict(replace(config, out="", device="", workers=0)))


def cache_of(run: RunDir) -> str:
    """Where embeddings are kept: in the run folder, or nowhere where it lies in an object store."""
    return run.url("cache") if run.is_local else ""


def check(config: EvalConfig) -> None:
    """Nothing for a benchmark that can run; UserError before any heavy work otherwise."""
    if not config.out:
        raise UserError(
            "where shall the benchmark go?", "--out", "name a folder, for example --out runs/eval-001"
        )
    named = rows(config)
    if config.baseline not in named:
        raise UserError(
            f"the baseline {config.baseline!r} is not among the methods",
            "--baseline",
            f"choose one of {', '.join(named)}",
        )
    if config.pictures.seeds < 1:
        raise UserError(f"{config.pictures.seeds} seeds per prompt", "pictures.seeds", "1 or more")
    gpus_for(config.device, config.workers)
    columns_of(config.judges)
    strata(config)
    check_sizes(config)

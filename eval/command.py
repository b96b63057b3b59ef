"""`python -m eval`: a benchmark from prompts to tables and a page."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

from drspo.config import config_hash, load, to_dict
from drspo.errors import UserError
from drspo.files.run import RunDir
from drspo.log import setup
from eval.config import EvalConfig
from eval.methods import method
from eval.report import page
from eval.suite import make_pictures, read_prompts, take_numbers
from eval.tables import as_json, average_ranks, markdown, table


def main(argv: list[str]) -> int:
    """Makes what is missing, scores it, writes tables and the page, and says where they are."""
    if argv[:1] == ["--selftest"]:
        from eval.selftest import main as selftest

        return selftest(argv[1:])
    config = load(EvalConfig, argv, package="eval", prog="drspo eval", description=EvalConfig.__doc__ or "")
    setup()
    check(config)
    run = RunDir(config.out)
    if run.start("eval", config, config_hash(to_dict(replace(config, out="", device="")))):
        logging.info("continuing the benchmark in %s", config.out)
    make_pictures(config, run)
    records = take_numbers(config, run)
    rows, ranks = table(records, config.baseline), average_ranks(records)
    text = markdown(rows, ranks, records, config.baseline)
    run.write("tables.md", text.encode())
    run.write("tables.json", json.dumps(as_json(rows, ranks), indent=2).encode())
    run.write("index.html", page(config, run, records, rows, ranks).encode())
    print(text)
    print(f"page: {Path(config.out) / 'index.html'}")
    return 0


def check(config: EvalConfig) -> None:
    """Nothing for a benchmark that can run; UserError before any heavy work otherwise."""
    if not config.out:
        raise UserError(
            "where shall the benchmark go?", "--out", "name a folder, for example --out runs/eval-001"
        )
    if config.baseline not in config.methods:
        raise UserError(
            f"the baseline {config.baseline!r} is not among the methods",
            "--baseline",
            f"choose one of {', '.join(config.methods)}",
        )
    for name in config.methods:
        method(name)
    read_prompts(config.pictures.prompts, config.pictures.limit)

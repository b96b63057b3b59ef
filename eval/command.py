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
from drspo.registry import resolve
from eval.config import EvalConfig
from eval.markdown import markdown
from eval.methods import method
from eval.report import page
from eval.settings import short_names
from eval.suite import build_judges, make_pictures, read_prompts, take_numbers
from eval.tables import Comparison

OTHERS = {"--coverage": "eval.coverage:main", "--selftest": "eval.selftest:main", "score": "eval.score:main"}
"""What the first word may ask for instead of a benchmark."""


def main(argv: list[str]) -> int:
    """Makes what is missing, scores it, writes tables and the page, and says where they are."""
    if argv and argv[0] in OTHERS:
        return int(resolve(OTHERS[argv[0]])(argv[1:]))
    config = load(EvalConfig, argv, package="eval", prog="drspo eval", description=EvalConfig.__doc__ or "")
    setup()
    check(config)
    run = RunDir(config.out)
    judges = build_judges(config, run)
    if run.start("eval", config, config_hash(to_dict(replace(config, out="", device="")))):
        logging.info("continuing the benchmark in %s", config.out)
    make_pictures(config, run)
    found = Comparison(take_numbers(config, run, judges), config.baseline, config.judges.trained)
    text = markdown(found)
    run.write("tables.md", text.encode())
    run.write("tables.json", json.dumps(found.as_json(), indent=2).encode())
    run.write("index.html", page(config, run, found).encode())
    print(text)
    print(f"page: {Path(config.out) / 'index.html'}")
    return 0


def check(config: EvalConfig) -> None:
    """Nothing for a benchmark that can run; UserError before any heavy work otherwise."""
    if not config.out:
        raise UserError(
            "where shall the benchmark go?", "--out", "name a folder, for example --out runs/eval-001"
        )
    if len(set(config.methods)) < len(config.methods):
        twice = next(name for name in config.methods if config.methods.count(name) > 1)
        raise UserError(f"the method {twice!r} is named twice", "--methods", "name each method once")
    if config.baseline not in config.methods:
        raise UserError(
            f"the baseline {config.baseline!r} is not among the methods",
            "--baseline",
            f"choose one of {', '.join(config.methods)}",
        )
    for name in config.methods:
        method(name)
    if config.pictures.seeds < 1 or config.judges.batch < 1:
        raise UserError(
            f"{config.pictures.seeds} seeds per prompt, {config.judges.batch} pictures at once",
            "pictures.seeds, judges.batch",
            "both are 1 or more",
        )
    columns = short_names([entry.partition("=")[0] for entry in config.judges.scorers])
    for name in config.judges.trained:
        if name not in columns:
            raise UserError(
                f"{name!r} is marked as a training label and is no scorer here", "judges.trained",
                f"one of {', '.join(columns)}",
            )  # fmt: skip
    read_prompts(config.pictures.prompts, config.pictures.limit)

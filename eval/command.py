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
from eval.judges import build_judges, columns_of
from eval.markdown import markdown
from eval.methods import method
from eval.report import page
from eval.suite import make_pictures, read_prompts, take_numbers
from eval.tables import Comparison
from generate.images.upscale import SOURCES
from generate.models.specs import MODELS

OTHERS = {
    "--coverage": "eval.coverage:main",
    "--selftest": "eval.selftest:main",
    "score": "eval.score:main",
}
"""What the first word may ask for instead of a benchmark."""


def main(argv: list[str]) -> int:
    """Makes what is missing, scores it, writes tables and the page, and says where they are."""
    if argv and argv[0] in OTHERS:
        return int(resolve(OTHERS[argv[0]])(argv[1:]))
    config = load(EvalConfig, argv, package="eval", prog="drspo eval", description=EvalConfig.__doc__ or "")
    setup()
    check(config)
    run = RunDir(config.out)
    judges = build_judges(config.judges, model=config.model, device=config.device, cache=run.url("cache"))
    if run.start("eval", config, config_hash(to_dict(replace(config, out="", device="")))):
        logging.info("continuing the benchmark in %s", config.out)
    make_pictures(config, run)
    found = Comparison(
        take_numbers(config, run, judges), config.baseline, config.judges.trained, config.judges.aside
    )
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
        row = method(name)
        spec = MODELS.get(row.model or config.model)
        if row.upscale != 1 and not config.upscaler and (spec is None or not spec.upscaler):
            raise UserError(f"{name} has no upscaler of its own", "--upscaler", SOURCES)
    loras = config.lora_blueprint or config.lora_highres
    if {"drspo", "drspo-without-dpo"} <= set(config.methods) and not loras:
        raise UserError(
            "drspo without LoRAs and drspo-without-dpo are the same thing twice",
            "--methods",
            "give --lora-blueprint and --lora-highres, or leave one of the methods out",
        )
    if config.pictures.seeds < 1:
        raise UserError(f"{config.pictures.seeds} seeds per prompt", "pictures.seeds", "1 or more")
    columns_of(config.judges)
    read_prompts(config.pictures.prompts, config.pictures.limit)

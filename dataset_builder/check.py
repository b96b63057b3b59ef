"""What would only fail hours later, found before the first byte is written."""

from __future__ import annotations

import polars as pl

from dataset_builder.config import BuildConfig, run_hash, uses_llm
from dataset_builder.orphan import check_orphan
from drspo.errors import UserError
from drspo.files.run import MANIFEST, RunDir
from drspo.llm.access import check_access
from drspo.options import check_options
from drspo.ranges import check_ranges
from pipeline.checks import check_generators, check_pools, check_scorers, check_texts
from pipeline.ideas.blocks import IDEAS, READ_NAME
from pipeline.ideas.finished import PROMPTS_NAME
from pipeline.ideas.sources import check_source
from pipeline.pairs.columns import column_names
from pipeline.pairs.pairing import choose_pairs, score_weights


def check(config: BuildConfig) -> None:
    """Raise UserError for what would only fail hours later."""
    if not config.out:
        raise UserError("which folder is the run's?", "--out", "For example --out runs/scrolls-001.")
    check_pools(config.resources)
    run = RunDir(config.out)
    check_orphan(run, config)
    check_settings(config, run)
    if run.exists(PROMPTS_NAME):
        return
    check_texts(config.expand, config.filter)
    if not (run.exists(IDEAS) or run.exists(READ_NAME)):
        check_source(config.prompts)
    if uses_llm(config):
        check_access(config.llm)


def check_settings(config: BuildConfig, run: RunDir | None) -> None:
    """UserError for settings that no run can have, or not this one; no source and no server is asked."""
    if not config.scoring.scorers or not config.candidates.generators:
        raise UserError("at least one generator and one scorer are needed")
    check_ranges(config)
    begun = run is not None and run.exists(MANIFEST) and run.manifest()["config_hash"] == run_hash(config)
    if not begun:  # else its plugins were there, and need not be any more
        check_scorers(config.scoring)
        check_generators(config.candidates)
    scorers = (*config.scoring.columns, *(column_names(run) if run else ()))
    score_weights(config.pairs, scorers)
    choose_pairs(_no_candidates(scorers), config.pairs, scorers)
    check_options(config.candidates.options, config.candidates.generators, "candidates.options")
    check_options(config.scoring.options, tuple(config.scoring.named), "scoring.options")


def _no_candidates(scorers: tuple[str, ...]) -> pl.DataFrame:
    text = ("unit_id", "prompt_id", "prompt", "candidate_id", "generator")
    whole = ("seed", "height", "width")
    scores = {"scores": pl.Struct(dict.fromkeys(scorers, pl.Float64))}
    return pl.DataFrame(schema={**dict.fromkeys(text, pl.String), **dict.fromkeys(whole, pl.Int64), **scores})

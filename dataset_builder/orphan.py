"""A folder with results but without `run.json`: whether what it holds proves to be of a configuration."""

from __future__ import annotations

from itertools import islice

from dataset_builder.config import BuildConfig, prompts_hash, units_hash
from dataset_builder.ending import SCORES_NAME
from dataset_builder.metrics import METRICS_NAME
from dataset_builder.report.head import README
from dataset_builder.report.stats import STATS_NAME
from drspo.config import dump
from drspo.errors import UserError
from drspo.files.run import CONFIG, MANIFEST, RunDir
from pipeline.candidates.plan import PLAN_NAME, plan_names, read_plan_so_far
from pipeline.candidates.provenance import SCORERS
from pipeline.damage import DamagedFile
from pipeline.ideas.finished import PROMPTS_NAME
from pipeline.ideas.origin import SOURCE_NAME, read_record
from pipeline.units import UnitStore, done_units

NAMES = {README, STATS_NAME, SCORES_NAME, SCORERS, METRICS_NAME}
NAMES |= {f"{name}/" for name in "units phases export attempts dead models gallery scores quarantine".split()}
"""What a run writes, but for what a killed start or another run's answers may have left."""


def check_orphan(run: RunDir, config: BuildConfig) -> None:
    """UserError where the manifest is gone and another configuration may have made what is there."""
    if run.exists(MANIFEST):
        return
    _refuse_foreign(run, config)
    strange = _strange(run, config)
    if not strange or run.exists(MANIFEST):  # another copy of the job may have begun meanwhile
        return
    raise UserError(
        f"{MANIFEST} is gone, and nothing says that {strange} here are of this configuration",
        run.base,
        f"Restore {MANIFEST}, ask for what the folder was begun with, or choose another folder. If these are "
        "of this configuration, delete prompts.parquet, plan.parquet and phases/: they are made again of "
        "the source and of what a language model has answered, and the images stay.",
    )


def _refuse_foreign(run: RunDir, config: BuildConfig) -> None:
    """UserError where what has a run's names stands in a folder that is none: it would be written over.

    Tables of prompts, a plan or units show that it is one.
    """
    there = run.level("")
    texts = any(name == SOURCE_NAME or name.endswith(".parquet") for name in run.list("phases/"))
    if texts or {PROMPTS_NAME, PLAN_NAME} & set(there) or done_units(run):
        return
    strange = next((name for name in there if name in NAMES and run.list(name)), "")
    # A start that was killed early leaves its configuration alone.
    if not strange and run.exists(CONFIG) and run.read(CONFIG) != dump(config).encode():
        strange = CONFIG
    if strange and not run.exists(MANIFEST):
        raise UserError(
            f"there is {strange} in this folder, which is no run's, and a run would write its own",
            run.base,
            "Choose another output folder: a new one, or an empty one.",
        )


def _strange(run: RunDir, config: BuildConfig) -> str:
    """What is there that is not proved to be of the configuration; nothing where all is."""
    stored = run.exists(PROMPTS_NAME) or run.list("phases/")
    if stored and read_record(run).get("prompts_hash") != prompts_hash(config):
        return "the prompts"
    wanted = units_hash(config)
    if plan_names(run):
        made = (piece["config_hash"][0].as_py() for piece in read_plan_so_far(run) if piece.num_rows)
        return "" if next(made, wanted) == wanted else "the planned images"
    store = UnitStore(run, wanted, config.scoring.columns)
    try:
        for unit in islice(store.done(), 1):
            store.read(unit, ["unit_id"])
    except DamagedFile:
        return "the images"
    return ""

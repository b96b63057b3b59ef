"""Whose a run folder is: one configuration begins it, mends it while it has no result, and can lose it."""

from __future__ import annotations

import logging
import shlex

from dataset_builder.config import BuildConfig, run_hash, same_prompts, units_hash
from dataset_builder.ending import SCORES_NAME
from dataset_builder.metrics import METRICS_NAME
from dataset_builder.report.head import README
from dataset_builder.report.stats import STATS_NAME
from drspo.config import dump
from drspo.errors import UserError
from drspo.files.run import CONFIG, MANIFEST, RunDir
from drspo.files.texts import load_yaml
from pipeline.candidates.plan import PLAN_NAME, planned_hash
from pipeline.candidates.provenance import MODELS, SCORERS
from pipeline.ideas.finished import PROMPTS_NAME
from pipeline.ideas.origin import OTHER_SETTINGS, THEIRS, has_changed

log = logging.getLogger(__name__)

# Of a run without images: what another configuration of the images goes on with, and what it replaces. Of one
# whose prompts all died and were put back, there may be everything that an ending leaves but an export.
GALLERY = ("gallery/index.html", "gallery/scrolls/")
TEXTS, ENDED = ("phases/", PROMPTS_NAME), (SCORES_NAME, STATS_NAME, README, METRICS_NAME, "dead/", *GALLERY)
PLANNED = (PLAN_NAME, "phases/plan-", "attempts/", MODELS, SCORERS, *ENDED)
ANSWERS = "cache/llm/"  # each by its own question, so true for any configuration


def begin(run: RunDir, config: BuildConfig) -> None:
    """Begin the run, or continue it. UserError with the difference where the folder is another's."""
    reusable, stale = _reusable(run, config)
    try:
        continued = run.start("dataset_builder", config, run_hash(config), reusable=reusable, stale=stale)
    except FileNotFoundError as error:
        # Writing needs no folder to exist, but it does need the bucket.
        raise UserError(str(error), run.base, "Create the bucket, or mend the URL.") from error
    if continued:
        log.info("continuing the run in %s", run.base)
        # Pairing, export and resources may change within a run; the file says what the last start used.
        run.write(CONFIG, dump(config).encode())
    if has_changed(run, config.prompts.source):
        told = "%s is another than when it was read; the ideas of this run stay as they were"
        log.warning(told, config.prompts.source)


def _reusable(run: RunDir, config: BuildConfig) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What stays true of a folder without images when something else is asked for, and what is replaced.

    With the same prompts these stay. Other prompts replace unfinished ones and those that cost nothing;
    finished ones that a language model was paid for are never removed.
    """
    if not run.exists(MANIFEST):
        return (), PLANNED
    manifest = run.manifest()
    if same_prompts(config, manifest):
        return (*TEXTS, ANSWERS), PLANNED
    paid = "llm" in manifest["phases"].get("prompts", {})
    return (ANSWERS,), PLANNED if paid else (*TEXTS, *PLANNED)


def command(run: RunDir) -> str:
    """How to build on with the run's settings to its pairs, for further settings to be written behind it."""
    words = "the command that began the run, with"
    if run.is_local:
        words = shlex.join(["python", "-m", "dataset_builder", "--config", f"{run.base}/{CONFIG}"])
    text = run.read(CONFIG).decode(errors="replace") if run.exists(CONFIG) else ""
    asked = load_yaml(text, run.url(CONFIG))
    # The file has what the last start was asked, which may have been the prompts alone.
    alone = isinstance(asked, dict) and asked.get("until") == "prompts"
    return f"{words} --until shards" if alone else words


def refuse_other_settings(run: RunDir, config: BuildConfig, *, planned: bool = True) -> None:
    """UserError when another start has taken the folder, which had no image yet, for other settings.

    Asked before this start changes what the other may have made: two small reads, or one without a plan.
    """
    ours = run.manifest()["config_hash"] == run_hash(config)
    if ours and not (planned and planned_hash(run) != units_hash(config)):
        return
    raise UserError(OTHER_SETTINGS, run.base, THEIRS)

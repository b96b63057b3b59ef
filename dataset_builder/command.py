"""`python -m dataset_builder`: the configuration, an executor, the build, and what to say at the end."""

from __future__ import annotations

import logging
import os
import shlex
import sys

from dataset_builder.build import Build, Executor, Outcome, check
from dataset_builder.config import BuildConfig
from dataset_builder.export import Writer
from dataset_builder.report.status import NOTHING_PASSED
from drspo import log as logs
from drspo.cli import DEAD
from drspo.config import load, presets
from drspo.files.storage import Storage

log = logging.getLogger(__name__)


def main(argv: list[str]) -> int:
    """Build a preference data set; 0 when done, 3 when more prompts died than the threshold allows."""
    config = load(
        BuildConfig,
        argv,
        package="dataset_builder",
        prog="dataset_builder",
        description="Prompts to scored candidates to preference pairs. The same command again continues.",
    )
    if config.plan:
        from dataset_builder.planned import main_plan

        return int(main_plan(config))
    check(config)
    path = Storage(config.out).local_path("log.txt")
    logs.setup(file=path)
    return finish(config, Build(config, executor(config), writer(config))())


def executor(config: BuildConfig) -> Executor:
    """The executor that the configuration and the machine ask for."""
    if _kind(config) == "local":
        from pipeline.local import run_units

        return run_units
    from pipeline.flow import RayExecutor

    return RayExecutor(config.resources)


def writer(config: BuildConfig) -> Writer | None:
    """What writes the shards, on the same machines; None where this process does."""
    if _kind(config) == "local":
        return None
    from dataset_builder.spread import RayWriter

    return RayWriter(config.resources)


def _kind(config: BuildConfig) -> str:
    return config.executor if config.executor != "auto" else _automatic()


def _automatic() -> str:
    if os.environ.get("RAY_ADDRESS"):
        return "ray"
    import torch

    return "ray" if torch.cuda.device_count() > 1 else "local"


def next_command(config: BuildConfig) -> str:
    """What one would want to type after a build: the training of the first stage on its pairs."""
    model = config.candidates.model
    chosen = ["--config", model] if model in presets("train") else ["--model", model] if model else []
    folder = config.out.rstrip("/")
    own = f"{folder}-blueprint" if "://" not in folder else f"runs/{folder.rpartition('/')[2]}-blueprint"
    words = [*chosen, "--stage", "blueprint", "--data.source", config.out, "--out", own]
    return shlex.join(["python", "-m", "train", *words])


def finish(config: BuildConfig, outcome: Outcome) -> int:
    """Say what came of the run; gives the exit code."""
    if config.until == "prompts":
        return _finish_prompts(config, outcome)
    pairs = ", ".join(f"{count} {split}" for split, count in outcome.pairs.items()) or "none"
    print(f"prompts   {outcome.accepted} accepted of {outcome.prompts}")
    if outcome.unfinished:
        print(f"          {outcome.unfinished} without an answer of the language model")
    print(f"images    {outcome.made_now} units made now, {outcome.dead} prompts dead")
    print(f"pairs     {pairs}, in {len(outcome.shards)} shards")
    where = shlex.quote(config.out)
    print(f"see       drspo view {where}   |   drspo status {where}")
    if outcome.pairs.get("train"):
        print(f"next      {next_command(config)}")
    elif not outcome.pairs:
        print(f"next      {_without_pairs(config.pairs.min_margin)}")
    return _judge(config, outcome)


def _without_pairs(margin: float) -> str:
    """What to do where no pair came of the images."""
    more = "more seeds, in a run of its own"
    if not margin:
        return f"no image of any prompt is better than another: {more}"
    return f"no two images of a prompt are {margin:g} apart: a smaller --pairs.min-margin here, or {more}"


def _finish_prompts(config: BuildConfig, outcome: Outcome) -> int:
    where = shlex.quote(config.out)
    print(f"prompts   {outcome.accepted} accepted of {outcome.prompts}, {outcome.dead} dead")
    if outcome.unfinished:
        print(f"          {outcome.unfinished} without an answer of the language model")
    print(f"see       drspo status {where}")
    if outcome.accepted:
        print(f"next      the same command without --until, or other images with --prompts.source {where}")
    else:
        print(f"next      {NOTHING_PASSED}")
    return _judge(config, outcome)


def _judge(config: BuildConfig, outcome: Outcome) -> int:
    """The exit code, and why it is not 0."""
    if outcome.dead_share <= config.dead_threshold:
        return 0
    lost = f"{outcome.dead} prompts are dead"
    if outcome.unfinished:
        lost += f" and {outcome.unfinished} unfinished"
    print(
        f"{lost} ({outcome.dead_share:.1%}), more than the threshold of "
        f"{config.dead_threshold:.1%}. `drspo status {config.out}` shows why; "
        f"`drspo retry-dead {config.out}` and the same command try them again.",
        file=sys.stderr,
    )
    return DEAD

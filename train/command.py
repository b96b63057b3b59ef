"""`python -m train`: pairs to a LoRA, or `--resume DIR` to go on with a run."""

import logging
import os
import shlex
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from drspo.config import dump, load
from drspo.errors import UserError
from drspo.files.run import CONFIG, MANIFEST, RunDir
from drspo.log import setup
from train.checks import check_config, check_launch
from train.config import TrainConfig, identity
from train.lock import NAME as LOCK
from train.lock import FolderLock
from train.processes import lost_peers_named, start_the_others
from train.settings import DataConfig

log = logging.getLogger(__name__)

PROGRAMS = {
    "dataset_builder": "the dataset builder",
    "demo": "the demonstration",
    "eval": "the evaluation",
}
PAIRS = ("dataset_builder",)
"""Whose folders hold pairs to train on."""

BEGUN = (
    *(
        "pairs.json",
        "dropped.jsonl",
        "metrics.jsonl",
        "validation.jsonl",
        "timings.jsonl",
        "wandb-id",
        "index.html",
    ),
    *(".part-", "samples/", "tensorboard/", "wandb/", "checkpoints/."),
)
"""How names begin that a run writes before its first checkpoint; they belong to its configuration."""

DESCRIPTION = """Train one stage's LoRA from preference pairs.

  python -m train --config miniature --stage blueprint --data.source RUN --out DIR
  python -m train --resume DIR          goes on to the bit, and needs nothing else

A killed run loses at most the steps since its last checkpoint. The same command again also goes on."""


def main(argv: list[str]) -> int:
    """Runs the trainer on the command line `argv`; 0 when the LoRA is written."""
    config = parse(argv)
    if config.plan:
        from train.plan import print_plan

        check_config(replace(config, out=config.out or "nowhere", data=_any_data(config)))
        check_launch(config, os.environ)
        print_plan(config)
        return 0
    check_config(config)
    start_the_others(os.environ, argv)
    check_launch(config, os.environ)
    rank = int(os.environ.get("RANK", "0"))
    _quiet_other_processes(rank)
    # One process writes into the folder, so one holds its lock.
    with FolderLock(config.out) if rank == 0 else nullcontext():
        if rank == 0:
            begin(config)
        from train.loop import train

        with lost_peers_named(os.environ):
            train(config)
    if rank == 0:
        print(f"see       drspo view {shlex.quote(config.out)}")
        print(f"next      {next_command(config)}")
    return 0


def _any_data(config: TrainConfig) -> DataConfig:
    """The settings of the data, with a source if there is none: a plan reads no pair."""
    return replace(config.data, source=config.data.source or "none")


def parse(argv: list[str]) -> TrainConfig:
    """The configuration of a new run, or with `--resume DIR` the one stored there with any flags on top."""
    folder, rest = _resume(argv)
    if folder is None:
        return load(TrainConfig, rest, package="train", prog="python -m train", description=DESCRIPTION)
    stored = folder / CONFIG
    if not stored.is_file() or not (folder / MANIFEST).is_file():
        missing = MANIFEST if stored.is_file() else CONFIG
        hint = "give the --out folder of a run"
        raise UserError(f"no run to resume: there is no {missing}", str(folder), hint)
    _require_training(folder)
    config = load(
        TrainConfig,
        ["--config", str(stored), *rest],
        package="train",
        prog="python -m train",
        description=DESCRIPTION,
    )
    return replace(config, out=str(folder))


def _require_training(folder: Path) -> None:
    program = RunDir(folder).manifest()["program"]
    if program != "train":
        of = PROGRAMS.get(program, f"{program!r}")
        hint = f"train on it: python -m train --data.source {shlex.quote(str(folder))} --out DIR"
        raise UserError(
            f"this is a run of {of}, not of the trainer", str(folder), hint if program in PAIRS else ""
        )


def begin(config: TrainConfig) -> None:
    """Starts or continues the run folder; `UserError` with the difference when another run owns it.

    A folder that holds no result yet, neither checkpoint nor LoRA, takes a corrected configuration.
    """
    run = RunDir(config.out)
    continued = run.start("train", config, identity(config), reusable=(LOCK,), stale=BEGUN)
    setup(file=Path(config.out) / "log.txt")
    if continued:
        # The free settings of the latest start are the ones that --resume should find.
        run.write(CONFIG, dump(config).encode())
    log.info("%s %s, stage %s", "continuing" if continued else "starting", config.out, config.stage)


def next_command(config: TrainConfig) -> str:
    """What one would want to type after a training: a scroll with the LoRA."""
    lora = ["--model", config.model, "--lora", config.out, "--out", "scroll.png"]
    return shlex.join(["python", "-m", "generate", "a lighthouse at dusk", *lora])


def _resume(argv: list[str]) -> tuple[Path | None, list[str]]:
    """(DIR of --resume or None, the other arguments)."""
    rest, folder, queue = [], None, list(argv)
    while queue:
        token = queue.pop(0)
        if token == "--resume":
            if not queue or queue[0].startswith("--"):
                raise UserError("--resume needs the folder of a run")
            folder = Path(queue.pop(0))
        elif token.startswith("--resume="):
            folder = Path(token.partition("=")[2])
        else:
            rest.append(token)
    return folder, rest


def _quiet_other_processes(rank: int) -> None:
    """Only the first of several processes talks; the others still report warnings and errors."""
    if rank:
        logging.getLogger().setLevel(logging.ERROR)

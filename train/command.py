"""`python -m train`: pairs to a LoRA, or `--resume DIR` to go on with a run."""

import logging
import os
from dataclasses import replace
from pathlib import Path

from drspo.config import dump, load
from drspo.errors import UserError
from drspo.files.run import CONFIG, RunDir
from drspo.log import setup
from train.config import TrainConfig, identity
from train.objective.losses import check as check_loss

log = logging.getLogger(__name__)

DESCRIPTION = """Train one stage's LoRA from preference pairs.

  python -m train --config miniature --stage blueprint --data.source RUN --out DIR
  python -m train --resume DIR          goes on to the bit, and needs nothing else

A killed run loses at most the steps since its last checkpoint. The same command again also goes on."""


def main(argv: list[str]) -> int:
    """Runs the trainer on the command line `argv`; 0 when the LoRA is written."""
    config = parse(argv)
    check_config(config)
    rank = int(os.environ.get("RANK", "0"))
    _quiet_other_processes(rank)
    if rank == 0:
        begin(config)
    from train.loop import train

    train(config)
    return 0


def parse(argv: list[str]) -> TrainConfig:
    """The configuration of a new run, or with `--resume DIR` the one stored there with any flags on top."""
    folder, rest = _resume(argv)
    if folder is None:
        return load(TrainConfig, rest, package="train", prog="python -m train", description=DESCRIPTION)
    stored = folder / CONFIG
    if not stored.is_file():
        raise UserError(
            f"no run to resume: there is no {CONFIG}", str(folder), "give the --out folder of a run"
        )
    config = load(
        TrainConfig,
        ["--config", str(stored), *rest],
        package="train",
        prog="python -m train",
        description=DESCRIPTION,
    )
    return replace(config, out=str(folder))


def begin(config: TrainConfig) -> None:
    """Starts or continues the run folder; `UserError` with the difference when another run owns it."""
    run = RunDir(config.out)
    continued = run.start("train", config, identity(config))
    setup(file=Path(config.out) / "log.txt")
    if continued:
        # The free settings of the latest start are the ones that --resume should find.
        run.write(CONFIG, dump(config).encode())
    log.info("%s %s, stage %s", "continuing" if continued else "starting", config.out, config.stage)


def check_config(config: TrainConfig) -> None:
    """Raises `UserError` for settings that contradict each other, before anything is loaded."""
    check_loss(config.loss)
    if not config.out:
        raise UserError("no folder to write to", "--out", "python -m train ... --out DIR")
    if not config.data.source:
        raise UserError(
            "no pairs to train on", "--data.source", "a run folder, a Parquet file or a Hub dataset id"
        )
    for name in ("max_steps", "checkpoint_every", "pairs_per_step", "keep_last"):
        if getattr(config, name) < 1:
            raise UserError(
                f"{name} is {getattr(config, name)}", f"--{name.replace('_', '-')}", "use 1 or more"
            )
    if not 0 <= config.ema < 1:
        raise UserError(f"ema is {config.ema}", "--ema", "a decay of 0 up to, and not including, 1")
    if config.noise.t_max and config.noise.t_max <= config.noise.t_min:
        raise UserError("the range of timesteps is empty", "--noise.t-max", "it must exceed noise.t_min")
    if config.lora.rank < 1 or config.lora.alpha <= 0:
        raise UserError("a LoRA needs a rank of at least 1 and a positive alpha", "--lora.rank")
    watching = config.validation.max_winner_drift > 0 or config.export == "best"
    if watching and not config.data.validation_pairs:
        raise UserError(
            "early stopping and export=best need held-out pairs",
            "--data.validation-pairs",
            "hold out 16 or more",
        )


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

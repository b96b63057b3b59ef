"""`drspo study`: builds pairs, trains both LoRAs, paints every row at three formats, writes what came out.

Each part is a program that a user could type; what is done is not done again. A few hours on two cores.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Annotated, Any

from drspo.config import config_hash, find_config, load, to_dict
from drspo.demo.command import Program, run_program
from drspo.errors import UserError
from drspo.files.run import MANIFEST, RunDir
from drspo.hashing import content_hash
from drspo.log import setup
from drspo.ranges import Natural, Range

log = logging.getLogger(__name__)

DESCRIPTION = """The paper in miniature: from the embedded zoo to both tables with intervals, and its claims
one by one as seen, not seen or reversed. The same command again continues, and paints what has been added
since: rows of a later version, more prompts or seeds."""

FORMATS = {"1:4": (128, 512), "1:8": (128, 1024), "1:16": (128, 2048)}
"""The paper's scroll at an eighth of its size, and the very long ones."""
LONG_ROWS = ("multidiffusion", "sdxl", "mad", "drspo", "drspo-without-control", "drspo-without-blueprint")
"""What is painted at the longer formats."""


PLACES = ("out", "page", "workers")
"""What changes no result."""
GROWING = ("prompts", "long_prompts", "seeds")
"""What a finished study may be asked for more of."""
MOST_PROMPTS = 48
"""How many test prompts there are; --prompts 0 takes all."""


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """How much the study does."""

    out: str = "runs/study"
    """Folder for everything; the same command again continues there."""
    page: str = "docs/miniature_study.md"
    """The page to write."""
    pairs_prompts: Annotated[int, Range(3, 100_000)] = 200
    """Prompts of the data set, each of which gets six candidates."""
    train_steps: Annotated[int, Range(1, 1_000_000)] = 100
    """Optimiser steps of each stage."""
    prompts: Natural = 0
    """The first N of the 48 test prompts at 1:4; 0 takes all."""
    long_prompts: Annotated[int, Range(1, MOST_PROMPTS)] = 12
    """Test prompts at 1:8 and 1:16."""
    seeds: Annotated[int, Range(1, 100)] = 2
    """Seeds for each test prompt at 1:4; the longer formats have one."""
    denoising_steps: Annotated[int, Range(2, 1000)] = 25
    """Denoising steps of every picture of the tables."""
    workers: Annotated[int, Range(1, 64)] = 2
    """Processes that paint."""


def main(argv: list[str]) -> int:
    """Does what is missing, part by part, and writes the page."""
    config = load(StudyConfig, argv, package="drspo", prog="drspo study", description=DESCRIPTION)
    if "://" in config.out or "://" in config.page:
        raise UserError("the study needs a local folder", where="--out")
    setup()
    run = RunDir(config.out)
    kept = {key: value for key, value in to_dict(config).items() if key not in PLACES}
    run.start("study", config, config_hash(kept), extends=partial(extends, config))
    parts = plan(config)
    asked = {name: _asked(program) for name, program in parts.items()}
    left = [name for name in parts if not _done(run, name, asked[name])]
    log.info("%d of %d parts to do, %s in all", len(left), len(parts), about(config, *left))
    for number, (name, program) in enumerate(parts.items(), 1):
        if name not in left:
            continue
        log.info("part %d of %d: %s (%s)", number, len(parts), name, about(config, name))
        started = time.monotonic()
        run_program(program if name != "page" else _report(config, run), lambda progress: None)
        if name != "page":
            before = run.phases().get(name, {}).get("seconds", 0)
            seconds = round(before + time.monotonic() - started, 1)
            run.phase_done(name, seconds=seconds, asked=asked[name])
    print(f"page      {config.page}\nnext      docs/evaluate.md tells what its tables mean")
    return 0


def plan(config: StudyConfig) -> dict[str, Program]:
    """The programs in order, by the name of their part."""
    data = f"{config.out}/pairs"
    loras = {stage: f"{config.out}/lora-{stage}" for stage in ("blueprint", "highres")}
    parts = {
        "pairs": Program(
            "dataset_builder.command:main",
            (
                *("--config", "miniature", "--executor", "local", "--out", data),
                *("--prompts.limit", str(config.pairs_prompts)),
            ),
            "units",
            1,
        )
    }
    for stage, folder in loras.items():
        argv = ["--config", "miniature", "--stage", stage, "--data.source", data, "--out", folder]
        argv += ["--max-steps", str(config.train_steps), "--samples.every", "0"]
        argv += ["--data.cache", f"{config.out}/cache"]
        parts[f"training {stage}"] = Program("train.command:main", tuple(argv), "steps", 1)
    for title, size in FORMATS.items():
        parts[f"scrolls {title}"] = Program(
            "eval.command:main", _evaluate(config, title, size, loras), "scrolls", 1
        )
    parts["page"] = _report(config, RunDir(config.out))
    return parts


def extends(config: StudyConfig, old: dict[str, Any]) -> bool:
    """Whether `config` asks for no less than the configuration `old`, on the same pairs and LoRAs."""
    now = to_dict(config)
    if any(old.get(key) != now[key] for key in now if key not in (*PLACES, *GROWING)):
        return False
    grown = [(old.get(key) or MOST_PROMPTS, now[key] or MOST_PROMPTS) for key in GROWING]
    return all(before <= after for before, after in grown)


def _asked(program: Program) -> str:
    """What a part depends on: its command, and the presets that this names, which may get rows later."""
    package = program.target.partition(".")[0]
    named = [value for flag, value in pairwise(program.argv) if flag == "--config"]
    texts = [find_config(name, package).read_text(encoding="utf-8") for name in named]
    return content_hash(*program.argv, *texts, length=16)


def _done(run: RunDir, name: str, asked: str) -> bool:
    """Pairs and LoRAs are made once; scrolls again where more are asked for, which paints only those."""
    done = run.phases().get(name)
    return done is not None and (not name.startswith("scrolls") or done.get("asked") == asked)


def _evaluate(
    config: StudyConfig, title: str, size: tuple[int, int], loras: dict[str, str]
) -> tuple[str, ...]:
    whole = title == "1:4"
    argv = ["--config", "miniature-study", "--out", _folder(config, title), "--workers", str(config.workers)]
    argv += [token for stage, folder in loras.items() for token in (f"--lora-{stage}", folder)]
    argv += ["--pictures.height", str(size[0]), "--pictures.width", str(size[1])]
    argv += ["--pictures.steps", str(config.denoising_steps)]
    argv += ["--pictures.seeds", str(config.seeds if whole else 1)]
    argv += ["--pictures.limit", str(config.prompts if whole else config.long_prompts)]
    return tuple(argv if whole else [*argv, "--methods", *LONG_ROWS, "--options"])


def _report(config: StudyConfig, run: RunDir) -> Program:
    seconds = sum(done.get("seconds", 0) for done in run.phases().values()) if run.exists(MANIFEST) else 0
    facts = {
        "command": _command(config),
        "took": f"{seconds // 3600:.0f} h {seconds % 3600 / 60:.0f} min, {config.workers} processes painting",
        "pairs from": f"{config.pairs_prompts} prompts, preset miniature",
        "training": f"{config.train_steps} steps of each stage, preset miniature",
        "denoising steps": str(config.denoising_steps),
    }
    told = [token for key, value in facts.items() for token in ("--fact", f"{key}={value}")]
    runs = [f"{title}={_folder(config, title)}" for title in FORMATS]
    return Program("eval.command:main", ("study", *runs, "--out", config.page, *told), "", 1)


def _command(config: StudyConfig) -> str:
    """The command that a reader types to get the same, without the places of this machine."""
    usual, now = to_dict(StudyConfig()), to_dict(config)
    told = [(key, value) for key, value in now.items() if key not in PLACES and value != usual[key]]
    return " ".join(["drspo study", *(f"--{key.replace('_', '-')} {value}" for key, value in told)])


def _folder(config: StudyConfig, title: str) -> str:
    return f"{config.out}/scrolls-{title.replace(':', '-')}"


def about(config: StudyConfig, *names: str) -> str:
    """How long parts take together on two cores, roughly, so that nobody waits in the dark."""
    pictures = (config.prompts or MOST_PROMPTS) * config.seeds * 10
    longer = config.long_prompts * len(LONG_ROWS)
    scroll = SECONDS * config.denoising_steps / 25 / min(config.workers, 2) / 60
    minutes = {
        "pairs": config.pairs_prompts * 6 * SECONDS / 60,
        "training blueprint": config.train_steps * STEP_SECONDS["blueprint"] / 60,
        "training highres": config.train_steps * STEP_SECONDS["highres"] / 60,
        "scrolls 1:4": pictures * scroll,
        "scrolls 1:8": longer * 2 * scroll,
        "scrolls 1:16": longer * 4 * scroll,
    }
    together = sum(minutes.get(name, 0.0) for name in names)
    if together >= 120:
        return f"about {together / 60:.1f} hours"
    return f"about {together:.0f} minutes" if together >= 1 else "less than a minute"


SECONDS = 6.0
"""Of one core for a scroll of 1:4 with 25 steps; 5.3 were measured with 20, scores and start included."""
STEP_SECONDS = {"blueprint": 2.0, "highres": 16.0}
"""Of two cores for an optimiser step of a stage; a guess that no run has checked."""

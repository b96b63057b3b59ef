"""`drspo demo`: prompts, candidates, pairs, both trainings and a scroll on a CPU, told on one HTML page.

Each phase is a command that a user could type (the page shows them); this runs them one after the
other behind a single bar. A second run continues, or says that all is done.
"""

from __future__ import annotations

import contextlib
import logging
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, TextIO

from drspo import log, registry
from drspo.config import config_hash, load, to_dict
from drspo.demo.config import PAGE, SCROLL, STAGES, UNTRAINED, DemoConfig
from drspo.demo.page import write_page
from drspo.errors import UserError
from drspo.files.run import RunDir
from drspo.leaving import public_name

DESCRIPTION = """The whole story on the embedded miniature, with no download: a small data set is built, both
stages are trained on it for a few steps, a scroll is made, and one HTML page tells it."""


@dataclass(frozen=True)
class Program:
    """One command of a phase, the unit in which it counts its main work, and how much work that is."""

    target: str
    argv: tuple[str, ...]
    unit: str
    work: int


@dataclass(frozen=True)
class Phase:
    """A part of the story: its title and its commands."""

    name: str
    title: str
    programs: tuple[Program, ...]

    @property
    def work(self) -> int:
        """The phase's evaluations of one window."""
        return sum(program.work for program in self.programs)


def main(argv: list[str]) -> int:
    """Runs what is missing of the four phases, writes the page, and prints where page and scroll are."""
    config = load(DemoConfig, argv, package="drspo", prog="drspo demo", description=DESCRIPTION)
    check(config)
    run = RunDir(config.out)
    asked = {key: value for key, value in to_dict(config).items() if key != "out"}
    run.start("demo", config, config_hash(asked))
    phases = plan(config)
    todo = [phase for phase in phases if phase.name not in run.phases()]
    if todo:
        perform(run, phases, todo)
    if todo or not run.exists(PAGE):
        write_page(run, config, shown_commands(config))
    else:
        print(f"All is done already in {run.base} (another --out begins anew).")
    print(f"page      {run.url(PAGE)}\nscroll    {run.url(SCROLL)}")
    print(f"next      open the page in a browser, then: {next_command(config)}")
    return 0


def next_command(config: DemoConfig) -> str:
    """What one would want to type after the demonstration: a scroll of one's own with its LoRAs."""
    loras = [word for stage in STAGES for word in (f"--lora-{stage}", f"{config.out}/lora/{stage}")]
    called = Path(sys.argv[0])  # .venv/bin/drspo by `make demo`, which enters no environment
    program = str(called) if called.name == "drspo" and not shutil.which("drspo") else "drspo"
    return shlex.join([program, "generate", "a lighthouse by the sea at dusk", *loras, "--out", "mine.png"])


def check(config: DemoConfig) -> None:
    """Raises UserError for what cannot work."""
    if "://" in config.out:
        raise UserError("the demonstration needs a local folder", where="--out")
    if not config.prompt.strip():
        raise UserError("the final scroll needs a prompt", where="--prompt")


def plan(config: DemoConfig) -> tuple[Phase, ...]:
    """The four phases with their work, counted in evaluations of the network on one 128-pixel window.

    A scroll of 512 pixels at a stride of 32 has 13 windows, guidance doubles each evaluation. The
    plain sampler sees the canvas whole, which is as much as 4 windows. A training step on a pair
    is two pictures, each with the reference, the policy, and a backward pass that costs two more.
    The ControlNet is the encoder half of a network.
    """
    windows, whole, guided = 13, 4, 2
    candidates = config.prompts * 2 * config.denoising_steps * guided * (windows + whole + windows)
    pair = 2 * 4
    scroll = 25 * guided * (1 + windows * 3 // 2)
    data, loras = f"{config.out}/data", {stage: f"{config.out}/lora/{stage}" for stage in STAGES}
    training = [
        Phase(
            stage,
            f"training the {title}",
            (Program("train.command:main", _train(config, stage), "steps", work),),
        )
        for stage, title, work in (
            ("blueprint", "blueprint's LoRA", config.train_steps * pair),
            ("highres", "windows' LoRA", config.train_steps * pair * windows),
        )
    ]
    build = Program("dataset_builder.command:main", _build(config, data), "units", candidates)
    return (
        Phase("data", "making and scoring candidates", (build,)),
        *training,
        Phase(
            "scroll",
            "making the scroll",
            (
                Program("generate.program.command:main", _generate(config, UNTRAINED, {}), "steps", scroll),
                Program("generate.program.command:main", _generate(config, SCROLL, loras), "steps", scroll),
            ),
        ),
    )


def _build(config: DemoConfig, out: str) -> tuple[str, ...]:
    return (
        *("--config", "miniature", "--executor", "local", "--out", out),
        *("--prompts.limit", str(config.prompts), "--candidates.steps", str(config.denoising_steps)),
        # The page tells of one score; the preset would rank by two.
        *("--pairs.weights", "aesthetic=1", "--pairs.normalise", "raw"),
    )


def _train(config: DemoConfig, stage: str) -> tuple[str, ...]:
    return (
        *("--config", "miniature", "--stage", stage, "--data.source", f"{config.out}/data"),
        *("--out", f"{config.out}/lora/{stage}", "--max-steps", str(config.train_steps)),
        *("--pairs-per-step", "1", "--data.validation-pairs", "0", "--samples.every", "0"),
        *("--data.cache", f"{config.out}/cache"),
    )


def _generate(config: DemoConfig, name: str, loras: dict[str, str]) -> tuple[str, ...]:
    adapters = [token for stage, path in loras.items() for token in (f"--lora-{stage}", path)]
    return (
        *(config.prompt, "--model", "miniature", "--method", "drspo", *adapters),
        *("--seed", str(config.seed), "--save-extras", "--out", f"{config.out}/{name}"),
    )


def shown_commands(config: DemoConfig) -> list[str]:
    """Every command as a user would type it, in a folder of that name wherever it lies."""
    phases = plan(replace(config, out=public_name(config.out)))
    packages = {
        program.target: program.target.partition(".")[0] for phase in phases for program in phase.programs
    }
    return [
        shlex.join(("python", "-m", packages[program.target], *program.argv))
        for phase in phases
        for program in phase.programs
    ]


def perform(run: RunDir, phases: tuple[Phase, ...], todo: list[Phase]) -> None:
    """Runs the phases that are left behind one bar over the work of all."""
    total = sum(phase.work for phase in phases)
    done = total - sum(phase.work for phase in todo)
    with log.progress(total, "demo", "window evaluations") as bar, quiet(run):
        bar.set(done)
        for phase in todo:
            started = time.monotonic()
            label = f"{phases.index(phase) + 1}/{len(phases)} {phase.title}"
            for program in phase.programs:
                bar.set(done, phase=label)
                run_program(program, follower(program, done, bar, label))
                done += program.work
            run.phase_done(phase.name, seconds=round(time.monotonic() - started, 1))
        bar.set(done, phase="done")


def follower(program: Program, base: int, bar: log.Progress, label: str) -> Callable[[log.Progress], None]:
    """A listener that moves the bar as far as the program's own display says."""

    def hear(inner: log.Progress) -> None:
        if inner.unit == program.unit and inner.total:
            bar.set(base + program.work * min(inner.done, inner.total) // inner.total, phase=label)

    return hear


def run_program(program: Program, listener: Callable[[log.Progress], None]) -> None:
    """Runs one command in this process; UserError when it gives up."""
    command: Callable[[list[str]], int] = registry.resolve(program.target)
    with log.listening(listener), own_log_files():
        code = command(list(program.argv))
    if code:
        raise UserError(
            f"{program.target.partition('.')[0]} ended with exit code {code}", hint="See log.txt."
        )


@contextlib.contextmanager
def own_log_files() -> Iterator[None]:
    """Closes the log files that a program opened, so that the next program does not write to them too."""
    root = logging.getLogger()
    before = list(root.handlers)
    try:
        yield
    finally:
        for handler in [handler for handler in root.handlers if handler not in before]:
            root.removeHandler(handler)
            handler.close()


@contextlib.contextmanager
def quiet(run: RunDir) -> Iterator[None]:
    """Sends what the programs print and log to the run's log.txt, so that the bar stands alone."""
    path = run.local_path("log.txt")
    assert path is not None, "checked: the folder is local"
    consoles = [h for h in logging.getLogger().handlers if not isinstance(h, logging.FileHandler)]
    levels = [handler.level for handler in consoles]
    log.setup(file=path)
    logging.captureWarnings(True)
    with _appended(path) as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        for handler in consoles:
            handler.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logging.captureWarnings(False)
            for handler, level in zip(consoles, levels, strict=True):
                handler.setLevel(level)


@contextlib.contextmanager
def _appended(path: Path) -> Iterator[TextIO]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8", buffering=1) as file:
        yield file

"""Kills at random moments of each phase of a build on a cluster, and whether the tables can tell any of it.

    python -m benchmarks.kills [KIND...] [--phases PHASE...] [--kills 12] [--seed 0]

KIND is driver (the builder's process), worker (a process that runs an actor or a task), raylet (a node's
daemon, whose workers end with it) or node (the daemon with all that it started); all four where none is
named. PHASE is ideas (ingest, filters, duplicates), generate, score, pairing (scores to pairs and groups) or
shards (written by tasks on the cluster); all where none is named. The builder is slowed, so that its phases
last (`benchmarks.slowed`). Every kill is SIGKILL, a random while after work of that phase was seen to begin
and while such work is under way: on the worker that is at it, or the node of such a worker. In pairing, work
of the driver alone, it is any worker and any node. A cluster on this machine has a head, where drivers run,
and two more nodes; what is lost is replaced, and a driver that ended is started again. A run that ended
before all kills were done is followed by another; for pairing and shards it begins with all units but two
made. No prompt's worker is killed more than twice: at the third death without a word the builder takes the
prompt for the cause. For each phase and kind a line tells the kills, the starts, whether all tables are to
the byte those of a calm run in one process, and what was left behind.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from benchmarks.victims import MODELS, SLOWED, Driver, Nodes, kill
from dataset_builder.build import Build
from dataset_builder.config import BuildConfig
from drspo import consent
from pipeline.ideas.expanders import ExpandSettings
from pipeline.ideas.filters import FilterSettings
from pipeline.ideas.sources import PromptSettings
from pipeline.local import run_units
from pipeline.settings import (
    CandidateSettings,
    ExportSettings,
    PairSettings,
    ResourceSettings,
    ScoringSettings,
)

IDEAS = 24
KINDS = ("driver", "worker", "raylet", "node")
PHASES = {"ideas": 0.8, "generate": 1.0, "score": 0.5, "pairing": 3.0, "shards": 2.0}
"""And how long a kill may wait after work was seen, in seconds: about as long as the work lasts."""
MADE = ("export", "scores.parquet", "stats.json", "README.md")
"""What pairing and shards make anew where it is not there."""


def build_config(folder: Path, ideas: Path, **changes: Any) -> BuildConfig:
    """The build: slow filters, sleeping painters, blocks of four ideas, many shards."""
    ideas.write_text("".join(f"a castle on hill number {number}\n" for number in range(IDEAS)))
    config = BuildConfig(
        out=str(folder / "run"),
        executor="local",
        block=4,
        prompts=PromptSettings(source=str(ideas)),
        expand=ExpandSettings(expander="none"),
        filter=FilterSettings(near_duplicates=0.0, filters=(f"{SLOWED}:dawdle",)),
        candidates=CandidateSettings(
            model="",
            generators=(f"{MODELS}:Sleeper",),
            seeds=3,
            height=192,
            width=384,
            encoding="png",
            options=(f"{MODELS}:Sleeper.seconds=0.3",),
        ),
        scoring=ScoringSettings(scorers=(f"{SLOWED}:Pensive",)),
        pairs=PairSettings(method="all"),
        export=ExportSettings(shard_mb=2, row_group_mb=1, ranking=True),
        resources=ResourceSettings(
            text_actors=2, generator_actors=2, generator_gpus=0.8, scorer_gpus=0.2, actor_cpus=0.2
        ),
    )
    return replace(config, **changes)


def tables(run: Path) -> dict[str, str]:
    """The hash of each table that must not depend on what a run went through."""
    names = ("export/**/*.parquet", "plan.parquet", "prompts.parquet", "stats.json")
    files = [file for name in names for file in run.glob(name)]
    return {str(file.relative_to(run)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@dataclass(frozen=True)
class Work:
    """Something of a phase that is under way."""

    name: str
    pid: int
    node: str
    of: str = ""
    """The unit and the part of it."""


def under_way(phase: str, run: Path, marks: Path) -> list[Work]:
    """What is at work in a phase now: by the marks of the slowed builder, or by the guard's own ledger."""
    found = []
    if phase in ("generate", "score"):
        for file in run.glob(f"attempts/*.{phase}-*.json"):
            with contextlib.suppress(FileNotFoundError, ValueError):
                one = json.loads(file.read_text())
                if not one["cause"]:
                    found.append(Work(file.name, one["pid"], one["node"], file.name.rsplit(".", 2)[0]))
    else:
        for file in marks.glob(f"{phase}.*"):
            _, pid, node, _ = file.name.split(".")
            found.append(Work(file.name, int(pid), node))
    return [work for work in found if psutil.pid_exists(work.pid)]


class Killer:
    """The kills of one kind in one phase, over as many runs as they take."""

    def __init__(self, kind: str, phase: str, kills: int, nodes: Nodes, rng: random.Random) -> None:
        self.kind, self.phase, self.left, self.nodes, self.rng = kind, phase, kills, nodes, rng
        self.counts: Counter[str] = Counter()
        self.same = True

    def runs(self, calm: Path) -> str:
        """All kills; gives the line that tells of them."""
        kills = self.left
        while self.left:
            self.counts["runs"] += 1
            for file in self.nodes.marks.iterdir():
                file.unlink()
            with tempfile.TemporaryDirectory(prefix=f"kills-{self.phase}-{self.kind}-") as name:
                self._run(Path(name), calm)
        counts, alike = self.counts, "identical" if self.same else "DIFFERENT"
        return (
            f"{self.phase:8} {self.kind:6} {kills} kills in {counts['runs']} runs of {counts['starts']} "
            f"starts, {counts['errors']} ended with an error, {counts['graphs']} graphs begun again; "
            f"tables {alike}, {counts['dead']} dead prompts, {counts['temporary']} temporary files"
        )

    def _run(self, folder: Path, calm: Path) -> None:
        run = folder / "run"
        if self.phase in ("pairing", "shards"):
            shutil.copytree(calm / "run", run, ignore=shutil.ignore_patterns(*MADE))
            for unit in sorted(run.glob("units/*/*.parquet"))[:2]:
                unit.unlink()
        driver = Driver(
            build_config(folder, calm / "ideas.txt", executor="ray"), folder, self.nodes.cluster.address
        )
        try:
            self._kill_while(driver, run)
        finally:
            driver.kill()
        self.counts["starts"] += driver.starts
        self.counts["errors"] += driver.errors
        self.counts["graphs"] += (folder / "log.txt").read_text().count("the graph failed")
        self.same = self.same and tables(run) == tables(calm / "run")
        self.counts["dead"] += len(list(run.glob("dead/*")))
        self.counts["temporary"] += sum(1 for file in run.rglob("*.tmp"))

    def _kill_while(self, driver: Driver, run: Path, patience: float = 300.0) -> None:
        """Kill until there were so many, then let the build end."""
        seen: set[str] = set()
        struck: Counter[str] = Counter()
        wanted, until = self._wanted(), time.monotonic() + patience
        while not driver.has_ended():
            if time.monotonic() > until:
                raise TimeoutError((driver.folder / "log.txt").read_text()[-3000:])
            time.sleep(0.02)
            fresh = {work.name for work in self._work(run)} - seen
            if not self.left or len(fresh) < wanted:
                continue
            time.sleep(self.rng.uniform(0, PHASES[self.phase]))
            works = [work for work in self._work(run) if struck[work.of] < 2 or not work.of]
            if not works or driver.process.poll() is not None or not self._kill(works, driver, struck):
                continue
            self.left -= 1
            seen |= {work.name for work in works} | fresh
            wanted, until = self._wanted(), time.monotonic() + patience
            print(f"  {self.phase} {self.kind}: {self.left} left", file=sys.stderr, flush=True)

    def _work(self, run: Path) -> list[Work]:
        return under_way(self.phase, run, self.nodes.marks)

    def _wanted(self) -> int:
        """How many pieces of work at once must have begun since the last kill."""
        return 1 if self.phase in ("pairing", "score") else self.rng.randint(1, 2)

    def _kill(self, works: list[Work], driver: Driver, struck: Counter[str]) -> bool:
        """Kill one of the kind, of those at work; False where none of them can be."""
        work = self.rng.choice(works)
        if self.kind == "driver":
            driver.kill()
        elif self.kind == "worker":
            pids = [work.pid] if self.phase != "pairing" else self.nodes.workers()
            if self.phase == "ideas":
                pids = self.nodes.workers("ray::MapWorker")
            if not pids:
                return False
            struck[work.of] += 1
            kill(self.rng.choice(pids))
        else:
            at_it = [node for node in self.nodes.others if node.node_id in {work.node for work in works}]
            chosen = self.nodes.others if self.phase == "pairing" else at_it
            if not chosen:
                return False
            self.nodes.replace(self.rng.choice(chosen), whole=self.kind == "node")
        return True


def main() -> None:
    """Prints one line for each phase and kind."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kinds", nargs="*", choices=(*KINDS, []), help=", ".join(KINDS))
    parser.add_argument("--phases", nargs="+", choices=tuple(PHASES), default=tuple(PHASES))
    parser.add_argument("--kills", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    consent.allow(SLOWED, MODELS)
    with tempfile.TemporaryDirectory(prefix="kills-calm-") as name, contextlib.closing(Nodes()) as nodes:
        calm = Path(name)
        Build(build_config(calm, calm / "ideas.txt"), run_units)()
        for phase in asked.phases:
            for kind in asked.kinds or KINDS:
                killer = Killer(kind, phase, asked.kills, nodes, random.Random(asked.seed))
                print(killer.runs(calm), flush=True)


if __name__ == "__main__":
    main()

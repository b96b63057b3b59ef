"""Kills at random moments of a build on a cluster, and whether any of it can be told from the tables.

    python -m benchmarks.kills [KIND...] [--kills 12] [--seed 0]

KIND is driver (the builder's process), worker (a process that runs an actor), raylet (a node's daemon, whose
workers end with it) or node (the daemon with all that it started); all four where none is named. Every kill
is SIGKILL. A cluster on this machine has a head, where drivers run, and two more nodes; what is lost is
replaced, and a driver that ended with an error is started again. Up to half of the kills come while prompts
are made (phases 1 to 4, `--until prompts`), the others while they are painted, scored and exported. A run
that ended before all kills were done is followed by another. For each kind a line tells the kills by what was
being made, the starts, whether all tables are to the byte those of a calm run in one process, and what was
left behind.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from dataset_builder.build import Build
from dataset_builder.config import BuildConfig
from drspo import consent
from drspo.config import dump
from pipeline.ideas.expanders import ExpandSettings
from pipeline.ideas.filters import FilterSettings
from pipeline.ideas.sources import PromptSettings
from pipeline.local import run_units
from pipeline.settings import CandidateSettings, ResourceSettings, ScoringSettings

HERE, MODELS = "benchmarks.kills", "benchmarks.dataset"
ROOT = Path(__file__).resolve().parent.parent
IDEAS = 24
KINDS = ("driver", "worker", "raylet", "node")


def dawdle(row: dict[str, Any]) -> None:
    """A filter that objects to nothing, and takes the time of a short answer."""
    time.sleep(0.4)


def build_config(folder: Path, **changes: Any) -> BuildConfig:
    """The build: slow filters, sleeping painters, blocks of four ideas."""
    ideas = folder / "ideas.txt"
    ideas.write_text("".join(f"a castle on hill number {number}\n" for number in range(IDEAS)))
    config = BuildConfig(
        out=str(folder / "run"),
        executor="local",
        block=4,
        prompts=PromptSettings(source=str(ideas)),
        expand=ExpandSettings(expander="none"),
        filter=FilterSettings(near_duplicates=0.0, filters=(f"{HERE}:dawdle",)),
        candidates=CandidateSettings(
            model="",
            generators=(f"{MODELS}:Sleeper",),
            height=32,
            width=64,
            options=(f"{MODELS}:Sleeper.seconds=0.5",),
        ),
        scoring=ScoringSettings(scorers=(f"{MODELS}:Constant",)),
        resources=ResourceSettings(
            text_actors=2, generator_actors=2, max_generators=3, generator_gpus=1.0, actor_cpus=0.2
        ),
    )
    return replace(config, **changes)


class Nodes:
    """A head and two nodes with one simulated GPU each."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        os.environ.update(PYTHONPATH=str(ROOT), RAY_agent_register_timeout_ms="120000")
        self.cluster = Cluster()
        self.head = self._add(num_cpus=1, include_dashboard=False)
        self.others = [self._add(num_cpus=2, num_gpus=1) for _ in range(2)]

    def _add(self, **given: Any) -> Any:
        for _ in range(4):  # a busy machine exceeds the 30 s that Ray allows a node's start
            with contextlib.suppress(Exception):
                return self.cluster.add_node(object_store_memory=100_000_000, **given)
        return self.cluster.add_node(object_store_memory=100_000_000, **given)

    def workers(self) -> list[psutil.Process]:
        """The processes that run actors of the graph."""
        found = [child for node in (self.head, *self.others) for child in _tree(node)]
        return [process for process in found if _title(process).startswith("ray::MapWorker")]

    def replace(self, node: Any, whole: bool) -> None:
        """Kill a node's raylet, alone or with all that it started, and add another node."""
        for process in reversed(_tree(node) if whole else _tree(node)[:1]):
            _kill(process)
        self.cluster.remove_node(node, allow_graceful=False)
        self.others[self.others.index(node)] = self._add(num_cpus=2, num_gpus=1)

    def close(self) -> None:
        """End all of it, what outlived its raylet too."""
        left = [process for node in (self.head, *self.others) for process in _tree(node)]
        self.cluster.shutdown()
        for process in left:
            _kill(process)


def _tree(node: Any) -> list[psutil.Process]:
    """A node's raylet and the processes below it."""
    with contextlib.suppress(psutil.NoSuchProcess, KeyError):
        raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
        return [raylet, *raylet.children(recursive=True)]
    return []


def _title(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


def _kill(process: psutil.Process) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.kill()


class Driver:
    """The builder as a program of its own, started as often as it takes."""

    def __init__(self, config: BuildConfig, folder: Path, address: str) -> None:
        self.folder, self.starts, self.errors = folder, 0, 0
        file = folder / "config.yaml"
        file.write_text(dump(config))
        plugins = ("--allow-plugins", HERE, MODELS)
        self.command = [sys.executable, "-m", "dataset_builder", "--config", str(file), *plugins]
        self.env = {**os.environ, "RAY_ADDRESS": address}
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        self.starts += 1
        with (self.folder / "log.txt").open("ab") as log:
            return subprocess.Popen(self.command, cwd=ROOT, env=self.env, stdout=log, stderr=log)

    def has_ended(self) -> bool:
        """Whether the build is done; one that ended with an error is started again."""
        code = self.process.poll()
        if code is None or code == 0:
            return code == 0
        if code != -signal.SIGKILL:
            self.errors += 1
            last = "\n".join((self.folder / "log.txt").read_text().splitlines()[-12:])
            print(f"  ended with {code}:\n{last}", file=sys.stderr, flush=True)
        if self.errors > 20:
            raise RuntimeError((self.folder / "log.txt").read_text()[-3000:])
        self.process = self._start()
        return False

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait()


def made(run: Path) -> Counter[str]:
    """How many files of each phase a run has."""
    kinds = {"prompts": "phases/*.parquet", "images": "units/*/*.parquet", "shards": "export/**/*.parquet"}
    return Counter({name: sum(1 for _ in run.glob(pattern)) for name, pattern in kinds.items()})


def tables(run: Path) -> dict[str, str]:
    """The hash of each table that must not depend on what a run went through."""
    names = ("export/**/*.parquet", "plan.parquet", "prompts.parquet", "stats.json")
    files = [file for name in names for file in run.glob(name)]
    return {str(file.relative_to(run)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def moments(driver: Driver, run: Path, rng: random.Random, patience: float = 240.0) -> Iterator[str]:
    """What was made last, each time that something more was made and a random while after; until the end."""
    before = made(run)
    while not driver.has_ended():
        wanted, until = rng.randint(1, 4), time.monotonic() + patience
        while (now := made(run)).total() < before.total() + wanted:
            if driver.has_ended():
                return
            if time.monotonic() > until:
                raise TimeoutError((driver.folder / "log.txt").read_text()[-3000:])
            time.sleep(0.02)
        time.sleep(rng.uniform(0, 1.0))
        if driver.process.poll() is None:
            yield "shards" if now["images"] >= IDEAS else "images" if now["images"] else "prompts"
        before = made(run)


def one_kill(kind: str, nodes: Nodes, driver: Driver, rng: random.Random) -> None:
    """Kill one at random."""
    if kind == "driver":
        driver.kill()
    elif kind == "worker":
        found = nodes.workers()
        if found:
            _kill(rng.choice(found))
    else:
        nodes.replace(rng.choice(nodes.others), whole=kind == "node")


def run_through(kind: str, kills: int, nodes: Nodes, rng: random.Random, calm: dict[str, str]) -> str:
    """All kills of one kind, over as many runs as they take; gives the line that tells of them."""
    counts: Counter[str] = Counter()
    runs = starts = errors = graphs = dead = left = 0
    same = True
    while counts.total() < kills:
        runs += 1
        with tempfile.TemporaryDirectory(prefix=f"kills-{kind}-") as name:
            folder = Path(name)
            for until, most in (("prompts", (kills + 1) // 2), ("shards", kills)):
                config = build_config(folder, executor="ray", until=until)
                driver = Driver(config, folder, nodes.cluster.address)
                try:
                    _kill_while(kind, most, nodes, driver, rng, counts)
                finally:
                    driver.kill()
                starts, errors = starts + driver.starts, errors + driver.errors
            run = folder / "run"
            graphs += (folder / "log.txt").read_text().count("the graph failed")
            same = same and tables(run) == calm
            dead += len(list(run.glob("dead/*")))
            left += sum(1 for file in run.rglob("*.tmp"))
    told = ", ".join(f"{counts[name]} at {name}" for name in ("prompts", "images", "shards") if counts[name])
    alike = "identical" if same else "DIFFERENT"
    return (
        f"{kind:7} {counts.total()} kills ({told}) in {runs} runs of {starts} starts, {errors} ended with an "
        f"error, {graphs} graphs begun again; tables {alike}, {dead} dead prompts, {left} temporary files"
    )


def _kill_while(
    kind: str, most: int, nodes: Nodes, driver: Driver, rng: random.Random, counts: Counter[str]
) -> None:
    """Kill until there were so many, then let the build end."""
    run = driver.folder / "run"
    for moment in moments(driver, run, rng):
        if counts.total() < most:
            one_kill(kind, nodes, driver, rng)
            counts[moment] += 1
            print(f"  {kind} {counts.total()}: {dict(made(run))}", file=sys.stderr, flush=True)


def calm_tables() -> dict[str, str]:
    """The tables of a build in one process that nobody disturbs."""
    with tempfile.TemporaryDirectory(prefix="kills-calm-") as name:
        Build(build_config(Path(name)), run_units)()
        return tables(Path(name) / "run")


def main() -> None:
    """Prints one line for each kind."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kinds", nargs="*", choices=(*KINDS, []), help=", ".join(KINDS))
    parser.add_argument("--kills", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    consent.allow(HERE, MODELS)
    calm = calm_tables()
    nodes = Nodes()
    try:
        for kind in asked.kinds or KINDS:
            print(run_through(kind, asked.kills, nodes, random.Random(asked.seed), calm), flush=True)
    finally:
        nodes.close()


if __name__ == "__main__":
    main()

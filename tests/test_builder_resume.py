"""Killed at any moment, started twice, or haunted by a zombie: the final tables are those of a calm run."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from dataset_builder.config import BuildConfig
from drspo.config import dump
from pipeline.settings import ExportSettings
from tests.building import ALLOW, build, fake_config, final_tables
from tests.forks import Forks

SCENES = "lighthouse castle windmill balloon forest desert harbour glacier canyon meadow".split()
IDEAS = [f"a {scene} in {place}" for scene in SCENES for place in ("the morning fog", "a red evening")]


@pytest.fixture(scope="module")
def forks(repository: Path) -> Iterator[Forks]:
    server = Forks(repository)
    yield server
    server.close()


def config_in(folder: Path) -> BuildConfig:
    """Twenty prompts, all configs of the export."""
    return fake_config(folder, folder / "run", IDEAS, export=ExportSettings(ranking=True))


def start(forks: Forks, folder: Path, log: str = "log.txt") -> int:
    """A start of the builder in which each picture takes a moment."""
    file = folder / "config.yaml"
    file.write_text(dump(config_in(folder)))
    env = {"FAKE_LOG": str(folder / "made.log"), "FAKE_SECONDS": "0.01"}
    return forks.start(["--config", str(file), *ALLOW], folder / log, **env)


def made(folder: Path) -> Counter[str]:
    """How often each image was made."""
    return Counter((folder / "made.log").read_text().splitlines())


# What a start has just written when it is killed, in the order of the phases; a number counts unit files.
MOMENTS = [
    *("run.json", "phases/ideas.parquet", "phases/expanded.parquet", "prompts.parquet", "plan.parquet"),
    *(1, 2, 4, 7, 8, 11, 13, 16, 18, 20),
    *("scores.parquet", "export/data/train-00000-of-00001.parquet"),
    *("export/ranking/train-00000-of-00001.parquet", "README.md", "stats.json"),
]


def reached(run: Path, moment: str | int) -> bool:
    if isinstance(moment, str):
        return (run / moment).exists()
    return len(list((run / "units").rglob("[0-9a-f]*.parquet"))) >= moment


@pytest.mark.timeout(900)
def test_twenty_kills_at_random_moments_lose_and_double_nothing(tmp_path: Path, forks: Forks) -> None:
    calm, rough = tmp_path / "calm", tmp_path / "rough"
    calm.mkdir()
    rough.mkdir()
    build(config_in(calm))
    rng, codes = random.Random(7), []
    for moment in MOMENTS:
        pid = start(forks, rough)
        deadline = time.monotonic() + 60
        while not reached(rough / "run", moment) and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.05))
        forks.kill(pid)
        codes.append(forks.wait())
    start(forks, rough)
    assert forks.wait() == 0, (rough / "log.txt").read_text()

    # How many of the kills at the last moments come after the end is the machine's affair.
    assert codes.count(-9) >= 10, f"too few of the kills met a running program: {codes}"
    assert final_tables(rough / "run") == final_tables(calm / "run")
    counts = made(rough)
    assert set(counts) == set(made(calm))
    # Whatever a kill met in flight is one prompt with its four images; nothing else is made again.
    assert sum(counts.values()) - len(counts) <= 4 * sum(isinstance(moment, int) for moment in MOMENTS) + 4
    assert not list((rough / "run").glob("dead/*")) and not list((rough / "run").glob("quarantine/*"))


def test_two_copies_at_once_end_in_the_same_tables(tmp_path: Path, forks: Forks, repository: Path) -> None:
    calm = tmp_path / "calm"
    calm.mkdir()
    build(config_in(calm))
    other = Forks(repository)
    both = tmp_path / "both"
    both.mkdir()
    try:
        for server, log in ((forks, "one.txt"), (other, "two.txt")):
            start(server, both, log)
        assert [forks.wait(), other.wait()] == [0, 0], (both / "one.txt").read_text() + (
            both / "two.txt"
        ).read_text()
    finally:
        other.close()
    assert final_tables(both / "run") == final_tables(calm / "run")
    assert not list((both / "run").glob("dead/*"))


def test_a_zombie_that_commits_late_changes_nothing(tmp_path: Path) -> None:
    from dataset_builder.build import Build
    from dataset_builder.ideas import make_prompts
    from pipeline.candidates.plan import read_plan
    from pipeline.local import run_units

    config = config_in(tmp_path)
    builder = Build(config, run_units)
    builder._begin()
    make_prompts(builder.run, builder.config)
    builder._plan()
    plan = pa.concat_tables(read_plan(builder.run))
    zombie = run_units(plan, builder.spec)
    thread = threading.Thread(target=lambda: [next(zombie) for _ in range(5)])
    build(config)
    before = final_tables(tmp_path / "run")
    units = {file: file.read_bytes() for file in (tmp_path / "run/units").rglob("*.parquet")}
    thread.start()
    thread.join()
    assert {file: file.read_bytes() for file in (tmp_path / "run/units").rglob("*.parquet")} == units
    assert build(config).made_now == 0
    assert final_tables(tmp_path / "run") == before
    assert pa.concat_tables(read_plan(builder.run)).num_rows == len(IDEAS)


def test_an_interrupt_says_how_to_continue(tmp_path: Path, repository: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(dump(config_in(tmp_path)))
    env = {**os.environ, "FAKE_LOG": str(tmp_path / "made.log"), "FAKE_SECONDS": "0.2"}
    command = [sys.executable, "-m", "dataset_builder", "--config", str(file), *ALLOW]
    program = subprocess.Popen(command, cwd=repository, env=env, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "made.log").exists() and program.poll() is None:
        time.sleep(0.05)
    program.send_signal(signal.SIGINT)
    _, said = program.communicate(timeout=120)
    assert program.returncode == 130
    assert f"python -m dataset_builder --config {file}" in said and "Traceback" not in said

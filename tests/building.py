"""Small runs of the dataset builder with fake models, and what they come to."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import polars as pl

from dataset_builder.build import Build, Outcome
from dataset_builder.config import BuildConfig, units_hash
from drspo import consent
from drspo.errors import UserError
from drspo.files.storage import Storage
from pipeline.candidates.plan import PLAN_NAME
from pipeline.ideas.expanders import ExpandSettings
from pipeline.ideas.filters import FilterSettings
from pipeline.ideas.sources import PromptSettings
from pipeline.local import run_units
from pipeline.pairs.columns import NO_SCORES, one_each, score_pieces
from pipeline.records import prompt_id, unit_id
from pipeline.settings import CandidateSettings, ScoringSettings

FAKES = "tests.plugin_fakes"
ALLOW = ("--allow-plugins", FAKES)  # for a command line, since a file may not
IDEAS = [
    "a lighthouse at dusk by the sea",
    "a windmill on a green hill",
    "a castle above a foggy valley",
    "a balloon over red mountains",
    "a pine forest under deep snow",
    "a desert with tall dunes at noon",
]


def ideas_file(folder: Path, ideas: list[str] = IDEAS) -> Path:
    """The ideas as a text file."""
    path = folder / "ideas.txt"
    path.write_text("\n".join(ideas) + "\n")
    return path


def fake_config(folder: Path, out: Path | str, ideas: list[str] = IDEAS, **changes: Any) -> BuildConfig:
    """A configuration with two painters, two seeds and two scorers, and no model behind them."""
    consent.allow(FAKES)
    config = BuildConfig(
        out=str(out),
        executor="local",
        prompts=PromptSettings(source=str(ideas_file(folder, ideas))),
        expand=ExpandSettings(expander="none"),
        filter=FilterSettings(near_duplicates=0.0),
        candidates=CandidateSettings(
            model="",
            generators=(f"{FAKES}:Painter", f"{FAKES}:Sketcher"),
            height=32,
            width=64,
        ),
        scoring=ScoringSettings(scorers=(f"{FAKES}:Brightness", f"{FAKES}:Contrast")),
    )
    return replace(config, **changes)


def begun(config: BuildConfig, units: int) -> None:
    """The state of a run in blocks whose driver ended after so many units, and before its prompts."""

    def some(works: Any, spec: Any) -> Iterator[Any]:
        return islice(run_units(works, spec), units)

    with contextlib.suppress(UserError):
        Build(config, some)()
    assert not Storage(config.out).exists(PLAN_NAME)


def scores_of(run: Path | str, name: str) -> pl.DataFrame:
    """A column of scores as whoever pairs by it sees it: one row per candidate, by candidate id."""
    return one_each(pl.concat([NO_SCORES, *score_pieces(Storage(run), name)]))


def neighbours(folder: Path, out: Path | str, **changes: Any) -> BuildConfig:
    """A run of which three units lie in one folder, and four in another."""
    folder.mkdir(exist_ok=True)
    config = fake_config(folder, out, **changes)
    texts = (f"a castle on hill number {number}" for number in range(10**6))
    found: dict[str, list[str]] = {"00": [], "ab": []}
    while len(found["00"]) < 3 or len(found["ab"]) < 4:
        text = next(texts)
        place = unit_id([prompt_id(text)], units_hash(config))[:2]
        if len(found.get(place, "full")) < (3 if place == "00" else 4):
            found[place].append(text)
    return fake_config(folder, out, [*found["00"], *found["ab"]], **changes)


def with_candidates(config: BuildConfig, *options: str, **changes: Any) -> BuildConfig:
    """The configuration with further options of generators, and other candidate settings."""
    candidates = replace(config.candidates, options=(*config.candidates.options, *options), **changes)
    return replace(config, candidates=candidates)


def build(config: BuildConfig) -> Outcome:
    """Run the builder in this process; every image is a line of made.log beside a local run folder."""
    if "://" not in config.out:
        os.environ["FAKE_LOG"] = str(Path(config.out).parent / "made.log")
    try:
        return Build(config, run_units)()
    finally:
        os.environ.pop("FAKE_LOG", None)


def final_tables(out: Path | str) -> dict[str, str]:
    """{name: hash} of everything that must not depend on what a run went through."""
    root = Path(out)
    files = [
        *root.glob("export/**/*.parquet"),
        root / "stats.json",
        root / "plan.parquet",
        root / "prompts.parquet",
    ]
    return {
        str(file.relative_to(root)): hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(files)
    }

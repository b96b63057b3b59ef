"""A run folder that has lost its run.json: continued where it proves whose it is, refused otherwise."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from dataset_builder.config import BuildConfig
from drspo.config import dump
from drspo.errors import UserError
from drspo.files.run import MANIFEST
from drspo.files.storage import Storage
from pipeline.ideas.origin import SOURCE_NAME
from tests.building import IDEAS, begun, build, fake_config, final_tables, with_candidates


def orphan(folder: Path, **changes: object) -> BuildConfig:
    """A finished run without its manifest."""
    config = fake_config(folder, folder / "run", **changes)
    build(config)
    Storage(config.out).delete(MANIFEST)
    return config


def other_ideas(config: BuildConfig) -> BuildConfig:
    return replace(config, prompts=replace(config.prompts, limit=3), until="shards")


@pytest.mark.parametrize("until", ["prompts", "shards"])
@pytest.mark.parametrize("block", [0, 2])
def test_other_prompts_are_refused_with_what_to_do(tmp_path: Path, until: str, block: int) -> None:
    config = orphan(tmp_path, until=until, block=block)
    before = Storage(config.out).list()
    with pytest.raises(UserError, match="the prompts here are of this configuration.*\n.*Restore run.json"):
        build(other_ideas(config))
    assert Storage(config.out).list() == before


@pytest.mark.parametrize("block", [0, 2])
def test_other_images_are_refused_and_no_unit_is_moved(tmp_path: Path, block: int) -> None:
    config = orphan(tmp_path, block=block)
    units = Storage(config.out).list("units/")
    with pytest.raises(UserError, match="the planned images here are of this configuration"):
        build(with_candidates(config, steps=5))
    Storage(config.out).delete("plan.parquet")
    for name in Storage(config.out).list("phases/plan-"):
        Storage(config.out).delete(name)
    with pytest.raises(UserError, match="that the images here are of this configuration"):
        build(with_candidates(config, steps=5))
    assert Storage(config.out).list("units/") == units and not Storage(config.out).list("quarantine/")


@pytest.mark.parametrize("block", [0, 2])
def test_the_configuration_that_made_it_goes_on(tmp_path: Path, block: int) -> None:
    config = orphan(tmp_path, block=block)
    before = final_tables(config.out)
    assert build(config).made_now == 0
    assert final_tables(config.out) == before
    Storage(config.out).delete(MANIFEST)
    Storage(config.out).delete("stats.json")
    assert build(config).made_now == 0 and final_tables(config.out) == before


def test_a_run_in_blocks_that_was_under_way_goes_on(tmp_path: Path) -> None:
    config = fake_config(tmp_path, tmp_path / "run", block=2)
    begun(config, 2)
    Storage(config.out).delete(MANIFEST)
    assert build(config).accepted == len(IDEAS)


def test_what_cannot_be_proved_goes_on_as_the_message_says(tmp_path: Path) -> None:
    config = orphan(tmp_path)
    before = final_tables(config.out)
    Storage(config.out).delete(SOURCE_NAME)
    with pytest.raises(UserError, match="delete prompts.parquet, plan.parquet and phases/"):
        build(config)
    for name in ("prompts.parquet", "plan.parquet", *Storage(config.out).list("phases/")):
        Storage(config.out).delete(name)
    assert build(config).made_now == 0
    assert final_tables(config.out) == before


@pytest.mark.parametrize(
    "name",
    [
        "README.md",
        "config.yaml",
        "metrics.jsonl",
        "gallery/holiday.jpg",
        "models/weights.bin",
        "units/kg.txt",
    ],
)
def test_a_folder_with_files_of_somebody_elses_is_left_as_it_is(tmp_path: Path, name: str) -> None:
    config = fake_config(tmp_path, tmp_path / "mine")
    (tmp_path / "mine" / name).parent.mkdir(parents=True)
    (tmp_path / "mine" / name).write_text("a: 1\n")
    (tmp_path / "mine/notes.txt").write_text("my notes")
    with pytest.raises(UserError, match=f"there is {name.split('/')[0]}.* in this folder"):
        build(config)
    assert sorted(Storage(config.out).list()) == sorted([name, "notes.txt"])


def test_a_start_that_was_killed_before_its_manifest_is_begun_again(tmp_path: Path) -> None:
    config = fake_config(tmp_path, tmp_path / "run")
    Storage(config.out).write("config.yaml", dump(config).encode())
    assert build(config).made_now == len(IDEAS)

"""A start whose folder another one took for other settings stops, and changes nothing of the other's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from dataset_builder.build import Build
from dataset_builder.config import BuildConfig
from dataset_builder.folder import begin
from dataset_builder.ideas import texts
from drspo.errors import UserError
from drspo.files.run import RunDir
from pipeline.ideas.blocks import Ask, Finish, Screen, read_blocks
from pipeline.ideas.expanders import ExpandSettings
from pipeline.local import run_units
from tests.building import build, fake_config, final_tables, with_candidates

When = Callable[[Any], bool]


def taken_while(config: BuildConfig, other: BuildConfig, when: When, taken: list[dict[str, str]]) -> None:
    """Build while another start begins and ends at an executor's first such work."""

    def late(work: Any, spec: Any) -> Iterator[dict[str, Any]]:
        if not taken and when(work):
            build(other)
            taken.append(final_tables(other.out))
        yield from run_units(work, spec)

    Build(config, late)()


MOMENTS: dict[str, When] = {
    "its prompts are made": lambda work: not isinstance(work, pa.Table),
    "its models are loaded": lambda work: isinstance(work, pa.Table),
}


# In blocks, prompts and images are one piece of work.
@pytest.mark.parametrize(
    ("moment", "block"),
    [("its prompts are made", 0), ("its prompts are made", 2), ("its models are loaded", 0)],
)
def test_a_start_that_was_overtaken_stops_and_leaves_the_others_run_as_it_is(
    tmp_path: Path, moment: str, block: int
) -> None:
    config = fake_config(tmp_path, tmp_path / "out", block=block)
    mended, taken = with_candidates(config, steps=5), list[dict[str, str]]()
    with pytest.raises(UserError, match="another start has given this folder other settings"):
        taken_while(config, mended, MOMENTS[moment], taken)
    units = sorted((tmp_path / "out/units").rglob("*.parquet"))
    assert taken and final_tables(mended.out) == taken[0]
    assert not (tmp_path / "out/quarantine").exists()
    assert len(units) in (6, 7), "at most the unit that was being painted"
    assert build(mended).made_now == 0 and final_tables(mended.out) == taken[0]


def test_a_start_whose_prompts_were_replaced_takes_no_others_for_its_own(tmp_path: Path) -> None:
    config = fake_config(tmp_path, tmp_path / "out", until="prompts")
    other = replace(config, until="shards", filter=replace(config.filter, accept=2))
    with pytest.raises(UserError, match="another start"):
        taken_while(config, other, lambda work: True, [])


def test_a_second_start_with_the_same_settings_is_no_other(tmp_path: Path) -> None:
    config, taken = fake_config(tmp_path, tmp_path / "out"), list[dict[str, str]]()
    taken_while(config, config, MOMENTS["its models are loaded"], taken)
    assert taken == [final_tables(config.out)]


@pytest.mark.parametrize("block", [0, 2])
def test_prompts_of_a_start_that_was_overtaken_are_not_stored_as_the_others(
    tmp_path: Path, block: int
) -> None:
    first = fake_config(tmp_path, tmp_path / "run", block=block)
    other = replace(first, expand=ExpandSettings(expander="grammar"))
    slow, theirs = (texts(one, one.out, alone=True).spec for one in (first, other))
    begin(RunDir(first.out), first)
    read_blocks(slow)
    asked = Ask(slow)(0, Screen(slow)(0))
    begin(RunDir(first.out), other)
    read_blocks(theirs)
    for late in (lambda: Ask(slow)(0, Screen(slow)(0)), lambda: Finish(slow)(0, asked)):
        with pytest.raises(UserError, match="other settings"):
            late()
    assert not RunDir(first.out).list("phases/expanded") and not RunDir(first.out).list("phases/prompts")
    assert build(other).accepted == 6


def test_a_part_of_the_plan_that_another_start_stored_is_no_part_of_this_ones(tmp_path: Path) -> None:
    first = fake_config(tmp_path, tmp_path / "run", block=2)
    other = with_candidates(first, steps=5)
    begin(RunDir(first.out), other)
    slow, theirs = (texts(one, one.out, alone=True).spec for one in (first, other))
    read_blocks(theirs)
    asked = Ask(slow)(0, Screen(slow)(0))
    Finish(slow)(0, asked)
    RunDir(first.out).delete("phases/prompts-000000.parquet")
    with pytest.raises(UserError, match="other settings"):
        Finish(theirs)(0, asked)

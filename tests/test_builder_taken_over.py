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
from drspo.errors import UserError
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

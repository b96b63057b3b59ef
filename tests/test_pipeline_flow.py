"""The Ray executor gives the local executor's tables, and loses one row to a poisoned prompt."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dataset_builder.build import Build, Outcome
from drspo.errors import UserError
from pipeline.settings import ResourceSettings
from tests.building import IDEAS, build, fake_config, final_tables, with_candidates

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

RESOURCES = ResourceSettings(generator_actors=2, actor_cpus=0.5)


@pytest.fixture(scope="module", autouse=True)
def session(repository: Path) -> Iterator[None]:
    """One Ray for the module: its start costs more than its work."""
    import ray

    from pipeline.cluster import connect

    # Workers import the fakes from the checkout, whatever path this session was given.
    os.environ["PYTHONPATH"] = str(repository)
    connect(ResourceSettings(object_store_mb=300))
    yield
    ray.shutdown()


def build_on_ray(config: Any) -> Outcome:
    from pipeline.flow import RayExecutor

    return Build(config, RayExecutor(config.resources))()


def test_both_executors_give_the_same_tables(tmp_path: Path) -> None:
    for name in ("local", "ray"):
        (tmp_path / name).mkdir()
    build(fake_config(tmp_path / "local", tmp_path / "local/out"))
    config = fake_config(tmp_path / "ray", tmp_path / "ray/out", resources=RESOURCES)
    outcome = build_on_ray(config)
    assert outcome.made_now == len(IDEAS)
    assert final_tables(tmp_path / "ray/out") == final_tables(tmp_path / "local/out")
    assert build_on_ray(config).made_now == 0


@pytest.mark.parametrize(
    ("how", "reason"),
    [("segfault", "Segmentation fault"), ("exit", "died without a word"), ("hang", "no answer within 4 s")],
)
def test_a_prompt_that_takes_workers_down_is_one_dead_row(tmp_path: Path, how: str, reason: str) -> None:
    config = fake_config(tmp_path, tmp_path / "out", resources=RESOURCES)
    config = with_candidates(
        config, *(f"tests.plugin_fakes:Painter.{o}" for o in ("poison=castle", f"how={how}"))
    )
    config = replace(config, guard=replace(config.guard, deadline=4.0))
    outcome = build_on_ray(config)
    assert (outcome.made_now, outcome.dead, sum(outcome.pairs.values())) == (len(IDEAS), 1, len(IDEAS) - 1)
    (row,) = (tmp_path / "out/dead").iterdir()
    assert reason in row.read_text() and "castle" in row.read_text()
    assert list((tmp_path / "out/units").rglob("*.parquet")).__len__() == len(IDEAS)


def test_a_scorer_that_crashes_is_guarded_too(tmp_path: Path) -> None:
    config = fake_config(tmp_path, tmp_path / "out", resources=RESOURCES)
    options = tuple(f"tests.plugin_fakes:Contrast.{o}" for o in ("poison=castle", "how=segfault"))
    outcome = build_on_ray(replace(config, scoring=replace(config.scoring, options=options)))
    assert (outcome.made_now, outcome.dead) == (len(IDEAS), 1)


def test_a_wrong_setting_of_a_stage_reaches_the_user_as_such(tmp_path: Path) -> None:
    config = with_candidates(
        fake_config(tmp_path, tmp_path / "out", resources=RESOURCES),
        "tests.plugin_fakes:Painter.poisn=castle",
    )
    with pytest.raises(UserError, match="no field 'poisn'"):
        build_on_ray(config)


@pytest.mark.parametrize(
    ("resources", "message"),
    [
        (ResourceSettings(generator_gpus=0.8, scorer_gpus=0.2), "want 1 GPU, and the cluster has 0"),
        (ResourceSettings(actor_cpus=64), "too few"),
    ],
)
def test_resources_that_do_not_exist_are_refused(
    tmp_path: Path, resources: ResourceSettings, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        build_on_ray(fake_config(tmp_path, tmp_path / "out", resources=resources))

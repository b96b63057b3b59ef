"""A run has one version of each scorer: another one is refused before it judges a single image."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from dataset_builder.build import Build
from dataset_builder.config import BuildConfig
from dataset_builder.report.card import card_files
from dataset_builder.retry import requeue
from drspo.errors import UserError
from drspo.files.run import RunDir
from drspo.files.storage import Storage
from pipeline.candidates.provenance import SCORERS
from pipeline.local import run_units
from pipeline.settings import ScoringSettings
from pipeline.units import done_units
from tests.building import FAKES, build, fake_config, final_tables
from tests.plugin_fakes import Brightness

MINE, OTHER = "none@0 view=whole", "none@1 view=whole"


class Killed(BaseException):
    """Stands for SIGKILL."""


def killed_after(config: BuildConfig, count: int) -> None:
    """Build, and end after so many units."""

    def some(work: Any, spec: Any) -> Iterator[dict[str, Any]]:
        if hasattr(work, "to_batches"):
            yield from islice(run_units(work, spec), count)
            raise Killed
        yield from run_units(work, spec)

    with pytest.raises(Killed):
        Build(config, some)()


@pytest.fixture
def config(tmp_path: Path) -> BuildConfig:
    return fake_config(tmp_path, tmp_path / "out", scoring=ScoringSettings(scorers=(f"{FAKES}:Brightness",)))


@pytest.mark.parametrize("claimed", [True, False], ids=["this version's run", "an earlier version's run"])
def test_a_scorer_of_another_version_judges_no_image_of_the_run(
    config: BuildConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, claimed: bool
) -> None:
    build(calm := replace(config, out=str(tmp_path / "calm")))
    killed_after(config, 3)
    if not claimed:
        Storage(config.out).delete(SCORERS)
    with monkeypatch.context() as patch:
        patch.setattr(Brightness, "checkpoint_hash", "1")
        said = f"the scores of 'Brightness' are by {MINE}, and the scorer is {OTHER} now"
        with pytest.raises(UserError, match=said) as refused:
            build(config)
    assert "Restore the scorer" in refused.value.hint and len(done_units(Storage(config.out))) == 3
    build(config)
    assert final_tables(config.out) == final_tables(calm.out)


def test_a_scorer_may_change_while_it_has_judged_nothing(
    config: BuildConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_after(config, 0)
    assert not Storage(config.out).exists(SCORERS)
    monkeypatch.setattr(Brightness, "score", lambda *_: [])
    assert build(config).dead == 6
    monkeypatch.undo()
    requeue(config.out)
    monkeypatch.setattr(Brightness, "checkpoint_hash", "1")
    build(config)
    run = RunDir(config.out)
    assert json.loads(run.read(SCORERS)) == {"Brightness": OTHER}
    assert OTHER in card_files(run, "a/b", "cc-by-4.0")["README.md"].decode()
    run.delete(SCORERS)
    assert OTHER in card_files(run, "a/b", "cc-by-4.0")["README.md"].decode(), "of an earlier version"


def test_a_damaged_claim_is_named(config: BuildConfig) -> None:
    killed_after(config, 1)
    for data in (b"", b"[]"):
        Storage(config.out).write(SCORERS, data)
        with pytest.raises(UserError) as refused:
            build(config)
        assert SCORERS in refused.value.where

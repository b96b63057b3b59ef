"""An export that was interrupted is refused by whoever reads it, and finished by the run's command."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest

from dataset_builder import export as exporting
from dataset_builder.config import BuildConfig
from dataset_builder.hub import publish
from dataset_builder.report import status, view
from drspo.errors import UserError
from drspo.files.run import RunDir
from drspo.files.storage import Storage
from eval.benchmark.prompt_lists import read_prompts
from pipeline.settings import ExportSettings, PairSettings
from pipeline.shards import read_pairs
from tests.building import build, fake_config, final_tables
from train.pairs.sources import open_source

INTERRUPTED = "the export was interrupted"
HELD_OUT = PairSettings(method="all", validation_fraction=0.4)
FEW_HELD_OUT = PairSettings(validation_fraction=0.1)


class Killed(BaseException):
    """Stands for SIGKILL."""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BuildConfig:
    """A finished run of several shards, with held-out prompts and whole groups."""
    monkeypatch.setattr(exporting, "MEGABYTE", 1000)
    export = ExportSettings(shard_mb=20, row_group_mb=20, ranking=True)
    config = fake_config(tmp_path, tmp_path / "out", pairs=HELD_OUT, export=export)
    build(config)
    return config


def killed(config: BuildConfig, method: str, when: Callable[[str], bool]) -> None:
    """Build until a method of the folder is asked for such a name, and end there."""
    real = getattr(Storage, method)

    def deadly(storage: Storage, name: str, *rest: object) -> object:
        if when(name):
            raise Killed
        return real(storage, name, *rest)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Storage, method, deadly)
        build(config)


def is_stale_shard(name: str) -> bool:
    return name.startswith("export/") and name.endswith(".parquet")


PLACES = {
    "a stale shard": ("delete", is_stale_shard),
    "the second shard": ("put", lambda name: "export/data/" in name and "-00000-of" not in name),
    "the figures": ("write", lambda name: name == "stats.json"),
    "the last word": ("write", lambda name: name == "run.json"),
}


@pytest.mark.parametrize("place", PLACES)
def test_whoever_reads_an_interrupted_export_refuses_and_the_command_finishes_it(
    config: BuildConfig, tmp_path: Path, place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run, other = Path(config.out), replace(config, pairs=FEW_HELD_OUT, out=str(tmp_path / "calm"))
    build(other)
    killed(replace(config, pairs=FEW_HELD_OUT), *PLACES[place])
    data, ranking = run / "export/data", run / "export/ranking"
    for source in (run, run / "export", data, ranking, data / "train-*.parquet"):
        with pytest.raises(UserError, match=INTERRUPTED):
            list(read_pairs(str(source), "train"))
    for source in (run, run / "export", data, data / "train-*.parquet"):
        with pytest.raises(UserError, match=INTERRUPTED):
            list(open_source(str(source), "train"))
    with pytest.raises(UserError, match=INTERRUPTED):
        read_prompts(str(run))
    asked = [str(run), "a/b", "--license", "cc-by-4.0", "--dry-run", str(tmp_path / "tree")]
    with pytest.raises(UserError, match=INTERRUPTED):
        publish.main(asked)
    assert status.main([str(run)]) == 0
    said = capsys.readouterr().out
    assert "interrupted, or under way" in said and "the command that began the run continues it" in said
    view.write(str(run))

    build(replace(config, pairs=FEW_HELD_OUT))
    assert final_tables(run) == final_tables(other.out)
    assert not list(run.glob("export/**/incomplete"))
    assert list(read_pairs(str(run), "train")) and list(open_source(str(data), "train"))
    publish.main(asked)
    assert not list((tmp_path / "tree").rglob("incomplete"))
    assert status.main([str(run)]) == 0
    assert "interrupted" not in capsys.readouterr().out


def test_the_first_settings_again_finish_an_interrupted_export_as_well(config: BuildConfig) -> None:
    before = final_tables(config.out)
    killed(replace(config, pairs=FEW_HELD_OUT), *PLACES["the second shard"])
    assert build(config).made_now == 0
    assert final_tables(config.out) == before and list(read_pairs(config.out, "train"))


def test_a_start_that_finds_all_shards_standing_touches_none_and_marks_nothing(
    config: BuildConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed: list[str] = []
    for method in ("create", "put", "write", "delete"):
        real = getattr(Storage, method)

        def told(storage: Storage, name: str, *rest: object, real: Callable[..., object] = real) -> object:
            changed.append(name)
            return real(storage, name, *rest)

        monkeypatch.setattr(Storage, method, told)
    build(config)
    assert not [name for name in changed if name.startswith("export/")]


def test_a_copy_that_comes_while_the_last_shard_stands_but_the_figures_do_not_ends_alike(
    config: BuildConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = replace(config, pairs=FEW_HELD_OUT)
    build(asked)
    calm = final_tables(config.out)
    build(config)
    real, late = Storage.write, []

    def second_start(storage: Storage, name: str, data: bytes) -> None:
        if name == "stats.json" and not late:
            late.append(name)
            build(asked)
        real(storage, name, data)

    monkeypatch.setattr(Storage, "write", second_start)
    build(asked)
    assert late and final_tables(config.out) == calm
    assert list(read_pairs(config.out, "train")) and RunDir(config.out).phases()["export"]["pairs"] == 6


def test_an_interrupted_export_on_an_object_store_is_refused_and_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "MEGABYTE", 1000)
    config = fake_config(tmp_path, f"memory://{uuid4().hex}", pairs=HELD_OUT)
    asked = replace(config, pairs=FEW_HELD_OUT, export=ExportSettings(shard_mb=20, row_group_mb=20))
    build(config)
    killed(asked, "delete", is_stale_shard)
    with pytest.raises(UserError, match=INTERRUPTED):
        list(read_pairs(config.out, "train"))
    build(asked)
    assert len(list(read_pairs(config.out, "train"))) == 6


def test_a_split_that_lacks_shards_is_not_published(config: BuildConfig, tmp_path: Path) -> None:
    next(Path(config.out).glob("export/data/train-00001-*")).unlink()
    with pytest.raises(UserError, match="where their names promise"):
        publish.main(
            [config.out, "a/b", "--license", "cc-by-4.0", "--dry-run", str(tmp_path / "incomplete_tree")]
        )

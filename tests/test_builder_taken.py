"""Prompts that another run has finished: taken once, whatever becomes of that run later."""

from __future__ import annotations

import json
import os
import pickle
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from dataset_builder.config import BuildConfig
from dataset_builder.ideas import texts
from drspo.errors import UserError
from drspo.files.patience import StoreFailsError
from drspo.files.run import MANIFEST, RunDir
from drspo.files.storage import Storage
from pipeline.ideas.expanders import ExpandSettings
from pipeline.ideas.filters import FilterSettings
from pipeline.ideas.finished import is_run
from pipeline.ideas.origin import SOURCE_NAME
from pipeline.ideas.sources import PromptSettings
from tests.building import IDEAS, begun, build, fake_config


def taking(folder: Path, out: str = "b", block: int = 2) -> BuildConfig:
    """A run that takes the prompts of another, with an expander that would change them."""
    if not (folder / "src").exists():
        build(fake_config(folder, folder / "src", until="prompts"))
    return replace(
        fake_config(folder, folder / out, block=block),
        prompts=PromptSettings(source=str(folder / "src")),
        expand=ExpandSettings(expander="grammar"),
    )


def prompts(run: Path) -> list[dict[str, str]]:
    return pq.read_table(run / "prompts.parquet").to_pylist()


@pytest.mark.parametrize("recorded", [True, False])
def test_prompts_that_were_taken_stay_as_they_are_when_their_run_is_gone(
    tmp_path: Path, recorded: bool
) -> None:
    config = taking(tmp_path)
    begun(config, 2)
    expected, prompts_hash = prompts(tmp_path / "src"), RunDir(tmp_path / "src").phases()["prompts"]["hash"]
    os.rename(tmp_path / "src", tmp_path / "gone")
    if not recorded:
        Storage(config.out).delete(SOURCE_NAME)
    build(config)
    assert prompts(tmp_path / "b") == expected
    facts = RunDir(config.out).phases()["prompts"]
    assert facts["taken_from"] == {"run": str(tmp_path / "src"), "hash": prompts_hash if recorded else ""}


def test_no_language_model_is_needed_for_taken_prompts_when_their_run_is_gone(tmp_path: Path) -> None:
    asking = replace(
        taking(tmp_path), expand=ExpandSettings(expander="llm"), filter=FilterSettings(filters=("llm",))
    )
    begun(asking, 2)
    os.rename(tmp_path / "src", tmp_path / "gone")
    assert build(asking).accepted == len(IDEAS), "and no key for it either"


def test_taken_prompts_that_were_read_in_part_need_their_run(tmp_path: Path) -> None:
    config = taking(tmp_path)
    begun(config, 2)
    os.rename(tmp_path / "src", tmp_path / "gone")
    Storage(config.out).delete("phases/blocks.json")
    with pytest.raises(UserError, match="there is no file .*src"):
        build(config)
    os.rename(tmp_path / "gone", tmp_path / "src")
    assert build(config).accepted == len(IDEAS)


def test_a_store_that_fails_is_not_taken_for_a_source_of_ideas(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = taking(tmp_path)
    real = Storage.exists

    def fails(storage: Storage, name: str) -> bool:
        if storage.base == config.prompts.source:
            raise StoreFailsError("the object store keeps failing", storage.base)
        return real(storage, name)

    with monkeypatch.context() as patch:
        patch.setattr(Storage, "exists", fails)
        with pytest.raises(StoreFailsError):
            build(config)
        assert not Path(config.out).exists()
    begun(config, 2)
    monkeypatch.setattr(Storage, "exists", fails)
    assert build(config).accepted == len(IDEAS), "once its prompts are stored, nobody asks for it"


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), OSError(13, "Permission denied")])
def test_a_source_that_cannot_be_looked_at_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    def fails(path: Path) -> bool:
        raise error

    monkeypatch.setattr(Path, "exists", fails)
    with pytest.raises(UserError, match=str(error.strerror)):
        is_run(str(tmp_path / "src"))


@pytest.mark.parametrize("source", ["", "corpus", "no/such", "x" * 5000, "a.txt", "memory://nowhere"])
def test_what_is_no_run_is_none(source: str) -> None:
    assert not is_run(source)


def test_workers_are_told_what_the_driver_found(tmp_path: Path) -> None:
    config = taking(tmp_path)
    spec = texts(config, config.out, alone=True).spec
    os.rename(tmp_path / "src", tmp_path / "gone")
    assert pickle.loads(pickle.dumps(spec)).taken == spec.taken is not None


def test_a_mistyped_run_leaves_nothing_of_it_behind(tmp_path: Path) -> None:
    """Another source in the same folder, before there is an image, is what it is."""
    build(replace(taking(tmp_path), until="prompts"))
    config = fake_config(tmp_path, tmp_path / "b", [*IDEAS, "a harbour"], until="prompts")
    config = replace(config, expand=ExpandSettings(expander="grammar"))
    build(config)
    assert {row["expander"] for row in prompts(tmp_path / "b")} == {"grammar"}
    assert "taken_from" not in json.loads((tmp_path / "b" / MANIFEST).read_text())["phases"]["prompts"]


@pytest.mark.parametrize("text", ["{}", "", "[]"])
def test_a_record_of_the_source_that_says_nothing_is_refused_with_what_to_do(
    tmp_path: Path, text: str
) -> None:
    config = taking(tmp_path)
    begun(config, 2)
    (tmp_path / "b" / SOURCE_NAME).write_text(text)
    with pytest.raises(UserError, match=r"source\.json\)\s+Delete it"):
        build(config)
    Storage(config.out).delete(SOURCE_NAME)
    assert build(config).accepted == len(IDEAS)

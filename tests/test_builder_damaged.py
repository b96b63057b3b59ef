"""A small file of a run that is empty or of another shape is named by the command that reads it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from dataset_builder.config import BuildConfig
from dataset_builder.hub import publish
from drspo.errors import UserError
from drspo.files.storage import Storage
from tests.building import begun, build, fake_config


@pytest.fixture
def config(tmp_path: Path) -> BuildConfig:
    config = fake_config(tmp_path, tmp_path / "out")
    build(config)
    return config


@pytest.mark.parametrize("data", [b"", b"[]", b"{}"])
@pytest.mark.parametrize("name", ["models/x.json", "stats.json"])
def test_publish_names_a_damaged_file_of_the_run(config: BuildConfig, tmp_path: Path, name: str, data: bytes):
    Storage(config.out).write(name, data)
    with pytest.raises(UserError) as refused:
        publish.main([config.out, "a/b", "--license", "cc-by-4.0", "--dry-run", str(tmp_path / "tree")])
    if not data or name == "models/x.json":
        assert refused.value.where.endswith(name)


@pytest.mark.parametrize("data", [b"", b"[]", b"{}"])
def test_the_builder_names_a_damaged_account_of_a_model(config: BuildConfig, data: bytes) -> None:
    Storage(config.out).write("models/x.json", data)
    with pytest.raises(UserError) as refused:
        build(config)
    assert refused.value.where.endswith("models/x.json")


def test_the_builder_names_a_damaged_count_of_blocks(tmp_path: Path) -> None:
    config = replace(fake_config(tmp_path, tmp_path / "out"), block=2)
    begun(config, 1)
    Storage(config.out).write("phases/blocks.json", b"")
    with pytest.raises(UserError) as refused:
        build(config)
    assert refused.value.where.endswith("phases/blocks.json")

"""Full disks, damaged and foreign files, crashing and hanging models: named, mended or set aside."""

from __future__ import annotations

import errno
import math
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from drspo.config import dump
from drspo.errors import UserError
from drspo.files import backends
from pipeline.records import unit_rows, unit_table
from pipeline.shards import read_pairs
from pipeline.units import encode_unit
from tests.building import ALLOW, IDEAS, build, fake_config, final_tables, with_candidates


def unit_files(out: Path) -> list[Path]:
    return sorted((out / "units").rglob("*.parquet"))


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-40])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def swap(file: Path) -> None:
    """Another unit's file under this name."""
    other = next(path for path in unit_files(file.parents[2]) if path != file)
    file.write_bytes(other.read_bytes())


@pytest.mark.parametrize("damage", [truncate, empty, swap])
def test_a_damaged_unit_is_moved_aside_and_made_again(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    config = fake_config(tmp_path, tmp_path / "out")
    build(config)
    before = final_tables(tmp_path / "out")
    victim = unit_files(tmp_path / "out")[2]
    damage(victim)
    assert build(config).made_now == 1
    assert final_tables(tmp_path / "out") == before
    (moved,) = (tmp_path / "out/quarantine").iterdir()
    assert victim.stem in moved.name


def test_an_image_that_rots_under_intact_scores_is_found_at_the_export(tmp_path: Path) -> None:
    config = fake_config(tmp_path, tmp_path / "out")
    build(config)
    before = final_tables(tmp_path / "out")
    for file in unit_files(tmp_path / "out"):
        data = bytearray(file.read_bytes())
        for at in range(len(data)):
            if data[at : at + 4] == b"RIFF":
                data[at + 50] ^= 1
        file.write_bytes(bytes(data))
    for shard in (tmp_path / "out/export").rglob("*.parquet"):
        shard.unlink()
    assert build(config).made_now == len(IDEAS)
    assert final_tables(tmp_path / "out") == before


def test_foreign_files_among_the_units_are_moved_aside(tmp_path: Path) -> None:
    config = fake_config(tmp_path, tmp_path / "out")
    build(config)
    before = final_tables(tmp_path / "out")
    (tmp_path / "out/units/zz").mkdir()
    for name in ("zz/notes.txt", f"00/{'0' * 32}.parquet"):
        (tmp_path / "out/units" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "out/units" / name).write_bytes(b"not ours")
    assert build(config).made_now == 0
    assert len(list((tmp_path / "out/quarantine").iterdir())) == 2
    assert final_tables(tmp_path / "out") == before


@pytest.mark.parametrize("name", ["plan.parquet", "prompts.parquet", "run.json"])
def test_a_damaged_foundation_is_refused_by_name(tmp_path: Path, name: str) -> None:
    config = fake_config(tmp_path, tmp_path / "out")
    build(config)
    truncate(tmp_path / "out" / name)
    with pytest.raises(UserError, match=name.replace(".", r"\.")):
        build(config)


def test_a_full_disk_is_named_and_the_same_command_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = fake_config(tmp_path, tmp_path / "out")
    real, units = backends.LocalFolder._written, []

    def full(folder: Any, target: Path, data: bytes) -> Any:
        if "units" in target.parts:
            units.append(target)
            if len(units) > 3:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
        return real(folder, target, data)

    monkeypatch.setattr(backends.LocalFolder, "_written", full)
    with pytest.raises(UserError, match="No space left on device.*units/"):
        build(config)
    monkeypatch.setattr(backends.LocalFolder, "_written", real)
    assert len(unit_files(tmp_path / "out")) == 3
    assert build(config).made_now == 3


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file"):
        build(fake_config(tmp_path, tmp_path / "file" / "out"))


def test_folders_that_became_read_only_are_named_and_the_same_command_continues(
    tmp_path: Path, repository: Path
) -> None:
    config = fake_config(tmp_path, tmp_path / "out")
    build(config)
    before = final_tables(tmp_path / "out")
    lost = unit_files(tmp_path / "out")[2]
    lost.unlink()
    locked = [lost.parent, tmp_path / "out/attempts"]
    for folder in locked:
        folder.chmod(0o555)
    try:
        done = run_program(config, tmp_path, repository, *WITHOUT_PRIVILEGES)
    finally:
        for folder in locked:
            folder.chmod(0o755)
    assert done.returncode == 2, done.stderr
    assert f"Permission denied ({tmp_path}/out/attempts/" in done.stderr and "Traceback" not in done.stderr
    assert build(config).made_now == 1
    assert final_tables(tmp_path / "out") == before


# Root may write anywhere, unless it gives that up.
WITHOUT_PRIVILEGES = ("setpriv", "--bounding-set=-dac_override") if os.geteuid() == 0 else ()


@pytest.mark.parametrize("name", ["plan.parquet", "prompts.parquet", "units/ab/{}.parquet"])
def test_a_foreign_parquet_file_is_never_used(tmp_path: Path, name: str) -> None:
    config = fake_config(tmp_path, tmp_path / "out")
    build(config)
    before = final_tables(tmp_path / "out")
    unit = unit_files(tmp_path / "out")[0]
    foreign = tmp_path / "out" / name if "units" not in name else unit
    pq.write_table(pa.table({"unit_id": [unit.stem], "config_hash": ["0"]}), foreign)
    if foreign == unit:
        assert build(config).made_now == 1
        assert final_tables(tmp_path / "out") == before
        assert unit.stem in next((tmp_path / "out/quarantine").iterdir()).name
    else:
        with pytest.raises(UserError, match=f"{name} has other columns"):
            build(config)


@pytest.mark.parametrize("damage", [truncate, empty])
def test_a_damaged_shard_is_written_again(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    config = fake_config(tmp_path, tmp_path / "out")
    build(config)
    before = final_tables(tmp_path / "out")
    damage(next((tmp_path / "out/export/data").iterdir()))
    assert build(config).made_now == 0
    assert final_tables(tmp_path / "out") == before


@pytest.mark.parametrize("wrong", [math.inf, -math.inf, math.nan])
def test_a_score_that_an_earlier_version_let_pass_is_never_paired(tmp_path: Path, wrong: float) -> None:
    config = fake_config(tmp_path, tmp_path / "out")
    build(config)
    victim = unit_files(tmp_path / "out")[0]
    (row,) = unit_rows(pq.read_table(victim))
    spoilt = replace(row.candidates[0], scores={"Brightness": wrong, "Contrast": 1.0})
    row = replace(row, candidates=(spoilt, *row.candidates[1:]))
    victim.write_bytes(encode_unit(unit_table([row], ("Brightness", "Contrast"))))
    build(replace(config, pairs=replace(config.pairs, method="all", validation_fraction=0.0)))
    pairs = list(read_pairs(str(tmp_path / "out")))
    assert spoilt.candidate_id not in {pair[side] for pair in pairs for side in ("chosen_id", "rejected_id")}
    assert all(math.isfinite(pair["margin"]) for pair in pairs)
    assert sum(pair["prompt_id"] == row.prompt_id for pair in pairs) == 3


def poisoned(folder: Path, how: str, **guard: Any) -> Any:
    config = fake_config(folder, folder / "out")
    options = [f"tests.plugin_fakes:Painter.{key}" for key in ("poison=castle", f"how={how}")]
    config = with_candidates(config, *options)
    return replace(config, guard=replace(config.guard, **guard))


def run_program(
    config: Any, folder: Path, repository: Path, *before: str
) -> subprocess.CompletedProcess[str]:
    file = folder / "config.yaml"
    file.write_text(dump(config))
    command = [*before, sys.executable, "-m", "dataset_builder", "--config", str(file), *ALLOW]
    return subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=280)


@pytest.mark.timeout(600)
def test_a_prompt_that_hangs_the_model_is_one_dead_row_without_help(tmp_path: Path, repository: Path) -> None:
    done = run_program(poisoned(tmp_path, "hang", deadline=4.0), tmp_path, repository)
    assert done.returncode == 3, done.stderr
    assert len(unit_files(tmp_path / "out")) == len(IDEAS)
    (reason,) = (tmp_path / "out/dead").iterdir()
    assert "took 2 workers down: no answer within 4 s" in reason.read_text()
    assert done.stderr.count("starting again from the last committed unit") == 2


@pytest.mark.timeout(600)
def test_a_prompt_that_crashes_the_process_is_dead_at_the_third_start(
    tmp_path: Path, repository: Path
) -> None:
    config = poisoned(tmp_path, "segfault")
    codes = [run_program(config, tmp_path, repository).returncode for _ in range(3)]
    assert codes == [-11, -11, 3]
    # The suspect was tried last, so the first start already made all others but those behind it.
    (reason,) = (tmp_path / "out/dead").iterdir()
    assert "took 2 workers down: Segmentation fault" in reason.read_text()

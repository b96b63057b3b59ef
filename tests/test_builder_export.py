"""Shards are cut by bytes, complete, deterministic, and read by datasets in both configs."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataset_builder import export as exporting
from dataset_builder.build import Build
from dataset_builder.export import cut
from pipeline.local import run_units
from pipeline.pairs.scores import scan_units
from pipeline.settings import ExportSettings, PairSettings
from pipeline.shards import read_pairs
from tests.building import IDEAS, build, fake_config, final_tables


@given(st.lists(st.integers(0, 30), max_size=30), st.integers(1, 40))
def test_rows_are_cut_where_the_bytes_are_full(sizes: list[int], limit: int) -> None:
    rows = pl.DataFrame(
        {"bytes": sizes, "index": range(len(sizes))}, schema={"bytes": pl.Int64, "index": pl.Int64}
    )
    parts = cut(rows, limit)
    assert [i for part in parts for i in part["index"]] == list(range(len(sizes)))
    assert all(part.height == 1 or part["bytes"].sum() <= limit for part in parts)
    for part, following in zip(parts, parts[1:]):
        assert part["bytes"].sum() + following["bytes"][0] > limit


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose pairs fill several shards of several row groups: megabytes are made small for it."""
    folder = tmp_path_factory.mktemp("export")
    patch = pytest.MonkeyPatch()
    patch.setattr(exporting, "MEGABYTE", 1000)
    try:
        pairs = PairSettings(method="all", validation_fraction=0.3)
        build(
            fake_config(
                folder,
                folder / "out",
                pairs=pairs,
                export=ExportSettings(shard_mb=60, row_group_mb=20, ranking=True),
            )
        )
    finally:
        patch.undo()
    return folder / "out"


def test_shards_and_row_groups_are_cut_by_image_bytes(run: Path) -> None:
    files = sorted((run / "export/data").glob("train-*.parquet"))
    assert len(files) > 2
    assert [file.name for file in files] == [
        f"train-{i:05d}-of-{len(files):05d}.parquet" for i in range(len(files))
    ]
    for file in files:
        metadata = pq.ParquetFile(file).metadata
        groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
        assert all(group.num_rows == 1 or group.total_byte_size < 30_000 for group in groups)
        assert sum(group.total_byte_size for group in groups) < 90_000


def test_every_pair_stands_once_and_position_tells_nothing(run: Path) -> None:
    ids = {}
    for split in ("train", "validation"):
        pairs = list(read_pairs(str(run), split))
        assert len({pair["pair_id"] for pair in pairs}) == len(pairs)
        for pair in pairs:
            sides = {pair["image_0_uid"], pair["image_1_uid"]}
            assert pair["best_image_uid"] == pair["chosen_id"] and sides == {
                pair["chosen_id"],
                pair["rejected_id"],
            }
            assert pair["label_0"] + pair["label_1"] == 1
        ids[split] = {pair["prompt_id"] for pair in pairs}
    assert not ids["train"] & ids["validation"]
    labels = [pair["label_0"] for pair in read_pairs(str(run))]
    assert 0.2 < sum(labels) / len(labels) < 0.8, "the better image must not always stand on the same side"


def test_whole_groups_stand_in_the_ranking_config_the_best_first(run: Path) -> None:
    found = {}
    for split in ("train", "validation"):
        for group in read_pairs(str(run / "export/ranking"), split):
            found[group["prompt_id"]] = split
            assert len(group["images"]) == len(set(group["candidate_ids"])) == 4
            assert group["score"] == sorted(group["score"], reverse=True)
            assert group["score"] == [scores["Brightness"] for scores in group["scores"]]
            best = group["score"][0]
            assert [rank == 1 for rank in group["ranks"]] == [score == best for score in group["score"]]
            for image, candidate in zip(group["images"], group["candidate_ids"], strict=True):
                assert image["path"].startswith(candidate)
    assert len(found) == len(IDEAS)
    for split in ("train", "validation"):
        assert {pair["prompt_id"] for pair in read_pairs(str(run), split, ["prompt_id"])} == {
            prompt for prompt, own in found.items() if own == split
        }


def test_an_interrupted_export_writes_only_what_is_missing(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "MEGABYTE", 1000)
    config = fake_config(
        run.parent,
        run,
        pairs=PairSettings(method="all", validation_fraction=0.3),
        export=ExportSettings(shard_mb=60, row_group_mb=20, ranking=True),
    )
    before = final_tables(run)
    times = {file: file.stat().st_mtime_ns for file in (run / "export").rglob("*.parquet")}
    lost, cut_short = sorted(times)[:2]
    lost.unlink()
    cut_short.write_bytes(cut_short.read_bytes()[:-9])
    build(config)
    assert final_tables(run) == before
    again = {file for file, time in times.items() if file.stat().st_mtime_ns != time}
    assert again == {lost, cut_short}


def test_the_figures_agree_with_the_tables(run: Path) -> None:
    figures = json.loads((run / "stats.json").read_text())
    counts = figures["counts"]
    assert counts["images"] == len(IDEAS) * 4 and counts["prompts_accepted"] == len(IDEAS)
    for split in ("train", "validation"):
        assert counts[f"pairs_{split}"] == sum(1 for _ in read_pairs(str(run), split, ["pair_id"]))
    assert sum(figures["margins"]["histogram"]["counts"]) == counts["pairs"]
    rates = figures["win_rates"]
    assert rates["Painter"]["Sketcher"] + rates["Sketcher"]["Painter"] == pytest.approx(1)
    scan = scan_units(
        Build(fake_config(run.parent, run), run_units).store,
        [p.stem for p in (run / "units").rglob("*.parquet")],
    )
    wins = total = 0
    for _, group in scan.candidates.group_by("prompt_id"):
        values = {g: group.filter(generator=g)["scores"].struct.field("Brightness").to_list() for g in rates}
        for a in values["Painter"]:
            for b in values["Sketcher"]:
                wins, total = wins + (a > b) + (a == b) / 2, total + 1
    assert rates["Painter"]["Sketcher"] == pytest.approx(wins / total)

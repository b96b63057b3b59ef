"""Shards are cut by bytes, complete, deterministic, and read by datasets in both configs."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataset_builder import export as exporting
from dataset_builder.build import Build
from dataset_builder.export import cuts, sliced
from dataset_builder.gather import Shard, _by_unit
from pipeline.local import run_units
from pipeline.pairs import heaps
from pipeline.pairs.scores import read_facts
from pipeline.settings import ExportSettings, PairSettings
from pipeline.shards import read_pairs
from pipeline.units import UnitStore
from tests.building import IDEAS, build, fake_config, final_tables


@given(st.lists(st.integers(0, 30), max_size=30), st.integers(1, 40), st.integers(1, 40))
def test_rows_are_cut_where_the_bytes_are_full(sizes: list[int], limit: int, group_limit: int) -> None:
    shards = cuts(sizes, limit, group_limit)
    queue = list(sizes)
    filled = [[[queue.pop(0) for _ in range(count)] for count in groups] for groups in shards]
    assert not queue and all(group for groups in filled for group in groups)
    rows = [sum(groups, []) for groups in filled]
    for parts, most in ((rows, limit), *((groups, group_limit) for groups in filled)):
        assert all(len(part) == 1 or sum(part) <= most for part in parts)
        for part, following in zip(parts, parts[1:]):
            assert sum(part) + following[0] > most


@given(st.lists(st.integers(0, 5), max_size=8), st.lists(st.integers(1, 4), max_size=8))
def test_rows_come_out_of_pieces_of_any_size_in_slices_of_any_other(
    pieces: list[int], heights: list[int]
) -> None:
    rows = pl.DataFrame({"row": range(sum(heights))})
    ends = [min(sum(pieces[: n + 1]), rows.height) for n in range(len(pieces))] + [rows.height]
    given = (rows[start:end] for start, end in zip([0, *ends], ends))
    slices = list(sliced(given, heights))
    assert [part.height for part in slices] == heights
    assert [row for part in slices for row in part["row"]] == rows["row"].to_list()


@given(st.lists(st.lists(st.integers(0, 12), min_size=1, max_size=5).map(sorted), max_size=8))
def test_a_sweep_asks_for_each_unit_once_and_serves_every_row(shards: list[list[int]]) -> None:
    frames = [pl.DataFrame({"unit_id": [f"{unit:02d}" for unit in units]}) for units in sorted(shards)]
    served: dict[int, list[str]] = {}
    units = []
    for unit, wanted in _by_unit(Shard(str(n), rows, (), "") for n, rows in enumerate(frames)):
        units.append(unit)
        for shard, start, count in wanted:
            own = served.setdefault(int(shard.shard.name), [])
            assert start == len(own)
            own += [unit] * count
    assert units == sorted({unit for rows in frames for unit in rows["unit_id"]})
    assert served == {n: rows["unit_id"].to_list() for n, rows in enumerate(frames)}


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


def exported_again(run: Path, **changes: object) -> dict[str, str]:
    """The tables of the run, whose shards are written anew."""
    for file in (run / "export").rglob("*.parquet"):
        file.unlink()
    pairs = PairSettings(method="all", validation_fraction=0.3)
    export = ExportSettings(shard_mb=60, row_group_mb=20, ranking=True)
    build(fake_config(run.parent, run, pairs=pairs, export=export, **changes))
    return final_tables(run)


def test_each_unit_is_read_once_for_all_shards_of_all_layouts(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "MEGABYTE", 1000)
    reads: Counter[tuple[str, str]] = Counter()
    real = UnitStore.read

    def counted(store: UnitStore, unit: str, columns: list[str] | None = None) -> object:
        reads[unit, "facts" if columns else "images"] += 1
        return real(store, unit, columns)

    monkeypatch.setattr(UnitStore, "read", counted)
    before = final_tables(run)
    assert exported_again(run) == before
    units = [file.stem for file in (run / "units").rglob("*.parquet")]
    assert reads == {(unit, what): 1 for unit in units for what in ("facts", "images")}
    assert len(list((run / "export").rglob("*.parquet"))) > len(units)


def test_in_however_many_parts_a_run_is_paired_its_tables_are_the_same(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "MEGABYTE", 1000)
    before, left = final_tables(run), sorted(run.iterdir())
    monkeypatch.setattr(heaps, "ROWS_PER_PART", 4)
    monkeypatch.setattr(heaps, "_WAITING", 3)
    assert exported_again(run) == before
    assert sorted(run.iterdir()) == left, "what lay on disk on the way is gone"


def test_who_wins_is_told_by_the_score_that_makes_the_pairs(tmp_path: Path) -> None:
    told = []
    for weights in ((), ("Brightness=-2", "Contrast=0")):
        build(fake_config(tmp_path, tmp_path / "run", pairs=PairSettings(weights=weights)))
        told.append(json.loads((tmp_path / "run/stats.json").read_text()))
    assert [each["decided_by"] for each in told] == ["Brightness", "-2 Brightness + 0 Contrast"]
    before, after = (each["win_rates"] for each in told)
    assert after["Painter"]["Sketcher"] == pytest.approx(before["Sketcher"]["Painter"])


def test_the_figures_agree_with_the_tables(run: Path) -> None:
    figures = json.loads((run / "stats.json").read_text())
    counts = figures["counts"]
    assert counts["images"] == len(IDEAS) * 4 and counts["prompts_accepted"] == len(IDEAS)
    for split in ("train", "validation"):
        assert counts[f"pairs_{split}"] == sum(1 for _ in read_pairs(str(run), split, ["pair_id"]))
    assert sum(figures["margins"]["histogram"]["counts"]) == counts["pairs"]
    rates = figures["win_rates"]
    assert rates["Painter"]["Sketcher"] + rates["Sketcher"]["Painter"] == pytest.approx(1)
    facts = read_facts(
        Build(fake_config(run.parent, run), run_units).store,
        [p.stem for p in (run / "units").rglob("*.parquet")],
    )
    wins = total = 0
    for _, group in facts.group_by("prompt_id"):
        values = {g: group.filter(generator=g)["scores"].struct.field("Brightness").to_list() for g in rates}
        for a in values["Painter"]:
            for b in values["Sketcher"]:
                wins, total = wins + (a > b) + (a == b) / 2, total + 1
    assert rates["Painter"]["Sketcher"] == pytest.approx(wins / total)

"""What is published keeps to Croissant, by its own validator, and to sizes that the Hub's viewer reads."""

from __future__ import annotations

import io
import json
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from dataset_builder.export import Lanes, group_bytes, with_bytes
from dataset_builder.hub.publish import main
from dataset_builder.layouts import PAIRS, RANKING
from dataset_builder.report.croissant import describe
from drspo.files.run import RunDir
from drspo.files.storage import Storage
from pipeline.pairs.pairing import choose_pairs
from pipeline.pairs.ranking import rank_groups
from pipeline.pairs.scores import alive, read_facts
from pipeline.settings import ExportSettings, PairSettings
from pipeline.shards import SPLITS, read_pairs
from tests.building import IDEAS, build, fake_config

# What the Hub's viewer reads at once for a page of rows.
VIEWER_LIMIT = 300_000_000


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("croissant")
    pairs = PairSettings(method="all", validation_fraction=0.4)
    build(fake_config(folder, folder / "out", pairs=pairs, export=ExportSettings(ranking=True)))
    main([str(folder / "out"), "me/tiny", "--license", "cc-by-4.0", "--dry-run", str(folder / "tree")])
    return folder / "tree"


def test_the_description_has_no_fault_and_no_warning(tree: Path) -> None:
    import mlcroissant

    described = mlcroissant.Dataset(jsonld=tree / "croissant.json")
    issues = described.metadata.ctx.issues
    assert not issues.errors and not issues.warnings
    assert [each.id for each in described.metadata.record_sets] == ["default", "ranking"]


def test_every_row_of_every_shard_is_found_through_the_description(tree: Path) -> None:
    import mlcroissant

    described = mlcroissant.Dataset(jsonld=tree / "croissant.json")
    pairs = {row["default/pair_id"].decode(): row for row in described.records("default")}
    expected = [pair for split in SPLITS for pair in read_pairs(str(tree), split)]
    assert set(pairs) == {pair["pair_id"] for pair in expected}
    for pair in expected:
        row = pairs[pair["pair_id"]]
        chosen = Image.open(io.BytesIO(pair["chosen"]["bytes"])).convert("RGB")
        assert row["default/chosen"].convert("RGB").tobytes() == chosen.tobytes()
        assert row["default/chosen_scores/Contrast"] == pair["chosen_scores"]["Contrast"]
        assert row["default/jpg_0"].size == row["default/jpg_1"].size == (64, 32)
    groups = list(described.records("ranking"))
    assert len(groups) == len(IDEAS)
    assert all(image.size == (64, 32) for group in groups for image in group["ranking/images"])


def test_every_score_is_read_under_the_name_that_it_has(tmp_path: Path) -> None:
    import mlcroissant

    names = ("Out.Inner", "X\u00e4", "X\u8272", "where", "a-b", "it's", 'a"b', "back\\slash", "len", "7", "$")
    scores = pa.struct([(name, pa.float64()) for name in names])
    wanted = {name: float(index) for index, name in enumerate(names)}
    table = pa.table({"chosen_scores": pa.array([wanted, wanted], scores)})
    (tmp_path / "export/data").mkdir(parents=True)
    shard = "data/train-00000-of-00001.parquet"
    pq.write_table(table, tmp_path / "export" / shard)
    run = RunDir(tmp_path)
    run.start("dataset_builder", PairSettings(), "0")
    about = {"name": "x", "repo_id": "me/x", "licence": "mit", "about": "x"}
    text = describe(run, {"default": [f"export/{shard}"]}, **about)
    (tmp_path / "export/croissant.json").write_bytes(text)
    rows = list(mlcroissant.Dataset(jsonld=tmp_path / "export/croissant.json").records("default"))
    assert rows == [{f"default/chosen_scores/{name}": value for name, value in wanted.items()}] * 2


def test_shards_of_another_export_are_not_described(tree: Path) -> None:
    for file_set in json.loads((tree / "croissant.json").read_text())["distribution"]:
        assert all(pattern.endswith("-of-00001.parquet") for pattern in file_set["includes"])
        assert {Path(pattern).name.partition("-")[0] for pattern in file_set["includes"]} == set(SPLITS)


def test_a_page_of_rows_is_never_more_than_the_viewer_reads(tmp_path: Path) -> None:
    """By the plan of two thousand groups of full-size scrolls under the default settings."""
    import datasets

    limit, most = (
        datasets.utils.py_utils.convert_file_size_to_int(size)
        for size in (datasets.config.MAX_ROW_GROUP_SIZE, datasets.config.MAX_SHARD_SIZE)
    )
    candidates = scrolls(2000)
    groups = rank_groups(candidates, PairSettings(), ("s",))
    pairs = choose_pairs(candidates, PairSettings(method="all", most_per_prompt=2), ("s",))
    count = 0
    with Lanes(Storage(tmp_path), ExportSettings(ranking=True)) as lanes:
        lanes.add(PAIRS, with_bytes(pairs, candidates, copies=True))
        lanes.add(RANKING, group_bytes(groups, candidates))
        assert {name.split("/")[1] for name in lanes.cut()} == {"data", "ranking"}
        for shard in lanes.shards():
            rows = shard.rows["bytes"].to_list()
            starts = [sum(shard.groups[:index]) for index in range(len(shard.groups))]
            sizes = [sum(rows[start : start + n]) for start, n in zip(starts, shard.groups, strict=True)]
            assert max(sizes) <= limit < VIEWER_LIMIT and sum(sizes) == sum(rows) <= most
            count += len(rows)
    assert count == pairs.height + groups.height


def scrolls(prompts: int) -> pl.DataFrame:
    """Six scored images of 1024 x 4096 pixels for each prompt, by their sizes alone."""
    rows = [
        {
            "unit_id": f"u{p:05d}", "prompt_id": f"p{p}", "prompt": "", "candidate_id": f"p{p}c{i}",
            "generator": "mad", "seed": i, "height": 1024, "width": 4096, "scores": {"s": float(i)},
            "image_bytes": 6_300_000 + 1000 * i,
        }
        for p in range(prompts)
        for i in range(6)
    ]  # fmt: skip
    return pl.DataFrame(rows)


def test_what_is_stored_is_what_was_counted_and_has_an_index_of_its_pages(tree: Path) -> None:
    from dataset_builder.build import Build
    from pipeline.local import run_units

    out = tree.parent / "out"
    store = Build(fake_config(tree.parent, out), run_units).store
    made = alive(read_facts(store, [path.stem for path in (out / "units").rglob("*.parquet")]))
    sizes = dict(zip(made["candidate_id"], made["image_bytes"], strict=True))
    for file in sorted(tree.rglob("*.parquet")):
        table, metadata = pq.read_table(file), pq.ParquetFile(file).metadata
        if "images" in table.column_names:
            counted = sum(sizes[each] for row in table["candidate_ids"].to_pylist() for each in row)
        else:
            sides = table["chosen_id"].to_pylist() + table["rejected_id"].to_pylist()
            counted = 2 * sum(sizes[each] for each in sides)
        stored = sum(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups))
        assert counted < stored < counted + 2000 * table.num_rows + 20_000
        columns = [metadata.row_group(0).column(index) for index in range(metadata.num_columns)]
        assert all(column.has_offset_index for column in columns)

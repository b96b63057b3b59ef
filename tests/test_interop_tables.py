"""What we write is read by other people's tables as it stands: polars and DuckDB, by glob and by SQL."""

from __future__ import annotations

import io
from pathlib import Path

import duckdb
import pytest
from PIL import Image

from benchmarks.interop.tables import by_duckdb, by_polars, by_us
from dataset_builder.hub.publish import main
from pipeline.settings import PairSettings
from pipeline.shards import read_pairs
from tests.building import IDEAS, build, fake_config


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tables")
    build(fake_config(folder, folder / "out", IDEAS, pairs=PairSettings(method="all", validation_fraction=0)))
    main([str(folder / "out"), "me/scrolls", "--license", "cc-by-4.0", "--dry-run", str(folder / "tree")])
    return folder / "tree"


def test_polars_scans_the_shards_without_reading_pictures(tree: Path) -> None:
    import polars as pl

    pairs = list(read_pairs(str(tree), "train"))
    lazy = pl.scan_parquet(tree / "data" / "train-*.parquet")
    prompts = lazy.select("prompt").collect()["prompt"].to_list()
    assert sorted(prompts) == sorted(pair["prompt"] for pair in pairs) and prompts
    generators = lazy.group_by("chosen_generator").len().collect()
    assert generators["len"].sum() == len(pairs)


def test_duckdb_asks_the_shards_in_sql_and_finds_whole_pictures(tree: Path) -> None:
    where = str(tree / "data" / "train-*.parquet")
    pairs = list(read_pairs(str(tree), "train"))
    won = duckdb.sql(
        f"select chosen_generator, count(*) as won from '{where}' group by 1 order by won desc"
    ).fetchall()
    assert sum(count for _, count in won) == len(pairs)
    (picture,) = duckdb.sql(f"select chosen.bytes from '{where}' limit 1").fetchall()[0]
    assert Image.open(io.BytesIO(picture)).size == (64, 32)


def test_duckdb_reads_the_units_of_a_run_that_nobody_published(tree: Path) -> None:
    files = str(tree.parent / "out" / "**" / "prompts.parquet")
    accepted = duckdb.sql(f"select count(*) from '{files}' where status = 'ok'").fetchall()
    assert accepted == [(len(IDEAS),)]


def test_both_find_in_a_run_what_our_own_reader_finds(tree: Path) -> None:
    """How often each generator won, the best of each prompt's nested candidates, and a picture."""
    run = tree.parent / "out"
    ours = by_us(run)
    assert len(ours["best"]) == ours["kept"] == len(IDEAS) and sum(ours["won"].values()) > len(IDEAS)
    assert by_polars(run) == ours
    assert by_duckdb(run) == ours

"""polars and DuckDB, as they stand, read a run of the builder: its shards and its own tables.

    python -m pip install duckdb
    python -m benchmarks.interop.tables --run RUN

Both are given nothing but globs. They count how often each generator won and how many prompts were kept, find
the best candidate of each prompt among those that are nested in the units, and hand out a picture. The
answers must be those of our own reader.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
from PIL import Image

from pipeline.shards import read_pairs

SHARDS, UNITS, PROMPTS = "export/data/train-*.parquet", "units/*/*.parquet", "prompts.parquet"


def main() -> int:
    """One row for each library; 0 when both answer as we do."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, required=True, help="a finished run on this machine")
    run = parser.parse_args().run
    ours = by_us(run)
    found = {"polars": by_polars(run), "DuckDB": by_duckdb(run)}
    for name, answers in found.items():
        apart = [question for question, answer in answers.items() if answer != ours[question]]
        said = f"answers otherwise: {', '.join(apart)}" if apart else "answers as we do"
        print(f"{name:<8} {said}: {len(answers['best'])} prompts, {sum(answers['won'].values())} pairs")
    return 0 if all(answers == ours for answers in found.values()) else 1


def by_us(run: Path) -> dict[str, Any]:
    """Our own reader's answers; the best candidate from the table that pairing reads."""
    pairs = list(read_pairs(str(run), "train"))
    scores = pl.read_parquet(run / "scores.parquet").filter(pl.col("rank") == 1)
    return {
        "won": dict(Counter(pair["chosen_generator"] for pair in pairs)),
        "best": dict(scores.select("prompt_id", "candidate_id").iter_rows()),
        "size": Image.open(io.BytesIO(pairs[0]["chosen"]["bytes"])).size,
        "kept": len(set(scores["prompt_id"])),
    }


def by_polars(run: Path) -> dict[str, Any]:
    """The same by lazy scans, which read no picture until one is asked for."""
    shards, units = pl.scan_parquet(run / SHARDS), pl.scan_parquet(run / UNITS)
    best = units.select("prompt_id", "candidates").explode("candidates").unnest("candidates")
    best = best.filter(pl.col("rank") == 1).select("prompt_id", "candidate_id").collect()
    picture = shards.select(pl.col("chosen").struct.field("bytes")).head(1).collect().item()
    won = shards.group_by("chosen_generator").len().collect()
    kept = pl.scan_parquet(run / PROMPTS).filter(pl.col("status") == "ok").select(pl.len()).collect().item()
    return {
        "won": dict(won.iter_rows()),
        "best": dict(best.iter_rows()),
        "size": Image.open(io.BytesIO(picture)).size,
        "kept": kept,
    }


def by_duckdb(run: Path) -> dict[str, Any]:
    """The same in SQL."""
    shards, units, prompts = (str(run / name) for name in (SHARDS, UNITS, PROMPTS))
    won = duckdb.sql(f"select chosen_generator, count(*) from '{shards}' group by 1").fetchall()
    best = duckdb.sql(
        f"select prompt_id, c.candidate_id from '{units}', unnest(candidates) as t(c) where c.rank = 1"
    ).fetchall()
    ((picture,),) = duckdb.sql(f"select chosen.bytes from '{shards}' limit 1").fetchall()
    ((kept,),) = duckdb.sql(f"select count(*) from '{prompts}' where status = 'ok'").fetchall()
    return {
        "won": dict(won),
        "best": dict(best),
        "size": Image.open(io.BytesIO(picture)).size,
        "kept": kept,
    }


if __name__ == "__main__":
    sys.exit(main())

"""Ids are functions of content, and schemas mirror the dataclasses."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields

import pyarrow as pa
import pytest

from pipeline import records
from pipeline.records import Candidate, Pair, Prompt, UnitRow


def test_ids_do_not_change_between_versions() -> None:
    # A change here makes every published data set and every half-finished run another one.
    assert records.prompt_id("a  lighthouse\nat dusk ") == records.prompt_id("a lighthouse at dusk")
    assert records.prompt_id("a lighthouse at dusk") == "13b7f8d3aa30206afa88381ab95dc3e0"
    assert (
        records.unit_id(["b", "a"], "c")
        == records.unit_id(["a", "b"], "c")
        == "7439cb0dad266800342124dbe587c464"
    )
    assert records.candidate_id("p", "mad", "h", 7) == "ea406551923fa85201cc559dbba01c76"
    assert records.candidate_seed("p", "mad", 0) == 502880777
    assert records.pair_id("a", "b") == "6910d44ed02a2521741b2593a11759bf" != records.pair_id("b", "a")


def test_composed_and_decomposed_letters_are_the_same_prompt() -> None:
    assert records.prompt_id("caf\u00e9") == records.prompt_id("cafe\u0301")


@pytest.mark.parametrize(
    ("dataclass", "schema"),
    [
        (Prompt, records.PROMPT_SCHEMA),
        (UnitRow, records.unit_schema(["a"])),
        (Candidate, pa.schema(list(records.candidate_type(["a"])))),
    ],
)
def test_schemas_have_the_fields_of_their_dataclasses(dataclass: type, schema: pa.Schema) -> None:
    assert schema.names == [field.name for field in fields(dataclass)]


def test_a_pair_row_is_a_pair_and_two_images() -> None:
    names = {field.name for field in fields(Pair)}
    images = {"chosen", "rejected"}
    assert set(records.pair_schema(["a"], pickapic=False).names) == names | images
    assert set(records.pair_schema(["a"]).names) == names | images | set(records.PICKAPIC)


def test_unit_rows_survive_the_way_through_arrow() -> None:
    candidate = Candidate(
        candidate_id="c", generator="mad", seed=3, image={"bytes": b"x", "path": "c.webp"}, image_bytes=1,
        height=8, width=16, scores={"a": 0.5}, scorer_versions={"a": "1"}, rank=1, seconds=0.25, device="cpu",
    )  # fmt: skip
    broken = Candidate(candidate_id="d", generator="mad", seed=4, error="RuntimeError: no")
    row = UnitRow(
        unit_id="u", prompt_id="p", parent_id="", prompt="a hill", status="ok", config_hash="h",
        candidates=(candidate, broken),
    )  # fmt: skip
    assert records.unit_rows(records.unit_table([row], ["a"])) == [row]


def test_records_and_shards_do_not_import_ray_or_torch() -> None:
    code = "import sys, pipeline.records, pipeline.shards; print({'ray', 'torch'} & set(sys.modules))"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        == "set()\n"
    )

"""Reading ideas from every kind of source, and the accounts of what becomes of each row."""

from __future__ import annotations

import json
import subprocess
import sys
import unicodedata

import polars as pl
import pyarrow as pa
import pytest

from drspo import consent
from drspo.errors import UserError
from drspo.files.storage import Storage
from drspo.llm.settings import LLMSettings
from pipeline.ideas.dedup import KeptTexts
from pipeline.ideas.expanders import Expanded, ExpandSettings
from pipeline.ideas.filters import FilterSettings
from pipeline.ideas.prompts import drop_duplicates, expand, filter_prompts, ingest, reason_kind, screen_freely
from pipeline.ideas.sources import PromptSettings
from pipeline.ideas.texts import clean
from pipeline.records import PROMPT_SCHEMA, prompt_id

IDEAS = ["a calm lake", "雪の中の赤い門", "قلعة على تلة عند الغروب"]


def read(source, **settings):
    return ingest(PromptSettings(source=str(source), **settings)).to_pylist()


def accepted(rows):
    return [row["text"] for row in rows if row["status"] == "ok"]


def write_all(folder):
    frame = pl.DataFrame({"id": [1, 2, 3], "caption": IDEAS})
    frame.write_csv(folder / "a.csv")
    frame.write_csv(folder / "a.tsv", separator="\t")
    frame.write_parquet(folder / "a.parquet")
    frame.write_ndjson(folder / "a.jsonl")
    (folder / "a.txt").write_bytes(("\ufeff" + "\r\n".join(IDEAS)).encode())


def test_every_kind_of_file_gives_the_same_ideas(tmp_path):
    write_all(tmp_path)
    for kind in ("txt", "csv", "tsv", "jsonl", "parquet"):
        rows = read(tmp_path / f"a.{kind}")
        assert accepted(rows) == IDEAS, kind
        assert [row["prompt_id"] for row in rows] == [prompt_id(text) for text in IDEAS]
        assert all(row["source"].startswith(f"a.{kind}") for row in rows)


def test_a_url_is_read_like_a_file(tmp_path):
    import fsspec

    write_all(tmp_path)
    for kind in ("txt", "csv", "parquet"):
        with fsspec.open(f"memory://ideas/a.{kind}", "wb") as file:
            file.write((tmp_path / f"a.{kind}").read_bytes())
        assert accepted(read(f"memory://ideas/a.{kind}")) == IDEAS


def test_everything_that_is_no_usable_text_is_dropped_with_its_reason(tmp_path):
    long = "x" * 10_000
    lines = [
        ('{"text": "a calm lake"}', "ok", ""),
        ('{"text": "  a   calm\\tlake "}', "dropped", f"duplicate of {prompt_id('a calm lake')}"),
        ("", "dropped", "empty"),
        ('{"text": "\\u0000\\u0007"}', "dropped", "empty"),
        ('{"text": null}', "dropped", "empty"),
        ('{"other": "a calm sea"}', "dropped", "empty"),
        ('{"text": 7}', "dropped", "not text: int"),
        ('{"text": "\\ud800 lake"}', "dropped", "not UTF-8"),
        ("{broken", "dropped", "not JSON"),
        ('"a lone string"', "ok", ""),
        ('{"text": "42 !!"}', "dropped", "no letters"),
        (json.dumps({"text": long}), "dropped", "too long: 10000 characters"),
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(line for line, *_ in lines))
    rows = read(tmp_path / "a.jsonl")
    assert [(row["status"], row["reason"]) for row in rows] == [
        (status, reason) for _, status, reason in lines
    ]
    assert rows[-1]["source_text"] == long and rows[8]["source_text"] == "{broken"


def test_bytes_that_are_not_utf8_are_one_dropped_row_not_a_crash(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"a calm lake\na caf\xe9 by the sea\na wide plain\n")
    rows = read(tmp_path / "a.txt")
    assert [row["reason"] for row in rows] == ["", "not UTF-8", ""]
    assert rows[1]["source"] == "a.txt:2"


def test_the_original_stays_beside_the_normalised_text(tmp_path):
    original = "a cafe\u0301\u202e by\x07  the\u00a0sea"
    (tmp_path / "a.txt").write_text(original + "\n")
    [row] = read(tmp_path / "a.txt")
    assert row["text"] == "a caf\u00e9 by the sea" and row["source_text"] == original
    assert unicodedata.is_normalized("NFC", row["text"]) and clean(row["text"]) == row["text"]


def test_joiners_that_other_scripts_need_survive():
    assert clean("می\u200cخواهم") == "می\u200cخواهم"


def test_the_limit_counts_accepted_ideas(tmp_path):
    (tmp_path / "a.txt").write_text("a calm lake\n\na calm lake\na wide plain\na tall hill\n")
    rows = read(tmp_path / "a.txt", limit=2)
    assert accepted(rows) == ["a calm lake", "a wide plain"] and len(rows) == 4


LARGE = """
import sys
from drspo.memory import peak_resident
from pipeline.ideas.prompts import ingest
from pipeline.ideas.sources import PromptSettings
def peak():
    return peak_resident() / 2**20
ingest(PromptSettings(limit=10))
before = peak()
table = ingest(PromptSettings(source=sys.argv[1], limit=1000))
print(table.num_rows, peak() - before)
table = ingest(PromptSettings(source=sys.argv[1]))
print(table.num_rows, table["status"].to_pylist().count("ok"), peak() - before)
"""


def test_a_large_file_is_read_in_a_stream_and_only_as_far_as_asked(tmp_path, repository):
    path, count = tmp_path / "a.csv", 200_000
    with path.open("w") as file:
        file.write("id,prompt\n")
        file.writelines(f'{i},"a lake in the hills, number {i % (count - 500)}"\n' for i in range(count))
    command = [sys.executable, "-c", LARGE, str(path)]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    some, every = ([float(value) for value in line.split()] for line in done.stdout.splitlines())
    assert some[0] == 1000 and some[1] < 10, "nothing is read beyond the limit"
    assert every[:2] == [count, count - 500]
    # MiB: a row of text and a key to know its twin by, and no copy of the file.
    assert every[2] < count * 1200 / 2**20


@pytest.mark.parametrize(
    ("name", "content", "settings", "message"),
    [
        ("a.csv", b"id,words\n1,a\n", {}, "which column"),
        ("a.csv", b"id,words\n1,a\n", {"column": "wrods"}, "no column 'wrods'"),
        ("a.csv", b"", {}, "no header"),
        ("a.parquet", b"PAR1 nothing", {}, "not a whole Parquet file"),
        ("a.docx", b"", {}, "is no .txt"),
    ],
)
def test_a_source_that_cannot_be_read_is_named(tmp_path, name, content, settings, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        read(tmp_path / name, **settings)


def test_a_file_that_does_not_exist_is_answered_with_its_neighbour(tmp_path):
    (tmp_path / "ideas.txt").write_text("a calm lake\n")
    with pytest.raises(UserError, match=r"ideas\.txt"):
        read(tmp_path / "idaes.txt")


def stages(table, folder, **settings):
    storage = Storage(folder)
    table = screen_freely(table, FilterSettings())
    table = expand(table, ExpandSettings(**settings), LLMSettings(), storage)
    return filter_prompts(table, FilterSettings(), LLMSettings(), storage)


def test_the_shipped_corpus_gives_outdoor_prompts_and_says_why_the_rest_left(tmp_path):
    table = stages(ingest(PromptSettings()), tmp_path)
    assert table.schema.equals(PROMPT_SCHEMA)
    rows = table.to_pylist()
    kept = [row for row in rows if row["status"] == "ok"]
    assert len(kept) > 250 and {row["expander"] for row in kept} == {"grammar"}
    assert {row["model"] for row in kept} == {"words:scroll"}
    indoor = [row for row in rows if "indoor" in row["source"]]
    assert len(indoor) == 50 and sum(row["status"] == "dropped" for row in indoor) >= 45
    assert all(bool(row["reason"]) == (row["status"] != "ok") for row in rows)
    assert sum(row["status"] == "dropped" for row in rows if "outdoor" in row["source"]) <= 3


def test_each_idea_becomes_k_children_that_name_their_parent(tmp_path):
    (tmp_path / "a.txt").write_text("a calm lake\n\na wide plain\n")
    table = stages(ingest(PromptSettings(source=str(tmp_path / "a.txt"))), tmp_path, per_idea=3)
    rows = table.to_pylist()
    assert [row["parent_id"] for row in rows if row["status"] == "ok"] == (
        [prompt_id("a calm lake")] * 3 + [prompt_id("a wide plain")] * 3
    )
    assert [row["status"] for row in rows].count("dropped") == 1
    assert len({row["prompt_id"] for row in rows}) == 7


def test_the_same_ideas_give_the_same_table(tmp_path):
    first = stages(ingest(PromptSettings(limit=40)), tmp_path / "a", per_idea=2)
    assert first.equals(stages(ingest(PromptSettings(limit=40)), tmp_path / "b", per_idea=2))


class Odd:
    """A plugin that fails on one idea and says nothing about another."""

    name = "odd"

    def __init__(self, settings, llm):
        pass

    async def expand(self, row):
        if "plain" in row["text"]:
            raise ValueError("no plains")
        return (
            Expanded(status="dropped", reason="odd: not today")
            if "hill" in row["text"]
            else Expanded(prompts=["a lake"])
        )


def test_an_exception_in_a_plugin_is_one_dead_row(tmp_path):
    (tmp_path / "a.txt").write_text("a calm lake\na wide plain\na tall hill\n")
    table = ingest(PromptSettings(source=str(tmp_path / "a.txt")))
    from pipeline.ideas.stages import ExpandStage

    consent.allow(__name__)
    stage = ExpandStage(ExpandSettings(expander=f"{__name__}:Odd"), LLMSettings(), tmp_path)
    rows = stage(table.to_pylist())
    stage.close()
    assert [(row["status"], row["reason"]) for row in rows] == [
        ("ok", ""),
        ("dead", "Odd: ValueError: no plains"),
        ("dropped", "odd: not today"),
    ]


def test_the_first_of_equal_prompts_stays(tmp_path):
    (tmp_path / "a.txt").write_text("a calm lake\na wide plain\n")
    table = ingest(PromptSettings(source=str(tmp_path / "a.txt")))
    import pyarrow as pa

    rows = drop_duplicates(pa.concat_tables([table, table])).to_pylist()
    assert [row["status"] for row in rows] == ["ok", "ok", "dropped", "dropped"]
    assert rows[2]["reason"] == f"duplicate of {rows[0]['prompt_id']}"


def test_reasons_are_counted_without_their_details():
    assert reason_kind("too long: 10000 characters") == "too long"
    assert reason_kind("near duplicate of 0123") == "near duplicate"
    assert reason_kind("llm invalid: a prompt of 3 words") == "llm invalid"


def test_blocks_in_order_give_the_table_that_all_rows_at_once_give(tmp_path):
    ideas = ingest(PromptSettings(limit=120))
    filters = FilterSettings(near_duplicates=0.4)

    def prompts(blocks, folder):
        seen, written, storage = KeptTexts(0.4), KeptTexts(0.4), Storage(folder)
        for block in blocks:
            block = screen_freely(block, filters, seen)
            block = expand(block, ExpandSettings(per_idea=3), LLMSettings(), storage)
            yield filter_prompts(block, filters, LLMSettings(), storage, kept=written)

    [whole] = prompts([ideas], tmp_path)
    parts = [ideas.slice(start, 17) for start in range(0, ideas.num_rows, 17)]
    assert pa.concat_tables(prompts(parts, tmp_path)).combine_chunks().equals(whole.combine_chunks())
    assert sum(reason.startswith("near duplicate") for reason in whole["reason"].to_pylist()) > 10

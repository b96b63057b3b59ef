"""The plan is decided once, from content, and what is left is a set difference."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataset_builder.build import suspects_last
from drspo.errors import UserError
from drspo.files.storage import Storage
from pipeline.candidates.plan import PLAN_NAME, freeze_plan, make_plan, read_plan, todo
from pipeline.records import Prompt, prompt_id, prompt_table


def table(texts: list[str], dropped: tuple[str, ...] = ()) -> pa.Table:
    return prompt_table(
        Prompt(prompt_id=prompt_id(text), text=text, status="dropped" if text in dropped else "ok")
        for text in texts
    )


@given(st.lists(st.text("abc ", min_size=1), unique_by=prompt_id, max_size=20), st.integers(1, 7))
def test_every_accepted_prompt_is_in_exactly_one_unit_in_order(texts: list[str], size: int) -> None:
    plan = make_plan(table(texts), "cfg", size)
    planned = [prompt["text"] for unit in plan["prompts"].to_pylist() for prompt in unit]
    assert planned == texts
    assert all(len(unit) == size for unit in plan["prompts"].to_pylist()[:-1])
    assert plan["position"].to_pylist() == list(range(plan.num_rows))


def test_dropped_prompts_are_not_planned() -> None:
    plan = make_plan(table(["a", "b", "c"], dropped=("b",)), "cfg")
    assert [unit[0]["text"] for unit in plan["prompts"].to_pylist()] == ["a", "c"]


def test_unit_ids_depend_on_prompts_and_configuration_only() -> None:
    first, again, other = (make_plan(table(["a", "b"]), cfg)["unit_id"] for cfg in ("x", "x", "y"))
    reordered = make_plan(table(["b", "a"]), "x")["unit_id"]
    assert first == again
    assert set(first.to_pylist()) == set(reordered.to_pylist())
    assert not set(first.to_pylist()) & set(other.to_pylist())


def test_a_long_list_is_cut_into_whole_units_at_every_batch() -> None:
    texts = [str(i) for i in range(40_000)]
    plan = make_plan(table(texts), "cfg", 6)
    sizes = [len(unit) for unit in plan["prompts"].to_pylist()]
    assert sizes == [6] * 6666 + [4]


def test_the_first_copy_of_a_job_decides_the_plan(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    first, second = make_plan(table(["a", "b"]), "cfg"), make_plan(table(["a"]), "cfg")
    freeze_plan(storage, [first])
    freeze_plan(storage, [second])
    assert pa.concat_tables(read_plan(storage)).equals(first)


def test_a_plan_without_prompts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no prompt was accepted"):
        freeze_plan(Storage(tmp_path), [make_plan(table(["a"], dropped=("a",)), "cfg")])


@pytest.mark.parametrize("data", [b"", b"PAR1 not really"])
def test_a_damaged_plan_is_refused_by_name(tmp_path: Path, data: bytes) -> None:
    storage = Storage(tmp_path)
    storage.write(PLAN_NAME, data)
    with pytest.raises(UserError, match=r"plan\.parquet is not a whole Parquet file"):
        list(read_plan(storage))


def test_what_is_left_is_the_plan_without_committed_units_suspects_last() -> None:
    plan = make_plan(table(["a", "b", "c", "d"]), "cfg")
    ids = plan["unit_id"].to_pylist()
    left = todo(plan, {ids[1]})
    assert left["unit_id"].to_pylist() == [ids[0], ids[2], ids[3]]
    pieces = suspects_last([left.slice(0, 1), left.slice(1)], {ids[0], "gone"})
    assert pa.concat_tables(pieces)["unit_id"].to_pylist() == [ids[2], ids[3], ids[0]]

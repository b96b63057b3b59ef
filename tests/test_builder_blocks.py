"""Prompts in blocks: what comes out is what one block gives, whatever happens in between."""

import shutil
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dataset_builder.build import Build
from dataset_builder.config import BuildConfig, units_hash
from dataset_builder.report import status
from dataset_builder.retry import requeue_questions
from drspo.errors import UserError
from drspo.files.storage import Storage
from drspo.llm.settings import LLMSettings
from pipeline.candidates.plan import planned_hash, read_plan
from pipeline.ideas import prompts as phases
from pipeline.ideas.blocks import Ask, Finish, Screen, Texts, TextSpec
from pipeline.ideas.expanders import ExpandSettings
from pipeline.ideas.filters import FilterSettings
from pipeline.ideas.sources import PromptSettings
from tests.building import FAKES, IDEAS, build, fake_config, final_tables, ideas_file, with_candidates

# Copies, exact and near, of ideas far before them, and one that a filter objects to.
MANY = [
    *IDEAS,
    "a lighthouse at dusk by the sea",
    "a windmill on a green hill.",
    "castle",
    "a canal between old houses",
    "a castle above a foggy valley!",
    "an island with one palm tree",
    "a canal between old houses,",
    "a glacier under a pale moon",
]
NEAR = FilterSettings(near_duplicates=0.7)


def tables(folder: Path, block: int, **changes) -> dict[str, str]:
    """The final tables of a run in blocks of that many ideas."""
    folder.mkdir()
    config = fake_config(folder, folder / "run", MANY, **{"filter": NEAR, **changes})
    build(replace(config, block=block))
    return final_tables(folder / "run")


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict[str, str]:
    return tables(tmp_path_factory.mktemp("whole") / "one", 0)


@pytest.mark.parametrize("block", [1, 3, 5, 14, 100])
def test_blocks_of_any_size_come_out_as_one(tmp_path, whole, block):
    assert tables(tmp_path / "many", block) == whole


def test_the_count_of_accepted_prompts_goes_on_over_blocks(tmp_path):
    asked = replace(NEAR, accept=5)
    one, many = tables(tmp_path / "one", 0, filter=asked), tables(tmp_path / "many", 2, filter=asked)
    for found in (one, many):  # what comes after the fifth is judged in the one block, and not in many
        del found["prompts.parquet"], found["stats.json"]
    assert one == many
    found = pq.read_table(tmp_path / "many/run/prompts.parquet")
    assert found["status"].to_pylist().count("ok") == 5


@pytest.mark.parametrize("again", [False, True])
def test_nothing_is_asked_about_blocks_after_enough_prompts_were_found(tmp_path, again):
    told = tmp_path / "made.log.texts"
    filters = replace(NEAR, accept=5, filters=(*NEAR.filters, f"{FAKES}:tells"))
    config = fake_config(tmp_path, tmp_path / "run", MANY, filter=filters, block=3)
    outcome = build(config)
    if again:  # what an earlier start has finished is counted too
        for name in ("prompts-000004", "prompts-000003", "plan-000004", "plan-000003"):
            (tmp_path / f"run/phases/{name}.parquet").unlink()
        shutil.move(tmp_path / "run/prompts.parquet", tmp_path / "before.parquet")
        told.unlink()
        build(config)
        assert not told.exists()
        assert (tmp_path / "run/prompts.parquet").read_bytes() == (tmp_path / "before.parquet").read_bytes()
        return
    assert outcome.accepted == outcome.made_now == 5
    assert set(told.read_text().splitlines()) == set(MANY[:6]), "the second block holds the fifth"
    rows = pq.read_table(tmp_path / "run/prompts.parquet").to_pylist()
    assert [row["source_text"] for row in rows] == MANY
    later = {row["reason"] for row in rows[6:]} - {f"duplicate of {row['prompt_id']}" for row in rows}
    assert later == {"surplus: 5 prompts were asked for"}


def test_units_of_several_prompts_end_with_their_block(tmp_path):
    config = fake_config(tmp_path, tmp_path / "run", MANY, filter=NEAR, block=4)
    config = replace(config, candidates=replace(config.candidates, prompts_per_unit=3))
    outcome = build(config)
    plan = pq.read_table(tmp_path / "run/plan.parquet")
    assert plan["position"].to_pylist() == list(range(plan.num_rows))
    texts = [prompt["text"] for unit in plan["prompts"].to_pylist() for prompt in unit]
    prompts = pq.read_table(tmp_path / "run/prompts.parquet").to_pylist()
    assert texts == [row["text"] for row in prompts if row["status"] == "ok"]
    assert outcome.made_now == plan.num_rows and build(config).made_now == 0


@pytest.mark.parametrize("at", ["screen", "filter", "finish"])
@pytest.mark.parametrize("nth", [1, 2, 4])
def test_a_start_that_breaks_off_in_any_phase_changes_nothing(tmp_path, whole, monkeypatch, at, nth):
    name = {"screen": "screen_asking", "filter": "object_to", "finish": "drop_near_duplicates"}[at]
    real, calls = getattr(phases, name), []

    def breaks(*given, **named):
        calls.append(name)
        if len(calls) == nth:
            raise KeyboardInterrupt
        return real(*given, **named)

    folder = tmp_path / "many"
    with monkeypatch.context() as patch:
        patch.setattr(phases, name, breaks)
        with pytest.raises(KeyboardInterrupt):
            tables(folder, 3)
    config = fake_config(folder, folder / "run", MANY, filter=NEAR, block=3)
    build(config)
    assert final_tables(folder / "run") == whole


def test_a_source_that_changed_meanwhile_is_refused(tmp_path):
    spec = spec_of(tmp_path, MANY)
    first = iter(Texts(spec))
    next(first)
    (tmp_path / "phases/blocks.json").unlink()
    ideas_file(tmp_path, ["a bridge at night", *MANY])
    with pytest.raises(UserError, match="other ideas than when this run began"):
        next(iter(Texts(spec)))


@pytest.mark.parametrize("text", ["", "{}", "[2]", '{"blocks": "2"}', '{"blocks": 0}', "{"])
def test_a_damaged_count_of_blocks_is_refused_and_made_again_once_it_is_deleted(tmp_path, text):
    config = fake_config(tmp_path, tmp_path / "run", MANY, block=3, until="prompts")
    build(config)
    (tmp_path / "run/prompts.parquet").rename(tmp_path / "before.parquet")
    (tmp_path / "run/phases/blocks.json").write_text(text)
    with pytest.raises(UserError, match=r"blocks\.json\)\s+Delete it"):
        build(config)
    (tmp_path / "run/phases/blocks.json").unlink()
    build(config)
    assert (tmp_path / "run/prompts.parquet").read_bytes() == (tmp_path / "before.parquet").read_bytes()


@pytest.mark.parametrize("block", [0, 3])
def test_a_source_that_grew_after_it_was_read_is_told_and_changes_nothing(tmp_path, block, caplog):
    config = fake_config(tmp_path, tmp_path / "run", IDEAS, block=block, until="prompts")
    build(config)
    build(config)
    assert "another than when it was read" not in caplog.text
    ideas_file(tmp_path, [*IDEAS, "a bridge at night"])
    assert build(config).accepted == len(IDEAS)
    assert "ideas.txt is another than when it was read; the ideas of this run stay" in caplog.text


def test_other_images_of_prompts_in_blocks_have_one_plan(tmp_path):
    config = fake_config(tmp_path, tmp_path / "run", IDEAS, block=2, until="prompts")
    first = Build(config, lambda works, spec: islice(iter(works), 1))
    with pytest.raises(UserError, match="not finished"):
        first()
    assert planned_hash(first.run) == first.spec.config_hash
    other = replace(config, until="shards", candidates=replace(config.candidates, seeds=1))
    assert build(other).made_now == len(IDEAS)
    plan = pa.concat_tables(read_plan(first.run))
    assert set(plan["config_hash"].to_pylist()) == {units_hash(other)} == {planned_hash(first.run)}


def test_other_images_of_finished_blocks_have_the_plan_of_a_calm_run(tmp_path):
    def asked(out: str, steps: int, **changes) -> BuildConfig:
        config = fake_config(tmp_path, tmp_path / out, MANY, block=3, **changes)
        return with_candidates(config, prompts_per_unit=2, steps=steps)

    build(asked("run", 4, until="prompts"))
    build(asked("run", 5))
    build(asked("calm", 5))
    sizes = [len(unit) for unit in pq.read_table(tmp_path / "calm/plan.parquet")["prompts"].to_pylist()]
    assert sizes[:4] == [2, 1, 2, 1]
    assert final_tables(tmp_path / "run") == final_tables(tmp_path / "calm")


def test_a_plan_made_anew_misses_no_block(tmp_path):
    config = fake_config(tmp_path, tmp_path / "run", MANY, block=3, until="prompts")
    build(config)
    (tmp_path / "run/phases/prompts-000001.parquet").unlink()
    with pytest.raises(UserError, match=r"prompts-000001\.parquet is missing"):
        build(replace(with_candidates(config, steps=5), until="shards"))


def test_the_next_block_is_asked_while_this_one_is_painted(tmp_path):
    filters = replace(NEAR, filters=(*NEAR.filters, f"{FAKES}:tells"))
    config = fake_config(tmp_path, tmp_path / "run", MANY, filter=filters, block=2)
    # The second block has the castle; no picture of the first is made before its text was filtered.
    outcome = build(with_candidates(config, f"{FAKES}:Painter.awaits=castle"))
    assert outcome.dead == 0 and outcome.made_now == 10


def test_status_counts_the_blocks_that_stand(tmp_path, monkeypatch, capsys):
    real, calls = phases.object_to, []

    def breaks(*given, **named):
        calls.append(given)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*given, **named)

    config = fake_config(tmp_path, tmp_path / "run", MANY, filter=NEAR, block=4)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(phases, "object_to", breaks)
        build(config)
    assert status.main([config.out]) == 0
    said = capsys.readouterr().out
    assert "6 accepted of 8 so far, in 2 blocks" in said and "of 6 units" in said


def test_another_size_of_blocks_is_another_run(tmp_path):
    config = fake_config(tmp_path, tmp_path / "run", MANY, block=4)
    build(config)
    with pytest.raises(UserError, match="other configuration|another configuration"):
        build(replace(config, block=5))


def test_a_screen_that_lost_its_memory_screens_alike(tmp_path):
    spec = spec_of(tmp_path, MANY)
    list(Texts(spec))
    numbers = range(5)
    orderly = Screen(spec)
    expected = [orderly(number) for number in numbers]
    assert all(Screen(spec)(number).equals(expected[number]) for number in numbers)
    muddled = Screen(spec)
    assert all(muddled(number).equals(expected[number]) for number in (3, 1, 4, 0, 2))


def test_a_block_that_comes_early_is_not_finished(tmp_path):
    spec = spec_of(tmp_path, MANY)
    screen, ask, finish = Screen(spec), Ask(spec), Finish(spec)
    list(zip(range(1), Texts(spec), strict=False))  # the first one, and that all ideas are stored
    assert finish(2, ask(2, screen(2))) is None
    assert finish(1, ask(1, screen(1))) is not None and finish(2, ask(2, screen(2))) is not None


def test_a_block_about_which_nothing_was_asked_is_finished_only_once_there_are_enough(tmp_path):
    (tmp_path / "few").mkdir()
    few = spec_of(tmp_path / "few", MANY)
    list(zip(range(1), Texts(few), strict=False))
    assert Finish(few)(1, None) is None and not few.storage().exists(few.name("prompts", 1))
    enough = replace(few, url=str(tmp_path), filter=replace(NEAR, accept=1))
    list(zip(range(1), Texts(enough), strict=False))
    assert Finish(enough)(1, None) is not None and enough.storage().exists(enough.name("prompts", 1))


def spec_of(folder: Path, ideas: list[str]) -> TextSpec:
    return TextSpec(
        url=str(folder),
        prompts=PromptSettings(source=str(ideas_file(folder, ideas))),
        expand=ExpandSettings(expander="none"),
        filter=NEAR,
        llm=LLMSettings(),
        config_hash="c",
        block=3,
    )


@pytest.mark.parametrize("last", ["phases/plan-000001.parquet", "phases/prompts-000000.parquet"])
def test_a_kill_while_dead_prompts_are_put_back_loses_none(tmp_path, monkeypatch, last):
    class Killed(BaseException):
        pass

    def delete(storage, name):
        if name == last:
            raise Killed
        real(storage, name)

    filters = FilterSettings(filters=(f"{FAKES}:fails_at_castles",), near_duplicates=0.0)
    config = fake_config(tmp_path, tmp_path / "run", filter=filters, block=2)
    monkeypatch.setenv("FAKE_FAILS", "1")
    assert build(config).dead == 1
    monkeypatch.delenv("FAKE_FAILS")
    real = Storage.delete
    monkeypatch.setattr(Storage, "delete", delete)
    with pytest.raises(Killed):
        requeue_questions(config.out)
    monkeypatch.setattr(Storage, "delete", real)
    build(config)
    requeue_questions(config.out)
    outcome = build(config)
    assert (outcome.accepted, sum(outcome.pairs.values())) == (6, 6)

"""The plan: counted where it can be, honest where it cannot."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dataset_builder.command import main
from dataset_builder.config import BuildConfig, run_hash, uses_llm
from dataset_builder.estimate import estimate
from dataset_builder.folder import begin
from dataset_builder.ideas import PROMPTS_NAME, texts
from dataset_builder.planned import describe, size
from dataset_builder.rates import Rates
from drspo import cli
from drspo.config import load
from drspo.errors import UserError
from drspo.files.run import RunDir
from drspo.llm.settings import LLMSettings
from pipeline.ideas.blocks import read_blocks
from pipeline.ideas.expanders import ExpandSettings
from pipeline.ideas.filters import FilterSettings
from pipeline.ideas.sources import PromptSettings
from pipeline.records import PROMPT_SCHEMA
from pipeline.settings import PairSettings
from pipeline.tables import read_table
from tests.building import IDEAS, build, fake_config


@pytest.mark.parametrize("block", [0, 2])
def test_the_plan_counts_what_the_run_then_makes(tmp_path, block):
    ideas = [*IDEAS, "", IDEAS[0], "a cosy kitchen"]
    config = fake_config(tmp_path, tmp_path / "out", ideas, block=block)
    before = estimate(config)
    assert not (tmp_path / "out").exists(), "a plan writes nothing"
    outcome = build(config)
    after = estimate(config)
    assert (before.ideas, before.accepted) == (outcome.prompts, outcome.accepted) == (9, 6)
    assert before.losses == {"duplicate": 1, "empty": 1, "rules not outdoor": 1} == after.losses
    assert before.images == after.images == after.images_done == 24 and before.images_done == 0
    assert before.pairs == sum(outcome.pairs.values())


@pytest.mark.parametrize("block", [0, 2])
def test_the_plan_knows_what_leaves_when_enough_are_accepted(tmp_path, block):
    enough = FilterSettings(near_duplicates=0.0, accept=3)
    config = fake_config(tmp_path, tmp_path / "out", [IDEAS[0], "", *IDEAS[1:]], filter=enough, block=block)
    before, outcome, after = estimate(config), build(config), estimate(config)
    assert (before.ideas, before.accepted, outcome.accepted) == (7, 3, 3) and before.losses == after.losses


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--candidates.generators", "multidifusion"], "multidiffusion"),
        (["--candidates.generators", "sdxl", "sdxl"], "--candidates.seeds"),
        (["--scoring.scorers", "aesthetics"], "Did you mean 'aesthetic'"),
        (["--pairs.weights", "beauty=1"], "does not score"),
        (["--candidates.width", "16384"], "webp-lossless ends at 16383"),
        (["--candidates.height", "8", "--candidates.width", "8"], "canvas"),
    ],
)
def test_a_plan_refuses_what_the_run_refuses_and_names_it(flags, said, tmp_path, capsys):
    for more in (["--plan"], ["--out", str(tmp_path / "run")]):
        assert cli.execute(main, ["--config", "miniature", *flags, *more]) == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("block", [0, 2])
def test_a_plan_goes_by_what_the_run_has_read_when_its_source_is_gone(tmp_path, block):
    (tmp_path / "source").mkdir()
    build(fake_config(tmp_path, tmp_path / "source/run", until="prompts"))
    prompts = PromptSettings(source=str(tmp_path / "source/run"))
    config = replace(fake_config(tmp_path, tmp_path / "out", block=block), prompts=prompts)
    begin(RunDir(config.out), config)
    read_blocks(texts(config, config.out, alone=True).spec)
    (tmp_path / "source").rename(tmp_path / "gone")
    assert (estimate(config).accepted, build(config).accepted) == (len(IDEAS), len(IDEAS))


def test_a_plan_of_nothing_says_so_and_one_without_time_knows_no_price(tmp_path):
    config = fake_config(tmp_path, tmp_path / "out", ["a cosy kitchen"], rates=Rates(gpu_hour=2.5))
    text = describe(estimate(config), config)
    assert "0 accepted: nothing would be made" in text and "price      not known" in text


def test_without_a_measurement_no_time_is_claimed_and_with_a_run_its_own_is_used(tmp_path):
    config = fake_config(tmp_path, tmp_path / "out", IDEAS[:2])
    found = estimate(config)
    assert found.seconds_per_image is None and "not known" in describe(found, config)
    build(config)
    found = estimate(config)
    assert found.seconds_per_image is not None and "8 images of this run" in found.basis
    assert "0.00 device hours" in describe(found, config), "all is made"


def test_calibration_times_the_real_stages_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_SECONDS", "0.05")
    config = fake_config(tmp_path, tmp_path / "out", rates=Rates(calibrate=True, gpus=4, gpu_hour=3600.0))
    found = estimate(config)
    assert found.seconds_per_image >= 0.05 and found.bytes_per_image > 50
    assert not (tmp_path / "out").exists()
    text = describe(found, config)
    assert "two samples made here" in text and "price" in text and "hours on 4" in text


def test_a_failing_sample_stops_the_plan_with_its_error(tmp_path):
    names = [f"tests.plugin_fakes:{name}" for name in ("Painter", "Sketcher")]
    config = fake_config(tmp_path, tmp_path / "out", rates=Rates(calibrate=True))
    poisoned = replace(config.candidates, options=tuple(f"{name}.poison=a" for name in names))
    with pytest.raises(UserError, match="a sample failed"):
        estimate(replace(config, candidates=poisoned))


def test_a_language_model_is_estimated_in_tokens_and_never_asked(tmp_path):
    config = replace(
        fake_config(tmp_path, tmp_path / "out"),
        expand=ExpandSettings(expander="llm", per_idea=4),
        filter=FilterSettings(filters=("llm",)),
        llm=LLMSettings(model="m", base_url="http://127.0.0.1:9/v1", price_input=1.0, price_output=4.0),
    )
    found = estimate(config)
    assert not found.counted and found.accepted == 24 and found.questions == 6 + 6 + 24
    assert 6 * 200 < found.tokens_in < 30 * 1000 and found.tokens_out == 24 * 60 + (6 + 24) * 20
    text = describe(found, config)
    assert "at most 24 accepted" in text and "price" in text


@pytest.mark.parametrize(
    ("method", "pairs"), [("best_worst", 1), ("adjacent", 3), ("all", 6), ("top_k_bottom_k", 4)]
)
def test_the_most_pairs_of_a_group(tmp_path, method, pairs):
    config = fake_config(tmp_path, tmp_path / "out", pairs=PairSettings(method=method, k=2))
    assert estimate(config).pairs == pairs * len(IDEAS)


def test_assumptions_do_not_make_another_run():
    assert run_hash(BuildConfig()) == run_hash(BuildConfig(rates=Rates(gpu_hour=2.0, calibrate=True)))


def test_the_program_prints_the_plan_and_ends(tmp_path, capsys):
    (tmp_path / "ideas.txt").write_text("\n".join(IDEAS))
    argv = ["--config", "miniature", "--plan", "--prompts.source", str(tmp_path / "ideas.txt")]
    assert main([*argv, "--rates.seconds-per-image", "36", "--prompts.limit", "0"]) == 0
    out = capsys.readouterr().out
    assert "prompts    6 accepted" in out and "images     36 (3 generators x 2 seeds, 128 x 512)" in out
    assert "0.36 device hours" in out


def test_sizes_are_short():
    assert [size(n) for n in (0, 999, 1500, 2.5e9, 3e15)] == [
        "0 B",
        "999 B",
        "1.5 kB",
        "2.5 GB",
        "3,000.0 TB",
    ]


def test_the_papers_preset_plans_its_numbers_and_says_where_its_hours_come_from(capsys):
    assert main(["--config", "paper", "--plan"]) == 0
    said = capsys.readouterr().out
    assert "at most 4,936 accepted" in said and "at most 29,616 (3 generators x 2 seeds, 1024 x 4096)" in said
    assert "at most 4,936 (best_worst)" in said and "188 GB of candidates" in said
    assert "148.08 device hours" in said and "counted for this preset's three generators" in said


def test_the_papers_preset_is_its_section(capsys):
    config = load(BuildConfig, ["--config", "paper"], package="dataset_builder", prog="p")
    candidates, pairs = config.candidates, config.pairs
    assert candidates.generators == ("multidiffusion", "sdxl", "mad") and candidates.seeds == 2
    assert (candidates.height, candidates.width, config.filter.accept) == (1024, 4096, 4936)
    assert config.scoring.scorers == ("aesthetic",) and config.scoring.options == ("aesthetic.view=official",)
    assert pairs.method == "best_worst" and not pairs.weights and pairs.validation_prompts == 200
    assert uses_llm(config)


def test_so_many_prompts_are_accepted_and_the_rest_leave_with_the_reason(tmp_path):
    config = fake_config(tmp_path, tmp_path / "out")
    config = replace(config, filter=replace(config.filter, accept=4))
    assert estimate(config).accepted == 4
    outcome = build(config)
    assert (outcome.prompts, outcome.accepted) == (6, 4)
    rows = read_table(RunDir(tmp_path / "out"), PROMPTS_NAME, PROMPT_SCHEMA).to_pylist()
    assert [row["status"] for row in rows] == ["ok"] * 4 + ["dropped"] * 2
    assert {row["reason"] for row in rows[4:]} == {"surplus: 4 prompts were asked for"}
    assert estimate(config).losses == {"surplus": 2}


def test_whole_groups_and_fewer_pairs_are_counted_too(tmp_path):
    config = fake_config(tmp_path, tmp_path / "out", pairs=PairSettings(method="pareto", most_per_prompt=2))
    assert estimate(config).pairs == len(IDEAS) * 2
    plain, ranked = (
        describe(estimate(one), one)
        for one in (config, replace(config, export=replace(config.export, ranking=True)))
    )
    assert plain != ranked

"""`drspo study`: claims judged by intervals, and parts that are done once."""

import json
from dataclasses import asdict

import numpy as np
import pytest

from drspo.config import find_config
from drspo.errors import UserError
from drspo.files.run import RunDir, revision
from drspo.study import command
from drspo.study.command import FORMATS, StudyConfig, plan
from eval.benchmark.records import RECORDS, Record
from eval.command import main as evaluate
from eval.config import EvalConfig
from eval.report.comparison import Comparison
from eval.study.paper import (
    BASELINES,
    BESIDE,
    CLAIMS,
    RANK_CLAIMS,
    TABLE1,
    TABLE2,
    Claim,
    RankClaim,
    judge,
    judge_rank,
)


def records(means, scorer="hps_v2", prompts=12, noise=0.1, higher=True):
    """Numbers of methods around their means, the same prompts for all."""
    rng = np.random.default_rng(0)
    base = rng.normal(size=prompts)
    return [
        Record(
            method=method, prompt=f"p{prompt}", seed=0, scorer=scorer, unit="u", view="v",
            checkpoint="c", checkpoint_hash="h", higher_is_better=higher,
            value=float(base[prompt] + mean + noise * rng.normal()),
        )
        for method, mean in means.items()
        for prompt in range(prompts)
    ]  # fmt: skip


def judged(means, claim, **more):
    return judge(claim, Comparison(records(means, claim.scorer, **more), "drspo"))[0]


@pytest.mark.parametrize(
    ("means", "verdict"),
    [
        ({"drspo": 1.0, "mad": 0.0, "sdxl": 0.2}, "seen"),
        ({"drspo": 1.0, "mad": 0.0, "sdxl": 0.95}, "not seen"),
        ({"drspo": 1.0, "mad": 0.0, "sdxl": 2.0}, "reversed"),
    ],
)
def test_a_claim_is_seen_when_every_difference_is_clear_and_reversed_when_one_is_against_it(means, verdict):
    assert judged(means, Claim("best", "hps_v2", ("mad", "sdxl"))) == verdict


RANK = RankClaim("best rank", ("hps_v2", "clip"), ("drspo", "mad", "sdxl"))


def ranked(means, **more):
    found = [record for scorer in RANK.scorers for record in records(means, scorer, **more)]
    return judge_rank(RANK, Comparison(found, "drspo"))


@pytest.mark.parametrize(
    ("means", "verdict"),
    [
        ({"drspo": 1.0, "mad": 0.0, "sdxl": 0.2}, "seen"),
        ({"drspo": 0.15, "mad": 0.0, "sdxl": 0.01}, "not seen"),
        ({"drspo": 0.5, "mad": 0.0, "sdxl": 1.0}, "reversed"),
    ],
)
def test_a_best_rank_is_seen_when_it_stands_in_nearly_every_draw_and_reversed_when_another_does(
    means, verdict
):
    assert ranked(means, noise=0.2)[0] == verdict


def test_a_rank_is_told_with_interval_and_chance_and_untested_without_rows_scorers_or_prompts():
    _, lines = ranked({"drspo": 1.0, "mad": 0.0})
    assert lines == [
        "drspo 1.00 [1.00, 1.00], best of 2 in 100 % of draws", "mad +1.00 [1.00, 1.00]", "sdxl not painted",
    ]  # fmt: skip
    assert ranked({"drspo": 1.0})[0] == "not tested"
    assert ranked({"drspo": 1.0, "mad": 0.0}, prompts=4)[0] == "not tested"
    assert judge_rank(RANK, Comparison(records({"drspo": 1.0, "mad": 0.0}), "drspo"))[0] == "not tested"


def test_a_claim_of_being_worse_and_a_scorer_where_less_is_better_turn_the_sign():
    worse = Claim("MAD leads", "aesthetic", ("mad",), better=False)
    assert judged({"drspo": 0.0, "mad": 1.0}, worse) == "seen"
    assert judged({"drspo": 1.0, "mad": 0.0}, worse) == "reversed"
    fewer = Claim("fewer copies", "surplus", ("mad",))
    assert judged({"drspo": 0.0, "mad": 1.0}, fewer, higher=False) == "seen"


def test_a_claim_about_rows_that_were_not_painted_is_not_tested():
    assert judged({"drspo": 0.0, "mad": 1.0}, Claim("x", "hps_v2", ("drspo-without-dpo",))) == "not tested"


def test_too_few_prompts_for_an_interval_decide_nothing_and_absent_rows_are_named():
    claim = Claim("best", "hps_v2", ("mad", "sd3"))
    found = Comparison(records({"drspo": 1.0, "mad": 0.0}, prompts=4), "drspo")
    assert judge(claim, found)[0] == "not tested"
    verdict, lines = judge(claim, Comparison(records({"drspo": 1.0, "mad": 0.0}), "drspo"))
    assert verdict == "seen" and lines[-1] == "sd3 not painted"


def test_every_claim_and_table_speaks_of_rows_and_scorers_that_the_study_paints():
    from drspo.config import load

    config = load(EvalConfig, ["--config", "miniature-study"], package="eval", prog="eval")
    painted = {entry.partition("=")[0] for entry in config.methods}
    assert set(TABLE1) | set(TABLE2) | set(BASELINES) | set(BESIDE) == painted
    assert set(command.LONG_ROWS) <= painted
    for claim in CLAIMS:
        assert set(claim.others) <= painted and claim.scorer in config.judges.scorers
    for ranks in RANK_CLAIMS:
        assert set(ranks.rows) <= painted and set(ranks.scorers) <= set(config.judges.scorers)


def test_the_page_has_every_claim_with_its_verdict_and_both_tables(tmp_path, capsys):
    means = dict.fromkeys((*TABLE1, *TABLE2), 0.0) | {"drspo": 1.0}
    found = [record for scorer in ("hps_v2", "clip") for record in records(means, scorer)]
    run = RunDir(str(tmp_path / "run"))
    run.start("eval", StudyConfig(), "x")
    run.write(RECORDS, "".join(json.dumps(asdict(record)) + "\n" for record in found).encode())
    page = tmp_path / "page.md"
    assert evaluate(["study", f"1:4={tmp_path / 'run'}", "--out", str(page), "--fact", "steps=3"]) == 0
    text = page.read_text()
    assert "| DRSPO has the highest HPS v2 (5.2) | **seen** |" in text
    assert "| DRSPO has the highest ImageReward (5.2) | **not tested** |" in text
    assert "| DRSPO has the best average rank by the paper's scorers (Table 1) | **not tested** |" in text
    told = next(line for line in text.splitlines() if line.startswith("- scrolls of 1:4: "))
    assert "12 prompts, 1 seed, 13 rows" in told and f"at revision {revision()[:7]}" in told
    assert told.endswith("not painted: spotdiffusion, twindiffusion, gvcf"), "rows that exist are named"
    assert "Table 1, 1:4" in text and "Table 2, 1:4" in text and "steps: 3" in text


def test_parts_run_in_order_once_and_a_broken_one_is_begun_again(tmp_path, monkeypatch):
    ran = []

    def run_program(program, listener):
        ran.append(program.argv)
        if "lora-highres" in " ".join(program.argv) and len(ran) == 3:
            raise UserError("cut")

    monkeypatch.setattr(command, "run_program", run_program)
    argv = ["--out", str(tmp_path / "study"), "--page", str(tmp_path / "page.md")]
    with pytest.raises(UserError, match="cut"):
        command.main(argv)
    assert command.main(argv) == 0
    assert len(ran) == 3 + 1 + len(FORMATS) + 1
    assert command.main(argv) == 0, "only the page is written again"
    assert len(ran) == 3 + 1 + len(FORMATS) + 2


@pytest.fixture
def finished(tmp_path, monkeypatch):
    """(arguments, the commands that ran since) of a study whose every part is done."""
    ran = []
    monkeypatch.setattr(command, "run_program", lambda program, listener: ran.append(" ".join(program.argv)))
    argv = ["--out", str(tmp_path / "study"), "--page", str(tmp_path / "page.md"), "--prompts", "8"]
    assert command.main(argv) == 0
    (tmp_path / "study" / "pairs").mkdir()
    (tmp_path / "study" / "pairs" / "run.json").write_text("{}")
    ran.clear()
    return argv, ran


def test_rows_that_a_later_version_brings_are_painted_in_a_finished_study(tmp_path, finished, monkeypatch):
    argv, ran = finished
    longer = tmp_path / "longer.yaml"
    longer.write_text(find_config("miniature-study", "eval").read_text() + "# one more row\n")
    real = command.find_config
    known = {"miniature-study": longer}
    monkeypatch.setattr(command, "find_config", lambda name, package: known.get(name) or real(name, package))
    assert command.main(argv) == 0
    assert len(ran) == len(FORMATS) + 1 and all("--config miniature-study" in one for one in ran[:-1])
    ran.clear()
    assert command.main(argv) == 0
    assert len(ran) == 1, "only the page"


def test_a_finished_study_takes_more_prompts_and_no_fewer(finished):
    argv, ran = finished
    assert command.main([*argv, "--prompts", "0", "--seeds", "3"]) == 0
    assert len(ran) == 2 and "--pictures.seeds 3" in ran[0]
    for less in (("--prompts", "8"), ("--prompts", "0", "--seeds", "3", "--train-steps", "7")):
        with pytest.raises(UserError, match="another configuration"):
            command.main([*argv, *less])


def test_the_page_is_told_the_command_and_the_hours(tmp_path):
    config = StudyConfig(out=str(tmp_path / "s"), page="p.md", prompts=40, denoising_steps=20, workers=3)
    run = RunDir(config.out)
    run.start("study", config, "x")
    run.phase_done("pairs", seconds=5400)
    told = plan(config)["page"].argv
    assert "command=drspo study --prompts 40 --denoising-steps 20" in told
    assert "took=1 h 30 min, 3 processes painting" in told


def test_each_part_is_a_command_that_its_program_accepts(tmp_path):
    """Flags are parsed by the programs themselves: a name that changes there fails here."""
    from dataset_builder.config import BuildConfig
    from drspo.config import load
    from train.config import TrainConfig

    for name, program in plan(StudyConfig(out=str(tmp_path / "s"), prompts=2)).items():
        package = program.target.partition(".")[0]
        cls = {"dataset_builder": BuildConfig, "train": TrainConfig, "eval": EvalConfig}[package]
        if name != "page":
            assert load(cls, list(program.argv), package=package, prog=package)


def test_what_is_left_is_added_up_and_grows_with_the_work():
    few, many = StudyConfig(prompts=2, seeds=1), StudyConfig()
    assert command.about(few, "page") == "less than a minute"
    assert command.about(few, "scrolls 1:4").endswith("minutes")
    assert command.about(many, *plan(many)).endswith("hours")

"""`drspo study`: claims judged by intervals, and parts that are done once."""

import json
from dataclasses import asdict

import numpy as np
import pytest

from drspo.errors import UserError
from drspo.files.run import RunDir
from drspo.study import command
from drspo.study.command import FORMATS, StudyConfig, plan
from eval.benchmark.records import RECORDS, Record
from eval.command import main as evaluate
from eval.config import EvalConfig
from eval.report.comparison import Comparison
from eval.study.page import BASELINES, BESIDE, CLAIMS, TABLE1, TABLE2, Claim, judge


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

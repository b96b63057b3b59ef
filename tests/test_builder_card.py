"""The data set's card: what it must say, and that it says the truth."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
import yaml
from PIL import Image

from dataset_builder.report.card import card_files
from dataset_builder.report.charts import distributions, short, win_matrix
from dataset_builder.report.gallery import read_gallery
from dataset_builder.votes.contest import ballots, open_contest
from dataset_builder.votes.ledger import Ledger
from drspo.config import load, to_dict
from drspo.errors import UserError
from drspo.files.run import RunDir
from drspo.licences import KNOWN, check_licence
from pipeline.candidates.provenance import record_model
from pipeline.pairs.votes import Vote
from pipeline.records import pair_schema
from pipeline.settings import PairSettings, ScoringSettings
from pipeline.shards import read_pairs
from tests.building import FAKES, IDEAS, build, fake_config


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("card")
    build(fake_config(folder, folder / "out", IDEAS[:4], pairs=PairSettings(method="all")))
    run = RunDir(folder / "out")
    record_model(run, SimpleNamespace(model_id="me/base-model", commit="", fingerprint="0123456789ab"))
    return run


@pytest.fixture(scope="module")
def files(run):
    return card_files(run, "me/tiny-scrolls", "cc-by-4.0")


def head(files):
    return yaml.safe_load(files["README.md"].decode().split("---\n")[1])


def test_the_head_names_licence_configs_splits_and_the_true_row_counts(run, files):
    found = head(files)
    assert found["license"] == "cc-by-4.0" and found["task_categories"] == ["text-to-image"]
    assert [config["config_name"] for config in found["configs"]] == ["default", "pickapic"]
    assert found["configs"][0]["default"] is True
    for info in found["dataset_info"]:
        rows = {split["name"]: split["num_examples"] for split in info["splits"]}
        assert rows == {split: len(list(read_pairs(run.base, split))) for split in rows}
    kinds = {f["name"]: f.get("dtype") for f in found["dataset_info"][0]["features"]}
    assert kinds["chosen"] == "image" and kinds["margin"] == "float64"


def test_everything_the_card_shows_is_published_with_it(files):

    card = files["README.md"].decode()
    shown = re.findall(r"\]\((assets/[^)]+)\)", card)
    assert len(shown) >= 6 and set(shown) <= set(files)
    for name in ("pair-1", "pair-2", "pair-3"):
        image = Image.open(io.BytesIO(files[f"assets/{name}.webp"]))
        assert image.size == (64, 2 * 32 + 8)


def test_the_card_states_how_it_was_made_and_what_is_wrong_with_it(run, files):
    card = files["README.md"].decode()
    stats = json.loads(run.read("stats.json"))
    for word in (
        "Known biases",
        "Licence",
        "bibtex",
        "load_dataset(",
        "pl.scan_parquet",
        "--config config.yaml",
    ):
        assert word in card
    assert f"{stats['counts']['pairs']} preference pairs" in card
    assert "`none@0 view=whole`" in card, "the scorers' versions"
    assert "`me/base-model`, weights `0123456789ab`" in card, "what painted the images"
    for column in pair_schema(()).names:
        assert f"`{column}`" in card, "the schema"
    rate = stats["win_rates"]
    first, second = sorted(rate)
    assert f"{100 * rate[first][second]:.0f} %" in card


def test_the_same_run_gives_the_same_bytes(run, files):
    assert card_files(run, "me/tiny-scrolls", "cc-by-4.0") == files


def test_the_published_configuration_is_one_the_program_reads(files, tmp_path):
    from dataset_builder.config import BuildConfig

    (tmp_path / "config.yaml").write_bytes(files["config.yaml"])
    argv = ["--config", str(tmp_path / "config.yaml"), "--out", "x"]
    config = load(BuildConfig, argv, package="dataset_builder", prog="p")
    assert config.candidates.height == 32 and config.pairs.method == "all"
    assert config.prompts.source == "ideas.txt", "no path of the machine that made it"


def test_the_published_configuration_is_the_same_whatever_the_account_is_called(tmp_path, monkeypatch):
    from tests.building import with_candidates

    config = fake_config(tmp_path, tmp_path / "out", IDEAS[:3])
    config = with_candidates(config, f"{FAKES}:Painter.poison=none")
    config = replace(config, candidates=replace(config.candidates, negative_prompt="blurry/ugly/text"))
    build(config)
    for variable, name in (("USER", "painter"), ("LOGNAME", "brightness"), ("USERNAME", "lossless")):
        monkeypatch.setenv(variable, name)
    files = card_files(RunDir(config.out), "me/x", "mit")
    found = yaml.safe_load(files["config.yaml"])
    for part in ("candidates", "scoring"):
        assert found[part] == json.loads(json.dumps(to_dict(getattr(config, part))))
    assert "unnamed" not in files["README.md"].decode()


def test_a_prompt_cannot_break_out_of_the_card(tmp_path):
    evil = "a lake | <script>alert(1)</script> ![x](y) `z`\u2028# hills and mountains"
    build(fake_config(tmp_path, tmp_path / "out", [evil]))
    card = card_files(RunDir(tmp_path / "out"), "me/x", "mit")["README.md"].decode()
    assert "<script>" not in card and "![x](y)" not in card and "\\<script\\>" in card


def test_language_model_instructions_are_printed_in_full(run):
    from dataset_builder.report.card import _render, read_sources
    from pipeline.ideas.questions import load_template

    sources = read_sources(run)
    sources.manifest["config"]["expand"] |= {"expander": "llm"}
    text = _render(sources, "me/x", "mit", [], {"judges": [], "disputed": {}})
    template = load_template("expand")
    assert template.system in text and template.hash[:12] in text


def test_licences_are_required_and_known():
    assert check_licence("openrail++") == "openrail++" and len(KNOWN) > 20
    for bad in ("", "CC-BY", "free"):
        with pytest.raises(UserError, match="licence"):
            check_licence(bad)


def test_charts_are_svg_also_without_values():
    histogram = {"edges": [0.0, 1.0, 2.0], "counts": [3, 1]}
    chart = distributions("<score>", {"a": histogram, "m:B": histogram})
    assert chart.startswith("<svg") and "&lt;score&gt;" in chart and " B</text>" in chart
    assert "no values" in distributions("empty", {"a": {}})
    matrix = win_matrix({"a": {"b": 0.75}, "b": {"a": 0.25}})
    assert "75%" in matrix and "25%" in matrix
    assert short("tests.fakes:Painter") == "Painter"


def test_card_and_gallery_speak_of_the_pairs_that_are_there_after_a_run_was_paired_anew(tmp_path):
    config = fake_config(tmp_path, tmp_path / "out", IDEAS[:3])
    scorers = (f"{FAKES}:Brightness", f"blue={FAKES}:Brightness")
    config = replace(config, scoring=ScoringSettings(scorers=scorers, options=("blue.channel=2",)))
    build(config)
    assert list(read_gallery(config.out, 0, 32, lambda name, data: None).groups[0].strips[0].scores) == [
        "Brightness",
        "blue",
    ]
    build(replace(config, pairs=PairSettings(method="all", weights=("blue=1",))))
    files = card_files(RunDir(config.out), "me/tiny-scrolls", "cc-by-4.0")
    card = files["README.md"].decode()
    assert "- pairs: all, least margin 0.0, weights blue=1" in card
    assert "scored\nby Brightness, blue, ranked" in card and "assets/blue.svg" in files
    assert yaml.safe_load(files["config.yaml"])["pairs"]["weights"] == ["blue=1"]
    widest: dict[str, float] = {}
    for pair in read_pairs(config.out, "train"):
        widest[pair["prompt"]] = max(pair["margin"], widest.get(pair["prompt"], 0.0))
    shown = read_gallery(config.out, 0, 32, lambda name, data: None).groups
    assert {group.prompt: group.margin for group in shown} == widest and len(widest) == 3


def test_every_score_has_a_chart_of_its_own_under_its_name(tmp_path):
    names = ("Near", "near", "near_2", "X\u00e4", "X\u8272", "margins", "Contrast")
    scorers = tuple(f"{name}={FAKES}:Brightness" for name in names)
    config = fake_config(tmp_path, tmp_path / "out", IDEAS[:3])
    build(replace(config, scoring=ScoringSettings(scorers=scorers)))
    files = card_files(RunDir(config.out), "me/x", "mit")
    shown = re.findall(r"!\[([^]]+)\]\(assets/([^)]+)\.svg\)", files["README.md"].decode())
    assert sorted(name for name, _ in shown[1:]) == sorted(names)
    for name, chart in [("margin", "margins"), *shown[1:]]:
        assert f"Distribution of {name};" in files[f"assets/{chart}.svg"].decode()
    found = dict(shown[1:])
    assert found["Near"] == "near" and found["near_2"] == "near-2" and found["near"] == "near-3"
    assert found["Contrast"] == "contrast" and found["margins"] == "margins-2"


def test_where_people_judged_the_card_says_so_and_no_score_takes_the_credit(tmp_path):
    config = fake_config(tmp_path, tmp_path / "out", IDEAS[:4], pairs=PairSettings(weights=("Contrast=-1",)))
    build(config)
    run, ledger = RunDir(config.out), Ledger(tmp_path / "out" / "votes.jsonl")
    for ballot in ballots(open_contest(config.out), per_prompt=1):
        for judge in ("Ann Other", "Bob"):
            sides = {"first": ballot.first.name, "second": ballot.second.name}
            ledger.add(Vote(judge=judge, ballot=ballot.name, verdict="first", **sides), upper="", seconds=1)
    build(replace(config, pairs=replace(config.pairs, source="votes")))
    files = card_files(run, "me/tiny-scrolls", "cc-by-4.0")
    card = files["README.md"].decode()
    assert "4 preference pairs" in card and "(8 votes of 2 judges)" in card
    assert "pairs: votes of people, least margin" in card and "share of the votes" in card
    assert "best against worst" not in card and "weights Contrast" not in card
    assert re.search(r"\| Contrast \| looked on \|", card)
    assert not any(b"Ann Other" in data for data in files.values()), "judges stay unnamed"

"""The benchmark from prompts to tables, with a generator and a scorer that cost nothing."""

import json
import shutil
from dataclasses import replace

import pytest
from PIL import Image

from drspo.config import load, presets
from drspo.errors import UserError
from eval.benchmark import suite
from eval.benchmark.methods import ABLATIONS, rows
from eval.benchmark.prompt_lists import read_prompts
from eval.benchmark.suite import cells
from eval.command import main
from eval.config import EvalConfig, Judges, Pictures
from eval.judges import build_judges
from eval.program import check

MADE: list[tuple[str, int]] = []


class Brightness:
    """A scorer whose answer can be computed in the head."""

    name, unit, higher_is_better, view = "brightness", "grey", True, "whole"
    checkpoint, checkpoint_hash = "none", "1"

    def score(self, images, prompts):
        return [float(image.convert("L").resize((1, 1)).getpixel((0, 0))) for image in images]


class Painter:
    """A generator that paints one grey, told by its settings."""

    def __init__(self, grey):
        self.grey, self.family = grey, Family()

    def generate(self, requests):
        MADE.extend((request.prompt, request.seed) for request in requests)
        greys = [self.grey + request.seed for request in requests]
        plans = {"blueprint": Image.new("RGB", (32, 8), (self.grey,) * 3)} if self.grey == 110 else {}
        return [
            type("Made", (), {"image": Image.new("RGB", (64, 16), (g, g, g)), "extras": plans}) for g in greys
        ]


class Spec:
    scroll, steps, guidance_scale = (16, 64), 2, 1.0


class Family:
    spec = Spec()


@pytest.fixture
def painters(monkeypatch):
    MADE.clear()
    greys = {"multidiffusion": 100, "sdxl": 110, "mad": 120}
    monkeypatch.setattr(suite, "open_generator", lambda setup: Painter(greys[setup.method]))
    monkeypatch.setattr(suite, "locate", lambda source, known: None)


def data_of(run):
    """What the page's script is given."""
    text = (run / "data.js").read_text()
    return json.loads(text.removeprefix("window.BENCHMARK = ").rstrip().rstrip(";"))


def arguments(out, *more):
    return [
        "--methods", "multidiffusion", "sdxl", "--judges.scorers", f"{__name__}:Brightness",
        "--pictures.limit", "3",
        "--out", str(out), *more,
    ]  # fmt: skip


def test_what_is_left_of_a_blueprint_is_measured_where_there_was_one(tmp_path, painters):
    more = ("--judges.scorers", f"{__name__}:Brightness", "blueprint_fidelity")
    assert main(arguments(tmp_path / "run", *more, "--judges.aside", "blueprint_fidelity")) == 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "records.jsonl").read_text().splitlines()]
    found = {(one["method"], one["seed"]): one for one in lines if one["scorer"] == "blueprint_fidelity"}
    assert found["sdxl", 0]["value"] == pytest.approx(1.0, abs=1e-3)
    assert found["multidiffusion", 0]["error"] == "no blueprint was kept with this picture"
    assert len(list((tmp_path / "run" / "blueprints").rglob("*.png"))) == 6


def test_a_benchmark_ends_in_tables_and_a_page_and_makes_nothing_twice(
    tmp_path, painters, monkeypatch, capsys
):
    assert main(arguments(tmp_path / "run")) == 0
    assert len(MADE) == 12
    tables = json.loads((tmp_path / "run" / "tables.json").read_text())
    row = next(row for row in tables["rows"] if row["method"] == "sdxl")
    assert row["difference"]["mean"] == pytest.approx(10.0)
    assert "Brightness" in (tmp_path / "run" / "index.html").read_text()
    assert data_of(tmp_path / "run")["scorers"] == {"Brightness": True}
    assert main(arguments(tmp_path / "run")) == 0
    assert len(MADE) == 12
    with pytest.raises(UserError, match="another configuration"):
        main(arguments(tmp_path / "run", "--pictures.seeds", "1"))
    assert "page      " in capsys.readouterr().out


def test_rows_prompts_seeds_and_scorers_are_added_to_a_finished_benchmark(tmp_path, painters):
    run = tmp_path / "run"
    assert main(arguments(run, "--methods", "multidiffusion")) == 0
    assert main(arguments(run)) == 0
    assert len(MADE) == 12, "the row that came later, and no other picture"
    assert main(arguments(run, "--pictures.limit", "4", "--pictures.seeds", "3")) == 0
    assert len(MADE) == len(set(MADE)) * 2 == 2 * 4 * 3
    assert main(arguments(run, "--pictures.limit", "4", "--pictures.seeds", "3", *BORDERS)) == 0
    assert len(MADE) == 24
    manifest = json.loads((run / "run.json").read_text())
    assert len(manifest["extended"]) == 3 and manifest["config"]["pictures"]["seeds"] == 3
    assert len((run / "records.jsonl").read_text().splitlines()) == 2 * 24


BORDERS = ("--judges.scorers", f"{__name__}:Brightness", "border_frame")


@pytest.mark.parametrize(
    "changed",
    [
        ("--methods", "sdxl", "--baseline", "sdxl"),
        ("--methods", "multidiffusion", "sdxl", "mad=multidiffusion", "--options", "mad.stride=32"),
        ("--options", "multidiffusion.stride=32"),
        ("--pictures.limit", "2"),
        ("--pictures.steps", "3"),
        ("--model", "miniature-sd3"),
    ],
    ids=lambda changed: changed[-1],
)
def test_a_benchmark_that_would_make_other_pictures_of_what_is_there_is_refused(tmp_path, painters, changed):
    more = ("--methods", "multidiffusion", "sdxl", "mad=mad")
    assert main(arguments(tmp_path / "run", *more)) == 0
    made = len(MADE)
    with pytest.raises(UserError, match="another configuration"):
        main(arguments(tmp_path / "run", *more, *changed))
    assert len(MADE) == made


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (EvalConfig(), "where shall"),
        (EvalConfig(out="x", baseline="mad", methods=("sdxl",)), "baseline"),
        (EvalConfig(out="x", methods=("multidifusion", "multidiffusion")), "multidiffusion"),
        (EvalConfig(out="x", methods=("multidiffusion", "multidiffusion")), "named twice"),
        (EvalConfig(out="x", methods=("drspo", "drspo-without-dpo"), baseline="drspo"), "same thing twice"),
        (EvalConfig(out="x", pictures=Pictures(limit=-1)), "a limit of -1"),
        (EvalConfig(out="x", pictures=Pictures(seeds=0)), "0 seeds"),
        (EvalConfig(out="x", judges=Judges(batch=0)), "0 pictures at once"),
        (EvalConfig(out="x", judges=Judges(trained=("hps_v3",))), "'hps_v3' is no scorer here"),
        (EvalConfig(out="x", judges=Judges(aside=("near",))), "'near' is no scorer here"),
        (EvalConfig(out="x", judges=Judges(scorers=("clip",), aside=("clip",))), "left to rank by"),
        (EvalConfig(out="x", judges=Judges(scorers=("clip", "clip"))), "used twice: clip"),
    ],
)
def test_what_cannot_run_is_said_before_anything_is_made(config, said):
    with pytest.raises(UserError, match=said):
        check(config)


def test_a_torn_picture_does_not_cost_the_page(tmp_path, painters):
    assert main(arguments(tmp_path / "run")) == 0
    torn = next((tmp_path / "run" / "images" / "sdxl").glob("*-0.png"))
    torn.write_bytes(b"torn")
    shutil.rmtree(tmp_path / "run" / "small")
    assert main(arguments(tmp_path / "run")) == 0
    shown = {p["file"]: p["small"] for p in data_of(tmp_path / "run")["pictures"]}
    name = torn.relative_to(tmp_path / "run").as_posix()
    assert not shown[name] and sum(map(bool, shown.values())) == 11


MINIATURE = {"out": "x", "model": "miniature", "device": "cpu"}


@pytest.mark.parametrize(
    ("judges", "said"),
    [
        (Judges(scorers=("aesthetics",)), "Did you mean 'aesthetic'"),
        (Judges(scorers=()), "needs a scorer"),
        (Judges(scorers=("a b=clip",)), "does not name a scorer"),
        (Judges(scorers=("clip",), options=("clip.view=whole",)), "unknown view 'whole'"),
        (Judges(scorers=("clip",), options=("clip.view=",)), "clip.view has no value"),
        (Judges(scorers=("clip",), options=("clip.veiw=official",)), "Did you mean 'view'"),
        (Judges(scorers=("clip",), options=("aesthetic.view=official",)), "which this run does not use"),
        (Judges(scorers=("clip",), options=("clip.view",)), "not name.key=value"),
        (Judges(scorers=("clip",), options=("clip.batch_size=0",)), "a batch of 0"),
        (Judges(scorers=("pickscore",), options=("pickscore.weights=/nowhere",)), "config.json"),
        (Judges(scorers=("image_reward",), options=("image_reward.weights=/nowhere",)), "ImageReward.pt"),
        (Judges(scorers=("hps_v21",), options=("hps_v21.weights=/nowhere",)), "HPS_v2.1_compressed.pt"),
        (Judges(scorers=("aesthetic",), options=("aesthetic.head=/nowhere.pth",)), "no aesthetic head"),
    ],
)
def test_a_judge_that_cannot_judge_is_named_before_anything_is_made(tmp_path, judges, said):
    with pytest.raises(UserError) as error:
        main_until_pictures(replace(EvalConfig(**MINIATURE), out=str(tmp_path / "run"), judges=judges))
    assert said in str(error.value)
    assert not (tmp_path / "run" / "images").exists()


def judges_of(config):
    return build_judges(config.judges, model=config.model, device=config.device)


def main_until_pictures(config):
    check(config)
    return judges_of(config)


@pytest.mark.parametrize(
    ("scorers", "said"),
    [(("clip", "surplus"), ""), (("clipp",), "Did you mean 'clip'")],
    ids=["fewer", "unknown"],
)
def test_a_preset_with_other_scorers_sets_nothing_aside_that_is_not_there(scorers, said):
    argv = ["--config", "miniature", "--out", "x", "--device", "cpu", "--judges.scorers", *scorers]
    config = load(EvalConfig, argv, package="eval", prog="eval")
    if said:
        with pytest.raises(UserError, match=said):
            main_until_pictures(config)
    else:
        assert list(main_until_pictures(config)) == list(scorers)


def test_one_scorer_may_look_twice_with_settings_of_its_own():
    judges = Judges(scorers=("clip", "near=clip"), options=("near.view=windows",))
    found = judges_of(EvalConfig(**MINIATURE, judges=judges))
    assert {name: metric.view for name, metric in found.items()} == {"clip": "letterbox", "near": "windows"}


def test_every_method_gets_the_same_prompts_and_seeds():
    every = cells(EvalConfig(out="x", methods=("sdxl", "drspo-without-control")))
    by_method = [
        {(c.prompt, c.seed) for c in every if c.method == name} for name in ("sdxl", "drspo-without-control")
    ]
    assert by_method[0] == by_method[1] and len(by_method[0]) == 80


def test_ablations_are_settings_of_the_same_generator():
    loras = {"lora_blueprint": "a", "lora_highres": "b"}
    names = ("drspo", *(name for name in ABLATIONS if name != "drspo"))
    found = rows(EvalConfig(out="x", methods=names, baseline="drspo", **loras))
    worn = {name: {stage: path for stage, (path, _) in one.loras.items()} for name, one in found.items()}
    assert worn == {
        "drspo": {"blueprint": "a", "highres": "b"},
        "drspo-without-dpo": {},
        "drspo-without-highres-dpo": {"blueprint": "a"},
        "drspo-without-control": {"blueprint": "a", "highres": "b"},
        "drspo-without-blueprint": {"all": "b"},
        "drspo-with-ip-adapter": {"blueprint": "a", "highres": "b"},
    }
    assert found["drspo-with-ip-adapter"].settings == {"image_prompt": {"enabled": True}}
    assert found["drspo-without-control"].settings == {"control": {"enabled": False}}
    assert found["drspo-without-blueprint"].method == "multidiffusion"


def test_a_row_has_a_model_settings_loras_and_an_upscaler_of_its_own():
    options = (
        "flux-esrgan.model=flux",
        "flux-esrgan.upscale=2",
        "drspo.control.scale=0.4",
        "drspo.lora_highres=c",
    )
    config = EvalConfig(out="x", methods=("drspo", "flux-esrgan=direct"), options=options, baseline="drspo")
    found = rows(config)
    assert (found["flux-esrgan"].model, found["flux-esrgan"].upscale) == ("flux", 2)
    assert (
        found["drspo"].settings == {"control": {"scale": 0.4}} and found["drspo"].loras["highres"][0] == "c"
    )
    assert found["drspo"].model == "miniature" and found["drspo"].upscale == 1


@pytest.mark.parametrize(
    ("methods", "options", "said"),
    [
        (("mad",), ("mda.model=flux",), "nothing of a row"),
        (("mad",), ("mad.model",), "nothing of a row"),
        (("mad",), ("mad.winows.stride=3",), "winows"),
        (("mad",), ("mad.upscale=3",), "enlarged by 2 or 4"),
        (("mad", "again=mad"), (), "mad and again are the same thing twice"),
        (("direct", "sdxl"), (), "same thing twice"),
        (("mad", "a=mad"), ("a.model=package:miniature/weights/sdxl",), "same thing twice"),
        (("mad", "a=mad"), ("a.model=miniature/weights/sdxl",), "same thing twice"),
        (("multidiffusion", "drspo-without-blueprint"), (), "same thing twice"),
        (
            ("drspo", "drspo-without-highres-dpo"),
            ("drspo.lora_blueprint=x", "drspo-without-highres-dpo.lora_blueprint=x"),
            "same thing",
        ),
        (("sub/row=mad",), (), "cannot name a row"),
    ],
)
def test_rows_that_mean_nothing_or_the_same_are_refused(methods, options, said):
    with pytest.raises(UserError, match=said):
        rows(EvalConfig(out="x", methods=methods, options=options))


class Refusing(Painter):
    """Paints nothing for one prompt."""

    def generate(self, requests):
        if requests[0].prompt.startswith("A misty"):
            raise RuntimeError("no such mist")
        return super().generate(requests)


def test_a_picture_that_fails_is_a_row_with_its_reason_and_is_tried_again(tmp_path, painters, monkeypatch):
    monkeypatch.setattr(
        suite, "open_generator", lambda setup: Refusing(100) if setup.method == "sdxl" else Painter(90)
    )
    assert main(arguments(tmp_path / "run")) == 0
    tables = json.loads((tmp_path / "run" / "tables.json").read_text())
    lost = next(item for item in tables["missing"] if item["method"] == "sdxl")
    assert lost["pictures"] == 2 and "no such mist" in lost["reason"]
    row = next(row for row in tables["rows"] if row["method"] == "sdxl")
    assert row["difference"]["n"] == 2, "compared on what both have"
    MADE.clear()
    monkeypatch.setattr(suite, "open_generator", lambda setup: Painter(100))
    assert main(arguments(tmp_path / "run")) == 0
    assert len(MADE) == 2 and not json.loads((tmp_path / "run" / "tables.json").read_text())["missing"]


def test_sources_of_prompts_are_strata_shown_together_and_apart(tmp_path, painters, capsys):
    (tmp_path / "mine.txt").write_text("# a comment\na hill\na dale\na vale\n")
    arguments_ = arguments(tmp_path / "run", "--pictures.prompts", "outdoor", str(tmp_path / "mine.txt"))
    assert main(arguments_) == 0
    assert len(MADE) == 24
    said = capsys.readouterr().out
    assert "Prompts of outdoor alone (3)" in said and "Prompts of mine.txt alone (3)" in said


@pytest.mark.parametrize("name", presets("eval"))
def test_every_preset_names_rows_and_prompts_that_exist(name):
    config = load(EvalConfig, ["--config", name, "--out", "x"], package="eval", prog="eval")
    check(replace(config, lora_blueprint="a", lora_highres="b"))


def test_prompt_files_lose_blank_lines_and_repeats(tmp_path):
    (tmp_path / "p.txt").write_text("a\n\n b \na\n")
    assert read_prompts(str(tmp_path / "p.txt")) == ["a", "b"]
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(UserError, match="no prompts"):
        read_prompts(str(tmp_path / "empty.txt"))

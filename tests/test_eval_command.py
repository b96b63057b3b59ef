"""The benchmark from prompts to tables, with a generator and a scorer that cost nothing."""

import json
from dataclasses import replace

import pytest
from PIL import Image

from drspo.errors import UserError
from drspo.files.run import RunDir
from eval import suite
from eval.command import check, main
from eval.config import EvalConfig, Judges, Pictures
from eval.judges import build_judges
from eval.methods import method
from eval.suite import cells, read_prompts

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
        self.grey = grey

    def generate(self, requests):
        MADE.extend((request.prompt, request.seed) for request in requests)
        greys = [self.grey + request.seed for request in requests]
        return [type("Made", (), {"image": Image.new("RGB", (64, 16), (g, g, g))}) for g in greys]


class Spec:
    scroll, steps, guidance_scale = (16, 64), 2, 1.0


class Family:
    spec = Spec()

    def use_lora(self, name):
        self.active = name


@pytest.fixture
def painters(monkeypatch):
    MADE.clear()
    greys = {"multidiffusion": 100, "sdxl": 110}
    monkeypatch.setattr(suite, "load", lambda config, model="": Family())
    monkeypatch.setattr(suite, "build_generator", lambda name, family, settings: Painter(greys[name]))


def arguments(out, *more):
    return [
        "--methods", "multidiffusion", "sdxl", "--judges.scorers", f"{__name__}:Brightness",
        "--pictures.limit", "3",
        "--out", str(out), *more,
    ]  # fmt: skip


def test_a_benchmark_ends_in_tables_and_a_page_and_makes_nothing_twice(
    tmp_path, painters, monkeypatch, capsys
):
    assert main(arguments(tmp_path / "run")) == 0
    assert len(MADE) == 12
    tables = json.loads((tmp_path / "run" / "tables.json").read_text())
    row = next(row for row in tables["rows"] if row["method"] == "sdxl")
    assert row["difference"]["mean"] == pytest.approx(10.0)
    assert "Brightness" in (tmp_path / "run" / "index.html").read_text()
    assert main(arguments(tmp_path / "run")) == 0
    assert len(MADE) == 12
    with pytest.raises(UserError, match="another configuration"):
        main(arguments(tmp_path / "run", "--pictures.seeds", "1"))
    assert "page:" in capsys.readouterr().out


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
        (EvalConfig(out="x", judges=Judges(trained=("hps_v2",))), "'hps_v2' is no scorer here"),
        (EvalConfig(out="x", judges=Judges(aside=("hps_v2",))), "'hps_v2' is no scorer here"),
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
    assert main(arguments(tmp_path / "run")) == 0
    assert 'src=""' in (tmp_path / "run" / "index.html").read_text()


MINIATURE = {"out": "x", "model": "miniature", "device": "cpu"}


@pytest.mark.parametrize(
    ("judges", "said"),
    [
        (Judges(scorers=("aesthetics",)), "Did you mean 'aesthetic'"),
        (Judges(scorers=()), "needs a scorer"),
        (Judges(scorers=("a b=clip",)), "does not name a scorer"),
        (Judges(scorers=("clip",), options=("clip.view=whole",)), "unknown view 'whole'"),
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
    assert method("drspo-without-dpo").generator == method("drspo").generator == "drspo"
    assert method("drspo-without-control").settings == {"control": {"enabled": False}}


def test_prompt_files_lose_blank_lines_and_repeats(tmp_path):
    (tmp_path / "p.txt").write_text("a\n\n b \na\n")
    assert read_prompts(str(tmp_path / "p.txt")) == ["a", "b"]
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(UserError, match="no prompts"):
        read_prompts(str(tmp_path / "empty.txt"))


def test_a_row_may_have_a_model_of_its_own_and_an_upscaler_behind_it():
    flux = method("direct+x2@flux")
    assert (flux.generator, flux.upscale, flux.model) == ("direct", 2, "flux")
    assert method("drspo-without-control@sd3.5-large").settings == {"control": {"enabled": False}}
    for wrong, said in (("direct@fluxx", "fluxx"), ("direct+x3", "'3'"), ("dirrect@flux", "dirrect")):
        with pytest.raises(UserError, match=said):
            method(wrong)


def test_rows_of_other_models_are_made_with_those(tmp_path):
    """On the shipped weights: the row is painted at half size by the transformer and enlarged."""
    rows = ("direct", "direct+x2@miniature-sd3")
    asked = Pictures(prompts="miniature", limit=1, seeds=1, steps=1)
    config = EvalConfig(model="miniature", methods=rows, baseline="direct", out=str(tmp_path), pictures=asked)
    run = RunDir(config.out)
    suite.make_pictures(config, run)
    for cell in cells(config):
        with Image.open(tmp_path / cell.name) as image:
            assert image.size == (512, 128)


def test_a_row_whose_upscaler_is_nowhere_is_refused_first(tmp_path):
    config = EvalConfig(methods=("direct", "direct+x2@flux"), baseline="direct", out=str(tmp_path))
    with pytest.raises(UserError, match="direct.x2@flux has no upscaler of its own"):
        check(config)
    check(replace(config, upscaler="RealESRGAN_x2plus.pth"))

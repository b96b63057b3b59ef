"""Several blueprints on a sheet, one of them painted; a picture in the blueprint's place; what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image

from drspo.cli import execute
from drspo.errors import UserError
from eval.judges import COUNTS, PLANS, plan_judges, rank_plans
from generate.methods.drspo.blueprint import candidate_seed
from generate.program.metadata import read

SMALL = ["--model", "miniature", "--steps", 2]
PROMPT = "a castle in the snow at noon"


def run(*argv) -> int:
    return execute("generate.program.command:main", [str(a) for a in argv])


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    path = tmp_path_factory.mktemp("planned") / "scroll.png"
    assert run(PROMPT, *SMALL, "--blueprints", 3, "--out", path, "--save-extras") == 0
    return path


def number_of(path) -> int:
    seed = read(path).settings["blueprint"]["seed"]
    return [candidate_seed(0, number) for number in (1, 2, 3)].index(seed) + 1


def test_the_sheet_lies_beside_the_scroll_and_the_best_is_painted(planned, capsys):
    sheet = Image.open(planned.parent / "scroll.blueprints.png")
    assert sheet.height > 3 * 64 and sheet.width == 640
    again = planned.parent / "later.png"
    assert run(PROMPT, *SMALL, "--blueprints", 3, "--blueprint-choice", "later", "--out", again) == 0
    said = capsys.readouterr().out
    assert not again.exists() and "choose one by --blueprint-choice" in said
    (best,) = [line for line in said.splitlines() if "(best)" in line]
    assert int(best.split()[0]) == number_of(planned)


def test_the_same_command_again_keeps_the_scroll_and_draws_nothing(planned, capsys):
    before = planned.stat().st_mtime_ns
    assert run(PROMPT, *SMALL, "--blueprints", 3, "--out", planned) == 0
    assert planned.stat().st_mtime_ns == before and "blueprints" not in capsys.readouterr().out


def test_a_chosen_blueprint_is_the_one_that_is_painted_and_replays_without_being_chosen(planned, tmp_path):
    other = 1 + number_of(planned) % 3
    path, again = tmp_path / "chosen.png", tmp_path / "again.png"
    command = [PROMPT, *SMALL, "--blueprints", 3, "--blueprint-choice", other]
    assert run(*command, "--out", path, "--save-extras") == 0
    assert number_of(path) == other
    assert run("--like", path, "--out", again) == 0
    assert again.read_bytes() == path.read_bytes()
    sheet = np.asarray(Image.open(planned.parent / "scroll.blueprints.png").convert("RGB")).astype(float)
    height = sheet.shape[0] // 3
    shown = sheet[other * height - 160 : other * height]
    drawn = Image.open(tmp_path / "chosen.blueprint.png").resize((640, 160), Image.Resampling.BICUBIC)
    assert np.abs(shown - np.asarray(drawn)).max() <= 1


def test_the_first_blueprint_is_the_scrolls_own(tmp_path):
    first, plain = tmp_path / "first.png", tmp_path / "plain.png"
    assert run(PROMPT, *SMALL, "--blueprints", 2, "--blueprint-choice", 1, "--out", first) == 0
    assert run(PROMPT, *SMALL, "--out", plain) == 0
    assert first.read_bytes() == plain.read_bytes()


def test_the_plan_counts_every_blueprint(capsys):
    def unet(*more) -> int:
        assert run(PROMPT, *SMALL, "--plan", *more) == 0
        return int(capsys.readouterr().out.split("unet: ")[1].split()[0])

    assert unet("--blueprints", 3) == unet() + 3 * 2 * 2


class Says:
    higher_is_better = False

    def __init__(self, *numbers: float) -> None:
        self.numbers = numbers

    def score(self, images, prompts):
        return list(self.numbers)


def test_the_first_judge_decides_and_the_next_where_it_sees_no_difference():
    images = [Image.new("RGB", (8, 8))] * 3
    assert rank_plans({"style": Says(3, 1, 2), "other": Says(1, 2, 3)}, images, "").order == [1, 2, 0]
    assert rank_plans({"style": Says(1, 1, 0), "other": Says(2, 1, 9)}, images, "").order == [2, 1, 0]
    assert rank_plans({"surplus": Says(0.2, 0.1, 0.9), "o": Says(1, 2, 0)}, images, "").order == [0, 1, 2]
    assert rank_plans({"style": Says(*[math.nan] * 3), "o": Says(1, 0, 2)}, images, "").order == [1, 0, 2]


@pytest.mark.parametrize("model", ["miniature", "sdxl"])
def test_the_judges_of_each_model_can_be_built_and_counts_are_measures(model):
    names = PLANS.get(model, PLANS[""])
    assert list(plan_judges((), model=model, device="cpu")) == list(names)
    assert names[0] in COUNTS


@pytest.mark.parametrize(
    "options, said",
    [
        (["--blueprints", 3, "--method", "mad"], "mad has no blueprint"),
        (["--blueprint", "x.png", "--method", "mad"], "mad has no blueprint"),
        (["--blueprint", "x.png", "--blueprints", 3], "asks for plans"),
        (["--blueprint-choice", 2], "nothing to choose from"),
        (["--blueprint-judges", "style"], "nothing to choose from"),
        (["--blueprints", 3, "--blueprint-choice", 4], "none of number 4"),
        (["--blueprints", 3, "--blueprint-choice", "worst"], "chooses no blueprint"),
        (
            ["--blueprints", 3, "--blueprint-choice", 1, "--seeds", 0, 1, "--out", "folder/"],
            "one prompt and seed",
        ),
        (["--blueprints", 65], "65"),
    ],
)
def test_options_that_exclude_each_other_are_refused_before_anything_is_loaded(options, said, capsys):
    assert run(PROMPT, "--model", "/there/is/no/model", *options) == 2
    error = capsys.readouterr().err
    assert said in error and "no/model" not in error


def test_an_unknown_judge_is_refused_by_name(tmp_path):
    with pytest.raises(UserError, match="stile"):
        plan_judges(("stile",), model="miniature", device="cpu")


@pytest.fixture(scope="module")
def sketch(tmp_path_factory):
    """A castle of two rectangles."""
    pixels = np.full((64, 256, 3), (120, 170, 230), np.uint8)
    pixels[40:] = (240, 240, 250)
    pixels[24:44, 150:175] = (120, 80, 90)
    path = tmp_path_factory.mktemp("sketch") / "sketch.png"
    Image.fromarray(pixels).save(path)
    return path


def test_a_scroll_follows_a_sketch_and_its_record_names_it_without_its_place(sketch, tmp_path, capsys):
    path, again = tmp_path / "scroll.png", tmp_path / "again.png"
    assert run(PROMPT, *SMALL, "--blueprint", sketch, "--out", path, "--save-extras") == 0
    assert np.array_equal(Image.open(tmp_path / "scroll.blueprint.png"), Image.open(sketch))
    options = read(path).options
    assert options["blueprint"] == "sketch.png" and len(options["blueprint_sha256"]) == 64
    small = np.asarray(Image.open(path).resize((256, 64)), float) - np.asarray(Image.open(sketch), float)
    assert np.abs(small).mean() < 40, "what it shows is where the sketch has it"
    assert run("--like", path, "--out", again) == 2
    assert "a picture called sketch.png" in capsys.readouterr().err
    assert run("--like", path, "--blueprint", sketch, "--out", again) == 0
    assert again.read_bytes() == path.read_bytes()
    other = tmp_path / "other.png"
    Image.new("RGB", (256, 64)).save(other)
    assert run("--like", path, "--blueprint", other, "--out", tmp_path / "no.png") == 2
    assert "not the one that the scroll follows" in capsys.readouterr().err


@pytest.mark.parametrize("size", [(256, 96), (1024, 256), (255, 64)])
def test_a_picture_that_would_be_stretched_or_shrunk_is_refused(tmp_path, capsys, size):
    path = tmp_path / "sketch.png"
    Image.new("RGB", size).save(path)
    assert run(PROMPT, *SMALL, "--blueprint", path, "--out", tmp_path / "no.png") == 2
    assert f"a picture of {size[1]}x{size[0]}" in capsys.readouterr().err
    assert not (tmp_path / "no.png").exists()

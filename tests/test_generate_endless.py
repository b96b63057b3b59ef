"""Endless scrolls: strips in one file, no seam between them, flat memory, made again from the file."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from drspo.cli import execute
from eval.metrics.seams import seam_strength
from generate.canvas.strips import strips_to_right
from generate.models.specs import MODELS
from generate.program.long_png import CHUNK, LongPicture
from generate.program.metadata import KEY, read

pytestmark = pytest.mark.xdist_group("generate_endless")

ALONG = "a pine tree in the snow: 0-0.5; sand dunes: 0.5-1"


def run(*argv) -> int:
    return execute("generate.program.command:main", [str(a) for a in argv])


@pytest.fixture(scope="module")
def endless(tmp_path_factory):
    path = tmp_path_factory.mktemp("endless") / "scroll.png"
    command = ["--along", ALONG, "--endless", "--width", 1024, "--steps", 3, "--method", "multidiffusion"]
    assert run(*command, "--out", path) == 0
    return path


def test_an_endless_scroll_is_one_file_and_nothing_else_is_left(endless):
    assert [p.name for p in endless.parent.iterdir()] == ["scroll.png"]
    assert Image.open(endless).size == (1024, 128)
    record = read(endless)
    assert (record.request.width, record.options["endless"]) == (1024, 1)


def test_there_is_no_seam_between_strips(endless):
    strength = seam_strength(np.asarray(Image.open(endless).convert("RGB")))
    for strip in strips_to_right(MODELS["miniature"], 128, 512, 512, fixed=False):
        assert strength[strip.start - 3 : strip.start + 4].max() < 1.0


def test_an_endless_scroll_is_made_again_from_its_file(endless, tmp_path):
    again = tmp_path / "again.png"
    assert run("--like", endless, "--out", again) == 0
    assert again.read_bytes() == endless.read_bytes()


def test_what_is_counted_by_the_plan_is_what_is_painted(tmp_path, capsys):
    command = ["a pine", "--endless", "--width", 768, "--steps", 1, "--method", "multidiffusion"]
    assert run(*command, "--plan") == 0
    planned = int(capsys.readouterr().out.split("unet: ")[1].split()[0])
    assert run(*command, "--out", tmp_path / "scroll.png") == 0
    assert f"{planned} unet evaluations" in capsys.readouterr().out


@pytest.mark.parametrize("size", [(1, 1), (5, 7), (64, 3000), (300, 2000)])
def test_a_picture_from_strips_is_the_picture(tmp_path, size):
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (*size, 3), np.uint8)
    path = tmp_path / "long.png"
    with LongPicture(path, *size) as picture:
        for part in np.array_split(pixels, min(4, size[1]), axis=1):
            picture.add(part)
        picture.write(KEY, json.dumps({"a": 1}))
    image = Image.open(path)
    assert np.array_equal(np.asarray(image), pixels) and json.loads(image.info[KEY]) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["long.png"]
    if size == (300, 2000):
        assert path.stat().st_size > CHUNK, "several chunks"


def test_a_picture_that_is_not_whole_leaves_no_file(tmp_path):
    with pytest.raises(ValueError, match="3 of 8"), LongPicture(tmp_path / "long.png", 4, 8) as picture:
        picture.add(np.zeros((4, 3, 3), np.uint8))
        picture.write(KEY, "")
    assert list(tmp_path.iterdir()) == []


def test_strips_that_do_not_fit_are_refused(tmp_path):
    with LongPicture(tmp_path / "long.png", 4, 8) as picture:
        with pytest.raises(ValueError, match="9 columns"):
            picture.add(np.zeros((4, 9, 3), np.uint8))
        with pytest.raises(ValueError, match="4 high"):
            picture.add(np.zeros((5, 2, 3), np.uint8))


def test_a_picture_of_any_width_is_written_in_flat_memory():
    """120 MB of pixels, in a process that may not hold a third of that beyond what it began with."""
    code = """
import numpy as np, tempfile, pathlib
from drspo.memory import peak_resident
from generate.program.long_png import LongPicture
with tempfile.TemporaryDirectory() as folder:
    with LongPicture(pathlib.Path(folder) / "p.png", 128, 320_000) as picture:
        before = peak_resident()
        strip = np.arange(128 * 4000 * 3, dtype=np.uint32).astype(np.uint8).reshape(128, 4000, 3)
        for _ in range(80):
            picture.add(strip)
        picture.write("drspo", "")
    print((peak_resident() - before) / 2**20)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 40


@pytest.mark.parametrize(
    "options, said",
    [
        ([], "how long"),
        (["--width", 2048, "--out", "scroll.webp"], "WebP ends"),
        (["--width", 2048, "--upscale", 2], "takes none"),
        (["--width", 2048, "--blueprints", 2], "takes none"),
        (["--width", 2048, "--save-extras"], "takes none"),
        (["--width", 2048, "--out", "s3://bucket/scroll.png"], "local disk"),
    ],
)
def test_options_that_exclude_each_other_are_refused_before_anything_is_loaded(options, said, capsys):
    assert run("a castle", "--endless", "--model", "/there/is/no/model", *options) == 2
    error = capsys.readouterr().err
    assert said in error and "no/model" not in error


@pytest.mark.parametrize("width, said", [(512, "needs no strips"), (1000, "no positive multiple of 16")])
def test_a_width_that_strips_cannot_make_is_refused(width, said, tmp_path, capsys):
    assert run("a castle", "--endless", "--width", width, "--out", tmp_path / "no.png") == 2
    assert said in capsys.readouterr().err and not (tmp_path / "no.png").exists()

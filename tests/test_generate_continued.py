"""Extending and repainting: what stays, stays to the bit; the join has no seam; what cannot be is refused."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from drspo.cli import execute
from drspo.errors import UserError
from eval.metrics.seams import seam_strength
from generate.canvas.strips import Strip, mirrored, redone, strip_inside, strips_to_right
from generate.images.join import faded, joined
from generate.images.kept import Kept
from generate.methods.continued import Change, Continued
from generate.models.specs import MODELS
from generate.program.metadata import read
from generate.request import Request, build_generator
from miniature.paint import paint
from miniature.scene import sample_scene
from tests.small_scrolls import controlled_family, family
from tests.test_generate_ring import miniature

SDXL, MINIATURE = MODELS["sdxl"], MODELS["miniature"]
METHODS = ["direct", "multidiffusion", "mad", "drspo"]


def run(*argv) -> int:
    return execute("generate.program.command:main", [str(a) for a in argv])


def drawn(width: int = 512, seed: int = 7) -> Image.Image:
    """A scene of the drawn world, cut out of a wider one, so that its ends are no picture's ends."""
    scene = sample_scene(seed, 128, width + 256, subject="castle", time="noon", ground="snow")
    return Image.fromarray(paint(scene)[:, 64 : 64 + width])


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("source") / "scroll.png"
    drawn().save(path)
    return path


def test_strips_cover_what_is_new_each_once_and_see_what_is_there():
    strips = strips_to_right(SDXL, 1024, 4096, 8192)
    assert [s.stop - s.start for s in strips] == [2048, 2304, 2304, 2304]
    assert strips[0] == Strip(2048, 6144, 4096, 6144)
    for one, following in zip(strips[:-1], strips[1:], strict=True):
        assert following.start == one.stop - redone(SDXL), "the end of a picture is painted anew"
        assert following.right - following.left == 4096
    assert strips[-1].stop == 4096 + 8192
    assert mirrored(Strip(1, 5, 3, 5), 10) == Strip(5, 9, 5, 7)


@pytest.mark.parametrize("more", [0, 100, 2047])
def test_columns_that_are_no_whole_units_are_refused_with_the_nearest(more):
    with pytest.raises(UserError, match="no positive multiple of 16"):
        strips_to_right(MINIATURE, 128, 512, more)


def test_what_is_repainted_lies_inside_its_canvas_and_begins_a_unit_of_it():
    for start, stop in ((0, 160), (320, 480), (352, 512), (5, 90), (0, 512)):
        strip = strip_inside(MINIATURE, 128, 512, start, stop)
        assert 0 <= strip.left <= start < stop <= strip.right <= 512
        assert (strip.right - strip.left) % 16 == 0


def test_a_membrane_keeps_a_shift_of_colour_and_loses_fine_differences():
    flat, fine = np.ones((64, 1)), np.where(np.arange(64) % 2, 1.0, -1.0)[:, None]
    assert faded(flat, 32)[:, 0] == pytest.approx(1, abs=0.02)
    assert faded(flat, 32)[:, -1] == pytest.approx(0, abs=0.02)
    assert np.abs(faded(fine, 32)[:, 4:]).max() < 0.1


def test_a_picture_that_agrees_with_its_canvas_is_joined_unchanged():
    pixels = np.asarray(drawn())
    assert np.array_equal(joined(pixels[:, :256], pixels[:, :256], pixels[:, 256:], 64), pixels[:, 256:])


def test_kept_columns_do_not_depend_on_what_is_painted_over(golden):
    model = family(golden)
    one, other = np.array(drawn(256)), np.array(drawn(256))
    other[:, 128:] = 0
    spans = ((0, 128),)
    latents = [Kept(Image.fromarray(p), spans).latents(model.vae) for p in (one, other)]
    assert latents[0][1].sum() == 16 and (latents[0][0] == latents[1][0]).all()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "change",
    [Change(right=64), Change(left=64), Change(left=64, right=64), Change(start=96, stop=160)],
    ids=["right", "left", "both", "inside"],
)
def test_what_stays_stays_to_the_bit_by_every_method(golden, method, change):
    small = {"window": 128, "stride": 64}
    settings = {
        "direct": {},
        "drspo": {"windows": small, "blueprint": {"height": 64}},
    }.get(method, small)
    model = controlled_family(golden)
    settings = {"windows": small} if method == "drspo" else settings
    old = drawn(256)
    generator = Continued(build_generator(method, model, settings), old, change)
    request = Request(prompt="x", height=128, width=256 + change.left + change.right, steps=2, seed=3)
    made = np.asarray(generator.generate([request])[0].image)
    pixels, inside = np.asarray(old), made[:, change.left : change.left + 256]
    if change.extends:
        assert np.array_equal(inside, pixels)
        assert made.shape == (128, request.width, 3) and made[:, -64:].std() + made[:, :64].std() > 1
    else:
        assert np.array_equal(inside[:, :96], pixels[:, :96])
        assert np.array_equal(inside[:, 160:], pixels[:, 160:])
        assert not np.array_equal(inside[:, 96:160], pixels[:, 96:160])


@pytest.mark.slow
@pytest.mark.parametrize("method", ["multidiffusion", "mad", "drspo"])
@pytest.mark.parametrize("change", [Change(right=128), Change(start=224, stop=352)], ids=["right", "inside"])
def test_the_join_has_no_seam(method, change):
    old = drawn()
    generator = Continued(build_generator(method, miniature(), {}), old, change)
    request = Request(
        prompt="a castle in the snow at noon", height=128, width=512 + change.right, steps=8, seed=1,
        guidance_scale=3.0,
    )  # fmt: skip
    made = generator.generate([request])[0]
    strength = seam_strength(np.asarray(made.image))
    for column in (512,) if change.extends else (224, 352):
        assert strength[column - 3 : column + 4].max() < 1.0
    pasted = np.array(made.image)
    pasted[:, 256:] = np.clip(pasted[:, 256:].astype(int) + 16, 0, 255)  # what a seam looks like
    assert seam_strength(pasted)[253:260].max() > 1.5


def test_a_scroll_is_extended_and_made_again_from_its_file(source, tmp_path, capsys):
    path, again, plan = tmp_path / "longer.png", tmp_path / "again.png", tmp_path / "plan.png"
    command = ["a castle in the snow", "--extend", source, "--right", 128, "--steps", 2]
    assert run(*command, "--plan", "--out", plan) == 0
    counted = int(capsys.readouterr().out.split("unet: ")[1].split()[0])
    assert run(*command, "--out", path) == 0
    assert f"{counted} unet evaluations" in capsys.readouterr().out
    pixels = np.asarray(Image.open(path))
    assert pixels.shape == (128, 640, 3) and np.array_equal(pixels[:, :512], np.asarray(Image.open(source)))
    record = read(path)
    assert record.request.width == 640 and record.options["source"] == "scroll.png"
    assert run("--like", path, "--out", again) == 2
    assert "--extend PATH" in capsys.readouterr().err
    assert run("--like", path, "--extend", source, "--out", again) == 0
    assert again.read_bytes() == path.read_bytes()
    assert run("--like", path, "--extend", path, "--out", tmp_path / "no.png") == 2
    assert "not the scroll that was gone on with" in capsys.readouterr().err
    assert run("--extend", path, "--left", 64, "--steps", 2, "--out", tmp_path / "own.png") == 0
    assert read(tmp_path / "own.png").request.prompt == "a castle in the snow", "its own prompt goes on"


@pytest.mark.parametrize(
    "options, said",
    [
        (["--right", 64], "no scroll is extended"),
        (["--from", 64], "none are repainted"),
        (["--extend", "S"], "by how much"),
        (["--extend", "S", "--repaint", "S", "--right", 64], "not both at once"),
        (["--extend", "S", "--right", 64, "--to", 64], "none are repainted"),
        (["--extend", "S", "--right", 64, "--height", 256], "128 pixels high, not 256"),
        (["--extend", "S", "--right", 64, "--width", 512], "576 pixels wide, not 512"),
        (["--extend", "S", "--right", 64, "--upscale", 2], "takes none"),
        (["--extend", "S", "--right", 64, "--blueprints", 2], "takes none"),
        (["--repaint", "S", "--from", 64, "--to", 32], "no columns from 64 to 32"),
        (["--repaint", "S", "--from", 64, "--to", 600], "no columns from 64 to 600"),
        (["--repaint", "S", "--to", 64, "--along", "a: 0-1"], "passage by passage"),
    ],
)
def test_options_that_exclude_each_other_are_refused_before_anything_is_loaded(source, options, said, capsys):
    prompt = [] if "--along" in options else ["a castle"]
    options = [source if option == "S" else option for option in options]
    assert run(*prompt, "--model", "/there/is/no/model", *options) == 2
    error = capsys.readouterr().err
    assert said in error and "no/model" not in error


@pytest.mark.parametrize("options", [["--right", 100], ["--left", 8]])
def test_columns_that_the_model_cannot_add_are_refused_before_anything_is_loaded(source, options, capsys):
    assert run("a castle", "--extend", source, *options, "--out", source.parent / "no.png") == 2
    assert "no positive multiple of 16" in capsys.readouterr().err


def test_a_scroll_of_a_height_that_the_model_does_not_paint_is_refused(tmp_path, capsys):
    path = tmp_path / "low.png"
    Image.new("RGB", (256, 100)).save(path)
    assert run("a castle", "--extend", path, "--right", 64, "--out", tmp_path / "no.png") == 2
    assert "100" in capsys.readouterr().err


def test_a_picture_that_cannot_stay_as_it_is_is_refused(tmp_path, capsys):
    path = tmp_path / "clear.png"
    Image.new("RGBA", (512, 128)).save(path)
    assert run("a castle", "--extend", path, "--right", 64) == 2
    assert "RGB pictures" in capsys.readouterr().err


def test_a_ring_cannot_be_extended(source, tmp_path, capsys):
    assert run("a castle", "--extend", source, "--right", 64, "--drspo.windows.wrap") == 2
    assert "a ring has no end" in capsys.readouterr().err

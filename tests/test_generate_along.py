"""Prompts along a scroll: what is read, what is refused, what each window is told, and what is painted."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from drspo.cli import execute
from drspo.errors import UserError
from generate import GENERATORS
from generate.canvas.along import column_shares, window_shares
from generate.canvas.plan import plan_canvas, whole_canvas
from generate.methods.direct import Direct
from generate.methods.mad import MAD
from generate.methods.mad import Config as MADConfig
from generate.methods.multidiffusion import Config, MultiDiffusion
from generate.passages import Passage, check_passages, in_words, read_along, within
from generate.program.metadata import read
from generate.request import Request, build_generator, generator_class
from tests.small_scrolls import SMALL, distance, family, small_request

TWO = "pine forest: 0-0.4; harbour at dusk | people, cars: 0.4-1"
ROUNDING = 5e-5


def run(*argv) -> int:
    return execute("generate.program.command:main", [str(a) for a in argv])


def test_passages_are_read_from_the_command_line():
    one, other = read_along(TWO)
    assert one == Passage(prompt="pine forest", start=0, stop=0.4)
    assert other == Passage(prompt="harbour at dusk", negative_prompt="people, cars", start=0.4, stop=1)
    assert in_words((one, other)) == "pine forest; harbour at dusk"


def test_a_prompt_may_hold_colons_dashes_and_figures():
    (only,) = read_along("a 3-4 m wall: grey - old : 0 - 1.0")
    assert only.prompt == "a 3-4 m wall: grey - old"


def test_passages_are_read_from_a_yaml_file(tmp_path):
    path = tmp_path / "along.yaml"
    path.write_text(
        "- {prompt: pine forest, from: 0, to: 0.4}\n"
        "- {prompt: harbour at dusk, negative_prompt: 'people, cars', from: 0.4, to: 1}\n"
    )
    assert read_along(str(path)) == read_along(TWO)


@pytest.mark.parametrize(
    "text, said",
    [
        ("a: 0-0.5; b: 0.4-1", "overlap"),
        ("a: 0-0.4; b: 0.5-1", "nothing is said from 0.4 to 0.5"),
        ("a: 0.1-1", "nothing is said from 0 to 0.1"),
        ("a: 0-0.9", "nothing is said from 0.9 to 1"),
        ("b: 0.5-1; a: 0-0.5", "not in order"),
        ("a: 0-0.5; b: 0.5-1.2", "from 0 to 1 at most"),
        ("a: 0-0.5; b: 1-0.5", "goes up"),
        ("a: 0-0; b: 0-1", "goes up"),
        (": 0-1", "nothing is said for 0-1"),
        ("pine forest", "no PROMPT: FROM-TO"),
        ("a: 0-nan", "no PROMPT: FROM-TO"),
        (" ; ", "no passage"),
    ],
)
def test_passages_that_do_not_tile_the_scroll_are_refused_before_anything_is_loaded(text, said, capsys):
    assert run("--along", text, "--model", "/there/is/no/model") == 2
    error = capsys.readouterr().err
    assert said in error and "no/model" not in error


@pytest.mark.parametrize(
    "text, said",
    [
        ("prompt: a", "a list of passages"),
        ("- {prompt: a, from: 0}", "prompt, from and to"),
        ("- {prompt: a, from: 0, to: 1, until: 2}", "prompt, from and to"),
        ("- {prompt: a, from: zero, to: 1}", "numbers from 0 to 1"),
        ("- {prompt: 3, from: 0, to: 1}", "texts"),
        ("- {prompt: a, from: 0, to: .nan}", "from 0 to 1 at most"),
    ],
)
def test_a_yaml_of_another_form_is_refused(tmp_path, text, said):
    path = tmp_path / "along.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        read_along(str(path))
    assert said in str(caught.value)


def test_a_prompt_beside_passages_is_refused_before_anything_is_loaded(capsys):
    assert run("a castle", "--along", TWO, "--model", "/there/is/no/model") == 2
    assert "prompts were given beside it" in capsys.readouterr().err


def passages(*spans) -> tuple[Passage, ...]:
    return tuple(Passage(prompt=p, start=a, stop=b) for p, a, b in spans)


def test_a_window_has_of_each_passage_what_it_covers_of_it():
    canvas = plan_canvas(_Geometry(), Config(window=128, stride=64), 128, 320)  # 40 latents wide
    shares = window_shares(canvas, passages(("a", 0, 0.5), ("b", 0.5, 1)))
    assert [(w.x0, w.x1) for w in canvas.windows] == [(0, 16), (8, 24), (16, 32), (24, 40)]
    assert shares == [0, (0.75, 0.25), (0.25, 0.75), 1]


def test_a_wrapped_window_has_its_share_of_the_other_end():
    canvas = plan_canvas(_Geometry(), Config(window=128, stride=64, wrap=True), 128, 256)
    shares = window_shares(canvas, passages(("a", 0, 0.5), ("b", 0.5, 1)))
    assert [(w.x0, w.x1) for w in canvas.windows] == [(0, 16), (8, 24), (16, 32), (24, 40)]
    assert shares == [0, (0.5, 0.5), 1, (0.5, 0.5)]


def test_columns_add_up_to_one_and_fade_at_borders_only():
    canvas = whole_canvas(64, 256, 8)
    two = passages(("a", 0, 0.5), ("b", 0.5, 1))
    flat, ring = column_shares(canvas, two), column_shares(canvas, two, wrap=True)
    for shares in (flat, ring):
        assert torch.allclose(shares.sum(0), torch.ones(32))
        assert torch.allclose(shares[0, 15:17], torch.tensor([0.75, 0.25]))
    assert set(flat[0, :14].tolist()) == {1.0} and set(flat[0, 18:].tolist()) == {0.0}
    assert torch.allclose(ring[1, [31, 0]], torch.tensor([0.75, 0.25])), "a ring has a border at its join"


def test_passages_of_a_part_tile_the_part():
    cut = within(passages(("a", 0, 0.4), ("b", 0.4, 0.6), ("c", 0.6, 1)), 0.5, 0.75)
    check_passages(cut)
    assert [(p.prompt, round(p.start, 6), round(p.stop, 6)) for p in cut] == [("b", 0, 0.4), ("c", 0.4, 1)]


LPIPS = Path(__file__).parent / "golden" / "models" / "lpips-squeeze-rand" / "model.safetensors"
METHODS = {
    "multidiffusion": lambda model: MultiDiffusion(model, Config(**SMALL)),
    "mad": lambda model: MAD(model, MADConfig(**SMALL)),
    "direct": Direct,
    "spotdiffusion": lambda model: build_generator("spotdiffusion", model, {"window": 128}),
    "twindiffusion": lambda model: build_generator("twindiffusion", model, SMALL),
    "gvcf": lambda model: build_generator("gvcf", model, SMALL),
    "syncdiffusion": lambda model: build_generator(
        "syncdiffusion", model, {**SMALL, "net": "squeeze", "net_weights": str(LPIPS)}
    ),
}


def test_every_method_is_told_passages_or_refuses_them(golden):
    named = {"drspo", "sdxl", *METHODS}
    asked = small_request(along=read_along(TWO))
    for name in set(GENERATORS) - named:
        with pytest.raises(UserError, match="--along|which has no parts"):
            cls = generator_class(name)
            cls.check_settings(cls.config_class(), asked, None)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("checkpoint", ["tiny-sdxl", "tiny-sd"])
def test_the_same_words_in_every_passage_paint_what_one_prompt_paints(golden, name, checkpoint):
    method, asked = METHODS[name](family(golden, checkpoint)), small_request(width=384)
    same = replace(asked, along=passages((asked.prompt, 0, 0.3), (asked.prompt, 0.3, 1)))
    one, along = (method.generate([request])[0].latents for request in (asked, same))
    # SyncDiffusion's gradient makes more of the last bits; its parity is asked for as loosely
    assert distance(along, one) < (1e-3 if name == "syncdiffusion" else ROUNDING)


@pytest.mark.parametrize("name", METHODS)
def test_other_words_change_their_passage_and_in_one_step_no_other(golden, name):
    model = family(golden)
    method, asked = METHODS[name](model), small_request(steps=1, width=512)
    left = passages(("a misty river", 0, 0.5), ("a misty river", 0.5, 1))
    right = passages(("a misty river", 0, 0.5), ("a red castle at night", 0.5, 1))
    one, other = (method.generate([replace(asked, along=along)])[0].latents for along in (left, right))
    change = (one - other).abs().amax(dim=(0, 1))
    # MAD's windows attend to each other, SyncDiffusion's look towards the middle one
    elsewhere = 1e-3 if name in ("mad", "syncdiffusion") else 1e-5
    assert float(change[:16].max()) < elsewhere * float(one.abs().max())
    assert float(change[48:].min()) > 2e-3 * float(one.abs().max())


def test_a_passages_own_negative_counts_there_and_the_scrolls_elsewhere():
    request = Request(prompt="x", negative_prompt="fog", height=64, width=64, along=read_along(TWO))
    assert request.told == (("pine forest", "fog"), ("harbour at dusk", "people, cars"))


@pytest.mark.parametrize("method", ["drspo", "multidiffusion"])
def test_a_scroll_with_passages_is_made_again_from_its_file_and_counted_by_the_plan(tmp_path, capsys, method):
    common = ["--along", TWO, "--model", "miniature", "--method", method, "--steps", 2]
    first, again = tmp_path / "scroll.png", tmp_path / "again.png"
    assert run(*common, "--plan") == 0
    planned = capsys.readouterr().out
    assert run(*common, "--out", first) == 0
    made = capsys.readouterr().out
    counted = int(planned.split("unet: ")[1].split()[0])
    assert f"{counted} unet evaluations" in made
    assert read(first).request.along == read_along(TWO)
    assert run("--like", first, "--out", again) == 0
    assert first.read_bytes() == again.read_bytes()


def test_drspo_asks_its_blueprint_about_every_passage(golden):
    from generate.methods.drspo.two_stage import DRSPO
    from tests.small_scrolls import controlled_family
    from tests.test_generate_two_stage import CONFIG, request

    asked = request(along=read_along(TWO))
    made = DRSPO(controlled_family(golden), CONFIG).generate([asked])[0]
    assert made.facts["blueprint_evaluations"] == 2 * 3 * 2
    assert np.asarray(made.image).shape == (128, 256, 3)


class _Geometry:
    window, stride, factor = 128, 64, 8

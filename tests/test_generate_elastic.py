"""ElasticDiffusion: its geometry, its draws, what it is told, and what it refuses."""

import logging
import re

import pytest
import torch

from benchmarks.elastic import loop
from drspo.errors import UserError
from generate.canvas.plan import whole_canvas
from generate.canvas.reference import PLACES, Reference, cores, draw_places
from generate.methods.elastic_steps import Draws
from generate.methods.elasticdiffusion import Config, ElasticDiffusion
from generate.models.family import load_family
from generate.models.specs import MODELS
from generate.request import Request
from tests.small_scrolls import distance, family
from tests.test_generate_refusals import LOADING, run

ROUNDING = 1e-5
SIZES = [(16, 64, 16), (64, 128, 64), (128, 192, 128), (16, 40, 16), (128, 512, 128), (24, 24, 16)]


@pytest.fixture(scope="module")
def miniature():
    return load_family("miniature", device="cpu")


def request(**changes) -> Request:
    told = {"prompt": "a castle", "height": 128, "width": 256, "steps": 3, "seed": 3, "guidance_scale": 3.0}
    return Request(**told | changes)


def sampled(model, config=None, **changes):
    return ElasticDiffusion(model, config or Config(resampling=2)).sample(request(**changes))


@pytest.mark.parametrize(("height", "width", "side"), SIZES)
def test_cores_cover_an_axis_once_and_are_shown_the_training_side(height, width, side):
    for size in (height, width, side, side + 1, 3 * side - 1):
        pieces = cores(size, side)
        assert [n for core in pieces for n in range(core.start, core.stop)] == [*range(size)]
        for core in pieces:
            assert 0 <= core.shown_from <= core.start < core.stop <= core.shown_to <= size
            assert core.shown_to - core.shown_from == min(size, side)


@pytest.mark.parametrize(("height", "width", "side"), SIZES)
def test_a_reference_has_the_training_side_and_is_padded_to_its_square(height, width, side):
    reference = Reference(height, width, side)
    assert max(reference.size) == side
    for size, (before, after) in zip(reference.size, reference.padding, strict=True):
        assert before + size + after == side and 0 <= after - before <= 1


@pytest.mark.parametrize(("height", "width", "side"), SIZES)
def test_the_first_reference_alone_fills_the_canvas_with_its_own_values(height, width, side):
    reference = Reference(height, width, side)
    canvas = torch.randn(1, 4, height, width)
    places = torch.zeros((1, reference.cells), dtype=torch.int64)
    small = reference.picked(canvas, places)
    assert small.shape == (1, 4, *reference.size)
    assert torch.equal(reference.filled(small, places), reference.spread(small))


def test_at_twice_the_training_size_four_references_see_the_whole_canvas():
    reference = Reference(16, 32, 16)
    canvas = torch.randn(1, 4, 16, 32)
    places = torch.arange(PLACES)[:, None].expand(-1, reference.cells)
    assert torch.equal(reference.picked(canvas, places)[0], canvas[0, :, ::2, ::2])
    assert torch.equal(reference.filled(reference.picked(canvas, places), places), canvas)


def test_a_later_reference_is_written_over_an_earlier_one_where_it_looked_too():
    reference = Reference(16, 32, 16)
    places = torch.zeros((2, reference.cells), dtype=torch.int64)
    small = torch.stack([torch.full((1, 8, 16), value) for value in (1.0, 2.0)])
    assert torch.equal(reference.filled(small, places), torch.full((1, 1, 16, 32), 2.0))


def test_places_are_taken_anew_with_the_given_share_and_none_twice_before_all_are_used():
    generator = torch.Generator().manual_seed(0)
    places = draw_places(4000, 3, 0.3, generator)
    assert not places[0].any()
    moved = [(places[n] != places[n - 1]).float().mean().item() for n in (1, 2)]
    assert moved == pytest.approx([0.3, 0.3], abs=0.03)
    every = draw_places(50, 6, 1.0, generator)
    assert (every[:4].sort(0).values == torch.arange(4)[:, None]).all()
    assert torch.equal(every[4], every[3]) and torch.equal(every[5], every[3])


def test_a_request_replays_exactly_and_touches_nobody_elses_random_numbers(miniature):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one = sampled(miniature).latents
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(6)
    assert torch.equal(one, sampled(miniature).latents)
    assert not torch.equal(one, sampled(miniature, seed=4).latents)
    assert torch.isfinite(one).all()


def test_backdrops_of_a_timestep_come_back_and_those_of_others_differ():
    shape = torch.Size((1, 4, 2, 16))
    one, again, other = (Draws(1).backdrop(5, t, shape) for t in (10, 10, 11))
    assert torch.equal(one[0], again[0]) and torch.equal(one[1], again[1])
    assert not torch.equal(one[0], other[0])


def test_how_many_go_together_changes_no_more_than_rounding(miniature):
    results = [sampled(miniature, Config(resampling=2, window_batch=n)).latents for n in (1, 3, 8)]
    assert distance(results[1], results[0]) < ROUNDING and distance(results[2], results[0]) < ROUNDING


@pytest.mark.parametrize(("resampling", "repaint"), [(0, True), (2, False), (3, True)])
def test_evaluations_are_what_the_formula_says(miniature, resampling, repaint):
    facts = sampled(miniature, Config(resampling=resampling, repaint=repaint)).facts
    again = (3 - 1) * (2 + 4) if repaint and resampling else 0
    assert facts["unet_evaluations"] == 3 * (2 * (resampling + 1) + 4) + again


@pytest.mark.parametrize("model", ["tiny-sd", "tiny-sdxl", "miniature"])
@pytest.mark.slow
def test_the_loop_written_out_literally_gives_the_same(golden, miniature, model):
    loaded = miniature if model == "miniature" else family(golden, model)
    side = loaded.spec.window
    asked = request(height=side, width=2 * side, steps=2)
    config = Config(resampling=1)
    method = ElasticDiffusion(loaded, config)
    text = method.encode(asked)
    assert distance(method.sample(asked).latents, loop(loaded, asked, text, config)) < 1e-4


def test_every_evaluation_is_told_of_four_times_the_scrolls_sides(miniature):
    method = ElasticDiffusion(miniature)
    told = method.conditions(method.encode(request()))
    canvas = whole_canvas(128, 256, 8)
    sizes = told.of(canvas, range(1), ("unconditional", "conditional"), None).sizes
    assert sizes.tolist() == [[512, 1024, 0, 0, 512, 1024]] * 2


def test_without_the_pull_and_the_second_look_other_scrolls_come_out(miniature):
    full = sampled(miniature).latents
    assert distance(sampled(miniature, Config(resampling=2, repaint=False)).latents, full) > 1e-3
    assert distance(sampled(miniature, Config(resampling=2, reference_weight=0)).latents, full) > 1e-3


def test_beyond_twice_the_training_size_it_says_so(miniature, caplog):
    method = ElasticDiffusion(miniature)
    with caplog.at_level(logging.WARNING):
        method.check([request()])
        assert not caplog.records
        method.check([request(width=512)])
    assert "up to twice the training size" in caplog.text and "4" in caplog.text


def test_a_transformer_is_refused():
    model = load_family("miniature-sd3", device="cpu")
    with pytest.raises(UserError, match="asks a UNet with and without the prompt"):
        ElasticDiffusion(model).generate([request()])


BAD = {
    "too small": (["--height", "64", "--width", "64"], "smaller than what the model was trained on"),
    "too low": (["--height", "32", "--width", "256"], "smaller than what the model was trained on"),
    "no whole latent": (["--height", "130"], "multiple of 8"),
    "rescaling": (["--guidance-rescale", "0.5"], "rescales nothing"),
    "along": (["--along", "a pine: 0-0.5; a gate: 0.5-1"], "which has no parts"),
    "share": (["--elasticdiffusion.new-share", "1.5"], "new.share"),
    "resampling": (["--elasticdiffusion.resampling", "-1"], "resampling"),
    "weight": (["--elasticdiffusion.reference-weight", "nan"], "reference.weight"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_before_anything_loads(name, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(LOADING, lambda *_: pytest.fail("weights were read"))
    options, said = BAD[name]
    out = ["--out", tmp_path / "x.png", "--method", "elasticdiffusion"]
    prompt = [] if "--along" in options else ["a castle"]
    assert run(*prompt, *out, *options) == 2
    error = capsys.readouterr().err
    assert re.search(said, error), error


def test_the_shipped_models_say_how_large_they_were_trained():
    assert MODELS["miniature"].window == 128 and MODELS["sdxl"].window == 1024

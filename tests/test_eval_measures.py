"""The measures of coherence on pictures whose faults are drawn: counts, maps, frames, palettes, plans."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from drspo.errors import UserError
from eval.controls import objects, pictures
from eval.controls.drawn import drawn
from eval.metrics.border import BorderFrame
from eval.metrics.fidelity import fidelity
from eval.metrics.peers import IntraLpips, IntraStyle
from eval.metrics.style import Style
from eval.metrics.surplus import SurplusObjects, glow, heat_map, repeated_things

SURPLUS = SurplusObjects()
SCENE = drawn(91_000_008)  # a pine at noon on a meadow, under a clear sky


def count(image):
    return SURPLUS.score([Image.fromarray(image)], [""])[0]


def pines(number):
    """The scene with `number` more pines, at set places."""
    from eval.controls.drawn import put

    image = SCENE.clean
    for x in (60, 210, 460)[:number]:
        image = put(image, SCENE.sprite, (x, SCENE.subject_at[1]))
    return image


def test_n_copies_of_a_thing_count_n_less_one():
    assert count(SCENE.clean) < 0.1
    for number in (1, 2, 3):
        assert count(pines(number)) == pytest.approx(number, abs=0.3)


def test_a_flat_picture_and_a_narrow_one_hold_nothing_twice():
    assert count(np.full((128, 512, 3), 90, np.uint8)) == 0.0
    assert count(np.zeros((128, 100, 3), np.uint8)) == 0.0


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10_000), st.booleans())
def test_turning_or_mirroring_the_scroll_keeps_the_count(seed, tall):
    image = objects.copies(drawn(91_000_000 + seed % 40), np.random.default_rng(seed), 1)
    if image is None:
        return
    other = image.transpose(1, 0, 2) if tall else image[:, ::-1]
    assert count(np.ascontiguousarray(other)) == pytest.approx(count(image), abs=0.15 if not tall else 1e-4)


def test_the_size_of_the_scroll_hardly_matters():
    large = Image.fromarray(pines(2)).resize((2048, 512), Image.Resampling.BICUBIC)
    assert SURPLUS.score([large], [""])[0] == pytest.approx(count(pines(2)), abs=0.2)


def test_the_heat_map_glows_where_a_thing_stands_twice_and_nowhere_else():
    hot, dark = heat_map(Image.fromarray(pines(3))), heat_map(SCENE.clean)
    assert hot.shape == (128, 512) and hot.dtype == np.float32 and 0 <= hot.min() <= hot.max() <= 1
    y = int(SCENE.subject_at[1] - 20)
    assert hot[y, 200:220].mean() > 0.3 > 0.05 > dark[y, 200:220].mean()
    assert np.abs(hot - dark)[:, 300:330].max() < 0.1  # between the trees
    painted = np.asarray(glow(SCENE.clean, hot)).max(axis=2)
    assert painted[y, 200:220].mean() > 120 > painted[y, 300:330].mean()


def test_repeated_things_are_boxed_where_they_stand_also_in_a_tall_picture():
    found = repeated_things(pines(3))
    assert [round(one.others) for one in found] == [3] * 4
    turned = repeated_things(np.ascontiguousarray(pines(3).transpose(1, 0, 2)))
    assert [one.box for one in turned] == sorted((b, a, d, c) for a, b, c, d in (one.box for one in found))
    assert heat_map(pines(3).transpose(1, 0, 2)).shape == (512, 128)
    assert repeated_things(SCENE.clean) == []


def test_a_frame_is_measured_in_heights_and_a_clear_sky_is_none():
    rng = np.random.default_rng(0)
    framed = [Image.fromarray(pictures.frame(SCENE, rng, share)) for share in (0.03, 0.08)]
    shares = BorderFrame().score([*framed, Image.fromarray(SCENE.clean)], [""] * 3)
    assert shares == pytest.approx([0.03, 0.08, 0.0], abs=0.012)


def test_copies_have_no_style_dispersion_and_a_patchwork_has():
    rng = np.random.default_rng(0)
    tiles, patches = objects.tiles(SCENE, rng, False), pictures.palettes(SCENE, rng, 1)
    same, apart = Style().score([Image.fromarray(tiles), Image.fromarray(patches)], ["", ""])
    assert same < 0.5 < 5 < apart


def test_a_scroll_is_faithful_to_its_own_blueprint_and_not_to_another():
    own = np.asarray(Image.fromarray(SCENE.clean).resize((256, 64), Image.Resampling.BOX))
    assert fidelity(SCENE.clean, own) > 0.97
    assert fidelity(drawn(91_000_003).clean, own) < 0.6
    with pytest.raises(UserError, match="another aspect"):
        fidelity(SCENE.clean, own[:, :128])


class Colours(torch.nn.Module):
    """A network whose distance of two pictures is that of their mean colours."""

    def forward(self, one, two):
        return (one.mean((2, 3)) - two.mean((2, 3))).abs().sum()


def test_the_peers_measures_call_four_copies_perfect():
    copies = Image.fromarray(np.tile(SCENE.clean[:, :128], (1, 4, 1)))
    scene = Image.fromarray(SCENE.clean)
    lpips, style = IntraLpips(device="cpu", side=64), IntraStyle(device="cpu", side=64)
    lpips._network = Colours()
    torch.manual_seed(0)
    style._network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU())
    for peer in (lpips, style):
        repeated, whole = peer.score([copies, scene], ["", ""])
        assert repeated == pytest.approx(0, abs=1e-6) and whole > 1e-5
        assert np.isnan(peer.score([scene.crop((0, 0, 128, 128))], [""])[0])

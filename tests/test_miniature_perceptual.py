"""The shipped perceptual network puts drawn changes in the order in which they were drawn."""

import json

import numpy as np
import pytest
import torch

from generate.models.specs import MODELS
from miniature.fit_perceptual import KINDS, changed, ordered_share, write_perceptual
from miniature.paint import paint
from miniature.perceptual import FOLDER, PerceptualNet, load_perceptual
from miniature.pictures import FRESH_SEED, to_tensor
from miniature.scene import sample_scene


@pytest.fixture(scope="module")
def net():
    return load_perceptual()


def test_fresh_changes_lie_in_the_drawn_order(net):
    assert ordered_share(net, 10 * len(KINDS)) >= 0.9


@pytest.mark.parametrize("kind", ["blur", "noise", "shift", "patch"])
def test_more_of_one_change_is_farther(net, kind):
    assert ordered_share(net, 20, (kind,)) >= 0.9


def test_a_picture_is_at_no_distance_from_itself_and_order_does_not_matter(net):
    one, other = (to_tensor(paint(sample_scene(FRESH_SEED + n, 128, 128))[None]) for n in (1, 2))
    assert net(one, one).item() == pytest.approx(0, abs=1e-9)
    assert (
        net(one, other).item() == pytest.approx(net(other, one).item(), rel=1e-5) and net(one, other) > 0.01
    )


def test_following_its_gradient_brings_a_picture_nearer(net):
    scene = sample_scene(FRESH_SEED + 5, 128, 128)
    blurred, _ = changed(scene, paint(scene), "blur", np.random.default_rng(0))
    target, picture = to_tensor(paint(scene)[None]), to_tensor(blurred[None]).requires_grad_(True)
    before = net(picture, target).sum()
    (gradient,) = torch.autograd.grad(before, picture)
    assert torch.isfinite(gradient).all() and gradient.abs().max() > 0
    assert net(picture - 0.5 * gradient / gradient.abs().max() * 0.1, target).item() < before.item()


def test_any_size_and_batch_goes_through(net):
    assert net(torch.zeros(3, 3, 64, 192), torch.ones(3, 3, 64, 192)).shape == (3,)


def test_the_folder_is_small_and_named_by_the_models_it_belongs_to(net, tmp_path):
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 1e6
    for model in ("miniature", "miniature-sd3"):
        assert MODELS[model].perceptual == "package:miniature/weights/perceptual"
    write_perceptual(net, tmp_path)
    written = load_perceptual(tmp_path)
    assert isinstance(written, PerceptualNet)
    settings = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(settings | {"_class_name": "LPIPS"}))
    with pytest.raises(ValueError, match="LPIPS"):
        load_perceptual(tmp_path)

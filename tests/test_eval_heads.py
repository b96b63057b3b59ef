"""Aesthetic heads of LAION's layouts, read safely and computed in float64."""

import numpy as np
import pytest
import torch

from drspo.errors import UserError
from eval.backbones.heads import backbone_of_file, check_fit, load_head, parse_layers


def random_mlp(indices, in_dim=8):
    widths = [in_dim, 1024, 128, 64, 16, 1]
    generator = torch.Generator().manual_seed(0)
    return {
        f"layers.{index}.{part}": torch.randn(
            (widths[n + 1], widths[n]) if part == "weight" else (widths[n + 1],), generator=generator
        )
        for n, index in enumerate(indices)
        for part in ("weight", "bias")
    }


@pytest.mark.parametrize(("indices", "relu"), [((0, 2, 4, 6, 7), False), ((0, 3, 6, 9, 11), True)])
def test_the_layer_indices_tell_the_activation(tmp_path, indices, relu):
    state = random_mlp(indices)
    torch.save(state, tmp_path / "head.pth")
    head = load_head(str(tmp_path / "head.pth"))
    x = torch.randn(5, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    value = x
    for n, index in enumerate(indices):
        value = value @ state[f"layers.{index}.weight"].double().T + state[f"layers.{index}.bias"].double()
        value = value.relu() if relu and n < 4 else value
    assert head.relu is relu
    assert np.allclose(head(x.numpy()), value[:, 0].numpy(), rtol=1e-9)


def random_linear(in_dim=8):
    generator = torch.Generator().manual_seed(0)
    return {
        "weight": torch.randn((1, in_dim), generator=generator),
        "bias": torch.randn(1, generator=generator),
    }


@pytest.mark.parametrize("state", [random_linear(), random_mlp((0, 2, 4, 6, 7))], ids=["linear", "mlp"])
def test_a_head_without_activation_collapses_to_one_affine_map(tmp_path, state):
    torch.save(state, tmp_path / "head.pth")
    head = load_head(str(tmp_path / "head.pth"))
    x = np.random.default_rng(1).normal(size=(5, 8))
    weight, bias = head.affine()
    assert np.allclose(x @ weight + bias, head(x), rtol=1e-9)


@pytest.mark.network
def test_the_published_head_is_the_affine_map_that_was_measured():
    """Its layers multiplied in float64, without our code, gave this map."""
    weight, bias = load_head("laion-v2-linear").affine()
    assert bias == pytest.approx(5.236645844819847, abs=1e-6)
    assert np.linalg.norm(weight) == pytest.approx(17.995624776433647, abs=1e-6)
    assert np.allclose(weight[:3], [-0.6915934442661988, -0.5569938671797479, -0.3211685218551614], atol=1e-6)


def test_a_file_of_another_layout_is_refused_by_name():
    with pytest.raises(UserError, match="not an aesthetic head"):
        parse_layers({"fc.weight": np.zeros((1, 4)), "fc.bias": np.zeros(1)}, "x.pth")


def test_a_pickle_with_code_in_it_is_not_executed(tmp_path):
    class Boom:
        def __reduce__(self):
            return (open, (str(tmp_path / "executed"), "w"))

    torch.save({"weight": Boom()}, tmp_path / "evil.pth")
    with pytest.raises(UserError, match="cannot read"):
        load_head(str(tmp_path / "evil.pth"))
    assert not (tmp_path / "executed").exists()


def test_a_file_swapped_for_the_published_head_is_refused(tmp_path, monkeypatch):
    torch.save(random_mlp((0, 2, 4, 6, 7)), tmp_path / "head.pth")
    monkeypatch.setattr("eval.backbones.heads._download", lambda name, spec: tmp_path / "head.pth")
    with pytest.raises(UserError, match="not the published one"):
        load_head("laion-v2-linear")


def test_a_head_of_another_backbone_is_refused_even_when_the_sizes_agree(tmp_path):
    torch.save(
        {"weight": torch.zeros(1, 512), "bias": torch.zeros(1)}, tmp_path / "sa_0_4_vit_b_16_linear.pth"
    )
    head = load_head(str(tmp_path / "sa_0_4_vit_b_16_linear.pth"))
    check_fit(head, 512, "vit_b_16", "openai-vit-b-16")
    with pytest.raises(UserError, match="does not fit"):
        check_fit(head, 512, "vit_b_32", "openai-vit-b-32")
    with pytest.raises(UserError, match="does not fit"):
        check_fit(head, 768, "vit_l_14", "openai-vit-l-14")


@pytest.mark.parametrize(
    ("file", "backbone"),
    [("sa_0_4_vit_b_32_linear.pth", "vit_b_32"), ("ava+logos-l14-reluMSE.pth", "vit_l_14"), ("mine.pth", "")],
)
def test_file_names_give_their_backbone_away(file, backbone):
    assert backbone_of_file(file) == backbone

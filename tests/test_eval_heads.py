"""Aesthetic heads of LAION's layouts, read safely and computed in float64."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from drspo.errors import UserError
from eval.backbones.clip_open import describe
from eval.backbones.files import Found
from eval.backbones.heads import Weights, check_fit, load_head, parse_layers, weights_of_file


def affine(head):
    """The weight vector and bias that a head without activation collapses to."""
    bias = head(np.zeros((1, head.in_dim)))[0]
    return head(np.eye(head.in_dim)) - bias, bias


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
def test_a_head_without_activation_is_one_affine_map(tmp_path, state):
    torch.save(state, tmp_path / "head.pth")
    head = load_head(str(tmp_path / "head.pth"))
    x = np.random.default_rng(1).normal(size=(5, 8))
    weight, bias = affine(head)
    assert np.allclose(x @ weight + bias, head(x), rtol=1e-9)


@pytest.mark.network
def test_the_published_head_is_the_affine_map_that_was_measured():
    """Its layers multiplied in float64, without our code, gave this map."""
    weight, bias = affine(load_head("laion-v2-linear"))
    assert bias == pytest.approx(5.236645844819847, abs=1e-6)
    assert np.linalg.norm(weight) == pytest.approx(17.995624776433647, abs=1e-6)
    assert np.allclose(weight[:3], [-0.6915934442661988, -0.5569938671797479, -0.3211685218551614], atol=1e-6)


def plain(widths=(4, 1024, 128, 64, 16, 1)):
    return {
        f"{layer}.{part}": np.zeros((after, before) if part == "weight" else after)
        for layer, before, after in zip((0, 2, 4, 6, 7), widths, widths[1:])
        for part in ("weight", "bias")
    }


def spoiled(name, value):
    return {**plain(), name: value}


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({"fc.weight": np.zeros((1, 4)), "fc.bias": np.zeros(1)}, "not an aesthetic head"),
        ({}, "not an aesthetic head"),
        ({"weight": np.full((1, 4), np.nan), "bias": np.zeros(1)}, "NaN"),
        (spoiled("4.bias", np.full(64, np.inf)), "layer 2 .* NaN or infinity"),
        ({"weight": np.zeros((2, 4)), "bias": np.zeros(2)}, "gives 2 numbers"),
        (plain((4, 1024, 128, 64, 16, 3)), "gives 3 numbers"),
        (spoiled("2.weight", np.zeros((128, 512))), "do not chain: layer 1 reads 512"),
        (spoiled("6.bias", np.zeros(15)), "layer 3 .* no linear layer"),
        ({"weight": np.zeros(4), "bias": np.zeros(1)}, "no linear layer"),
    ],
)
def test_a_head_that_is_none_is_refused_by_name(tensors, said):
    with pytest.raises(UserError, match=said):
        parse_layers(tensors, "x.pth")


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
    monkeypatch.setattr("eval.backbones.heads.find", lambda *a, **k: Found("x", tmp_path / "head.pth"))
    with pytest.raises(UserError, match="not the published one"):
        load_head("laion-v2-linear")


def backbone(tmp_path, architecture, name="weights.safetensors", tag=""):
    """A CLIP of a known architecture whose weights file is any file: nothing is loaded."""
    (tmp_path / name).write_bytes(name.encode())
    return replace(describe(f"{architecture}:{tmp_path / name}"), tag=tag)


def linear_head(tmp_path, file, dim):
    torch.save({"weight": torch.zeros(1, dim), "bias": torch.zeros(1)}, tmp_path / file)
    return load_head(str(tmp_path / file))


def test_a_head_of_another_tower_is_refused_even_when_the_sizes_agree(tmp_path):
    head = linear_head(tmp_path, "sa_0_4_vit_b_16_linear.pth", 512)
    check_fit(head, backbone(tmp_path, "ViT-B-16", tag="openai"))
    with pytest.raises(UserError, match="does not fit"):
        check_fit(head, backbone(tmp_path, "ViT-B-32", tag="openai"))
    with pytest.raises(UserError, match="reads 512 values, these give 768"):
        check_fit(head, backbone(tmp_path, "ViT-L-14", tag="openai"))


def test_a_head_knows_its_weights_under_any_name_and_refuses_others_of_the_same_tower(tmp_path, caplog):
    head = linear_head(tmp_path, "sa_0_4_vit_l_14_linear.pth", 768)
    for spelled in ("ViT-L-14", "ViT-L-14-quickgelu"):
        check_fit(head, backbone(tmp_path, spelled, tag="openai"))
    assert not caplog.records
    with pytest.raises(UserError, match="laion2b_s32b_b82k"):
        check_fit(head, backbone(tmp_path, "ViT-L-14", tag="laion2b_s32b_b82k"))
    check_fit(head, backbone(tmp_path, "ViT-L-14", "my-copy.safetensors"))
    assert "my-copy.safetensors" in caplog.text and "cannot be told" in caplog.text


def test_the_miniatures_head_follows_its_clip_into_another_folder_and_no_other_clip(tmp_path, caplog):
    head, own = load_head("miniature"), describe("miniature")
    copy = shutil.copytree(own.weights.path.parent, tmp_path / "somewhere")
    check_fit(head, describe(str(copy)))
    assert not caplog.records
    with (copy / "open_clip_model.safetensors").open("ab") as file:
        file.write(b"another")
    with pytest.raises(UserError, match="does not fit"):
        check_fit(head, describe(str(copy)))


@pytest.mark.parametrize(
    ("file", "weights"),
    [
        ("sa_0_4_vit_b_32_linear.pth", Weights("ViT-B-32", "openai")),
        ("ava+logos-l14-reluMSE.pth", Weights("ViT-L-14", "openai")),
        ("mine.pth", Weights()),
    ],
)
def test_file_names_give_their_weights_away(file, weights):
    assert weights_of_file(file) == weights

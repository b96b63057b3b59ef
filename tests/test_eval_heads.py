"""LAION's heads, against float64 results of the real files."""

import json

import numpy as np
import pytest
import torch

from drspo.errors import UserError
from eval.backbones.heads import backbone_of_file, check_fit, load_head, parse_layers

HEADS = ["sa_0_4_vit_l_14_linear.pth", "sac+logos+ava1-l14-linearMSE.pth"]


@pytest.fixture(scope="module")
def expected(golden):
    return json.loads((golden / "metrics" / "laion_heads_expected.json").read_text())["heads"]


@pytest.fixture(scope="module")
def embeddings(golden):
    folder = golden / "metrics" / "vit_l_14_embeddings"
    rows = np.concatenate([np.load(folder / f"rating{n}.npy").reshape(1, -1) for n in range(10)])
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize("file", HEADS)
def test_real_heads_give_the_published_scores(golden, expected, embeddings, file):
    scores = load_head(str(golden / "metrics" / file))(embeddings)
    assert np.allclose(scores, expected[file]["scores_rating0_to_9"], atol=1e-4)
    assert np.all(np.diff(scores) > 0)


@pytest.mark.parametrize("file", HEADS)
def test_a_head_without_activation_collapses_to_one_affine_map(golden, expected, embeddings, file):
    head = load_head(str(golden / "metrics" / file))
    weight, bias = head.affine()
    assert np.allclose(embeddings @ weight + bias, head(embeddings), atol=1e-9)
    assert bias == pytest.approx(expected[file]["collapsed_affine"]["bias"], abs=1e-6)


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

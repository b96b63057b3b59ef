"""ImageReward on transformers' BLIP, against the published layout written out in plain matrix products."""

import json
import math
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch.nn import functional

from drspo.errors import UserError
from eval.backbones.views import official
from eval.metrics.image_reward import MEAN, STD, ImageReward, RewardNetwork, load_network, read_sizes
from miniature.layouts import bert_vocabulary

WORDS = bert_vocabulary()
ROWS = len(WORDS) + 2


def published(width=128, hidden=128, layers=2, text_layers=2, words=ROWS, patch=8, grid=4, inner=96):
    """{name: shape} of the published file's tensors at these sizes."""
    shapes = {"cls_token": (1, 1, width), "pos_embed": (1, grid * grid + 1, width), "norm.weight": (width,),
              "norm.bias": (width,), "patch_embed.proj.weight": (width, 3, patch, patch),
              "patch_embed.proj.bias": (width,)}  # fmt: skip
    for layer in range(layers):
        for name, shape in {
            "norm1": (width,), "norm2": (width,), "attn.qkv": (3 * width, width), "attn.proj": (width, width),
            "mlp.fc1": (inner, width), "mlp.fc2": (width, inner),
        }.items():  # fmt: skip
            shapes |= {f"blocks.{layer}.{name}.weight": shape, f"blocks.{layer}.{name}.bias": shape[:1]}
    found = {f"blip.visual_encoder.{name}": shape for name, shape in shapes.items()}
    text = {"embeddings.word_embeddings.weight": (words, hidden), "embeddings.position_ids": (1, 512),
            "embeddings.position_embeddings.weight": (512, hidden),
            "embeddings.LayerNorm.weight": (hidden,), "embeddings.LayerNorm.bias": (hidden,)}  # fmt: skip
    for layer in range(text_layers):
        parts = {"intermediate.dense": (4 * hidden, hidden), "output.dense": (hidden, 4 * hidden),
                 "output.LayerNorm": (hidden,)}  # fmt: skip
        for kind, source in (("attention", hidden), ("crossattention", width)):
            parts |= {f"{kind}.self.query": (hidden, hidden), f"{kind}.self.key": (hidden, source),
                      f"{kind}.self.value": (hidden, source), f"{kind}.output.dense": (hidden, hidden),
                      f"{kind}.output.LayerNorm": (hidden,)}  # fmt: skip
        for name, shape in parts.items():
            stem = f"encoder.layer.{layer}.{name}"
            text |= {f"{stem}.weight": shape, f"{stem}.bias": shape[:1]}
    found |= {f"blip.text_encoder.{name}": shape for name, shape in text.items()}
    found |= {"blip.vision_proj.weight": (256, width), "blip.text_proj.weight": (256, hidden)}
    sizes = (hidden, 1024, 128, 64, 16, 1)
    for layer, before, after in zip((0, 2, 4, 6, 7), sizes, sizes[1:]):
        found |= {f"mlp.layers.{layer}.weight": (after, before), f"mlp.layers.{layer}.bias": (after,)}
    return found


def random_state(**sizes):
    draw = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=draw) * 0.1 for name, shape in published(**sizes).items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reward")
    save_file(random_state(), folder / "ImageReward.safetensors")
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    return folder


class Plain:
    """The published file's arithmetic, with the names that stand in the file and no class."""

    def __init__(self, state):
        self.state = state

    def linear(self, x, name):
        return x @ self.state[f"{name}.weight"].T + self.state[f"{name}.bias"]

    def norm(self, x, name, eps):
        return functional.layer_norm(
            x, x.shape[-1:], self.state[f"{name}.weight"], self.state[f"{name}.bias"], eps
        )

    def attend(self, q, k, v, heads):
        q, k, v = (part.unflatten(-1, (heads, -1)).transpose(0, 1) for part in (q, k, v))
        weights = (q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])).softmax(-1)
        return (weights @ v).transpose(0, 1).flatten(1)

    def see(self, pixels, prefix="blip.visual_encoder."):
        state = self.state
        patches = functional.conv2d(
            pixels[None], state[f"{prefix}patch_embed.proj.weight"], state[f"{prefix}patch_embed.proj.bias"],
            stride=state[f"{prefix}patch_embed.proj.weight"].shape[-1],
        )  # fmt: skip
        x = torch.cat([state[f"{prefix}cls_token"][0], patches[0].flatten(1).T])
        x = x + state[f"{prefix}pos_embed"][0]
        for layer in range(2):
            stem = f"{prefix}blocks.{layer}."
            q, k, v = self.linear(self.norm(x, f"{stem}norm1", 1e-6), f"{stem}attn.qkv").chunk(3, dim=-1)
            x = x + self.linear(self.attend(q, k, v, x.shape[1] // 64), f"{stem}attn.proj")
            inner = functional.gelu(self.linear(self.norm(x, f"{stem}norm2", 1e-6), f"{stem}mlp.fc1"))
            x = x + self.linear(inner, f"{stem}mlp.fc2")
        return self.norm(x, f"{prefix}norm", 1e-6)

    def reward(self, pixels, ids, prefix="blip.text_encoder."):
        seen, state = self.see(pixels), self.state
        x = state[f"{prefix}embeddings.word_embeddings.weight"][ids]
        x = x + state[f"{prefix}embeddings.position_embeddings.weight"][: len(ids)]
        x = self.norm(x, f"{prefix}embeddings.LayerNorm", 1e-12)
        for layer in range(2):
            stem = f"{prefix}encoder.layer.{layer}."
            for kind in ("attention", "crossattention"):
                source = x if kind == "attention" else seen
                q = self.linear(x, f"{stem}{kind}.self.query")
                k, v = (self.linear(source, f"{stem}{kind}.self.{part}") for part in ("key", "value"))
                mixed = self.linear(self.attend(q, k, v, x.shape[1] // 64), f"{stem}{kind}.output.dense")
                x = self.norm(x + mixed, f"{stem}{kind}.output.LayerNorm", 1e-12)
            inner = functional.gelu(self.linear(x, f"{stem}intermediate.dense"))
            x = self.norm(x + self.linear(inner, f"{stem}output.dense"), f"{stem}output.LayerNorm", 1e-12)
        value = x[0]
        for layer in (0, 2, 4, 6, 7):
            value = self.linear(value, f"mlp.layers.{layer}")
        return float((value[0] - MEAN) / STD)


PICTURES = [
    Image.fromarray(np.random.default_rng(n).integers(0, 255, (40, 160, 3), np.uint8)) for n in range(3)
]
PROMPTS = ["a castle at dusk", "a lone pine in the snow", "the sea"]


def test_the_reward_is_the_published_files_arithmetic(folder):
    scorer, plain = ImageReward(str(folder), device="cpu"), Plain(random_state())
    found = scorer.score(PICTURES, PROMPTS)
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711])
    for image, prompt, value in zip(PICTURES, PROMPTS, found, strict=True):
        pixels = torch.from_numpy(np.asarray(official(image, 32), np.float32) / 255)
        ids = scorer.tokenizer(prompt)["input_ids"]  # no padding: the mask must make it vanish
        assert value == pytest.approx(plain.reward(((pixels - mean) / std).permute(2, 0, 1), ids), abs=1e-4)
    assert len(set(np.round(found, 4))) == 3


def test_a_batch_scores_as_singles_do_under_every_view(folder):
    for view in ("official", "letterbox", "squash", "windows"):
        together = ImageReward(str(folder), view=view, device="cpu").score(PICTURES, PROMPTS)
        alone = ImageReward(str(folder), view=view, device="cpu", batch_size=1)
        singles = [alone.score([image], [text])[0] for image, text in zip(PICTURES, PROMPTS, strict=True)]
        assert together == pytest.approx(singles, abs=1e-4)


def test_every_tensor_of_the_full_size_file_has_its_place():
    shapes = published(
        width=1024, hidden=768, layers=24, text_layers=12, words=30524, patch=16, grid=14, inner=4096
    )
    with torch.device("meta"):
        state = {name: torch.empty(shape) for name, shape in shapes.items()}
        network = load_network(state, "full size")
    sizes = read_sizes(state)
    assert sizes["vision"]["num_attention_heads"] == 16 and sizes["text"]["num_attention_heads"] == 12
    assert network.image_size == 224
    assert 440e6 < sum(value.numel() for value in network.parameters()) < 450e6


def test_the_number_of_heads_is_read_where_a_configuration_states_it(folder, tmp_path):
    state = random_state()
    assert read_sizes(state)["vision"]["num_attention_heads"] == 2
    assert read_sizes(state, {"vision": 4})["vision"]["num_attention_heads"] == 4
    shutil.copytree(folder, tmp_path / "four")
    (tmp_path / "four" / "med_config.json").write_text(json.dumps({"vision_num_attention_heads": 4}))
    two, four = (ImageReward(str(path), device="cpu") for path in (folder, tmp_path / "four"))
    assert abs(two.score(PICTURES[:1], PROMPTS[:1])[0] - four.score(PICTURES[:1], PROMPTS[:1])[0]) > 1e-6
    (tmp_path / "four" / "med_config.json").write_text("{")
    with pytest.raises(UserError, match="cannot read the text tower's configuration"):
        ImageReward(str(tmp_path / "four"), device="cpu").score(PICTURES[:1], PROMPTS[:1])


def test_a_prompt_is_cut_at_35_tokens_as_its_authors_cut_it_and_the_cut_is_said(folder, caplog):
    scorer = ImageReward(str(folder), device="cpu")
    long = " ".join(["castle"] * 33 + ["sea"] * 30)
    values = scorer.score(PICTURES[:1] * 2, [" ".join(["castle"] * 33), long])
    assert values[0] == pytest.approx(values[1], abs=1e-6)
    assert "image_reward reads 35 tokens" in caplog.text and "48 % is cut" in caplog.text
    longer = ImageReward(str(folder), tokens=128, device="cpu").score(PICTURES[:1], [long])
    assert abs(longer[0] - values[1]) > 1e-6


@pytest.mark.parametrize("damage", ["mlp.layers.4.weight", "blip.visual_encoder.blocks.1.attn.qkv.bias"])
def test_a_file_that_lacks_a_tensor_is_refused_by_name(damage):
    state = random_state()
    del state[damage]
    with pytest.raises(UserError, match="not an ImageReward checkpoint"):
        load_network(state, "x.pt")


def test_a_file_with_an_unknown_tensor_is_refused_by_name():
    with pytest.raises(UserError, match="unknown tensor 'surprise'"):
        load_network({**random_state(), "surprise": torch.ones(1)}, "x.pt")


def test_the_network_is_loaded_late_and_freed(folder):
    scorer = ImageReward(str(folder), device="cpu")
    assert scorer._network is None
    scorer.score(PICTURES[:1], PROMPTS[:1])
    assert isinstance(scorer._network, RewardNetwork)
    scorer.release()
    assert scorer._network is None

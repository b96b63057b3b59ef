"""ImageReward (Xu et al. 2023): BLIP reads picture and prompt together, an MLP on [CLS] gives the reward.

Built on transformers' own BLIP. The published file names its tensors otherwise and carries no sizes: the
names are mapped, and every size is read off the shapes (heads are 64 wide, as in ViT-L and BERT, where no
configuration says otherwise). The prompt
is cut at 35 tokens, as the authors cut it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from PIL import Image
from torch import Tensor, nn

from drspo.errors import UserError
from drspo.registry import package_folder
from eval.backbones.embeddings import choose_device
from eval.backbones.files import find
from eval.backbones.views import RESIZE_PATH, check_view, shown
from eval.base import check_prompts
from eval.metrics.text_image import CropWarning, TextCut
from generate.models.quiet import quiet

REPOSITORY = "THUDM/ImageReward"
TOKENIZER = "bert-base-uncased"
FILES = ("ImageReward.pt", "ImageReward.safetensors", "model.safetensors")
MEAN, STD = 0.16717362830052426, 1.0333394966054072
"""What the authors' rewards were standardised with (ImageReward, section 4.1)."""
HEAD_WIDTH = 64
HEAD_KEYS = {"text": "num_attention_heads", "vision": "vision_num_attention_heads"}
NO_HEADS: Mapping[str, int] = {}
_VISION = {
    "cls_token": "embeddings.class_embedding",
    "pos_embed": "embeddings.position_embedding",
    "patch_embed.proj": "embeddings.patch_embedding",
    "norm": "post_layernorm",
}
_BLOCK = {
    "norm1": "layer_norm1",
    "norm2": "layer_norm2",
    "attn.qkv": "self_attn.qkv",
    "attn.proj": "self_attn.projection",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
_UNUSED = ("vision_proj.", "text_proj.", "itm_head.")


class ImageReward:
    """The reward of a picture for its prompt, about N(0, 1); `weights` is a Hub id, folder or file."""

    name = "image_reward"
    version = "1"
    unit = "reward, about N(0, 1)"
    higher_is_better = True
    needs_prompt = True

    def __init__(
        self,
        weights: str = REPOSITORY,
        tokenizer: str = TOKENIZER,
        view: str = "official",
        tokens: int = 35,
        device: str = "auto",
        batch_size: int = 16,
    ) -> None:
        check_view(view)
        if tokens < 3 or batch_size < 1:
            raise UserError("ImageReward needs at least 3 tokens and a batch of 1", "image_reward.tokens")
        self.view, self.text_limit, self.batch_size = view, tokens, batch_size
        self.device = choose_device(device)
        self.file = find(weights, FILES, self.name)
        self.checkpoint, self.revision = weights, self.file.revision
        self.heads = read_heads(self.file.path.parent)
        stated = f"+{self.heads['vision']}heads" if "vision" in self.heads else ""
        self.checkpoint_hash = f"{self.file.sha256[:16]}{stated}+{RESIZE_PATH}+{tokens}"
        self.tokenizer = _tokenizer(_own_vocabulary(weights) or tokenizer)
        self._network: RewardNetwork | None = None
        self._crop, self._cut = CropWarning(self.name, view), TextCut(self.name, tokens)

    @property
    def network(self) -> RewardNetwork:
        """The network, loaded by the first use."""
        if self._network is None:
            state = read_state(self.file.path)
            self._network = load_network(state, str(self.file.path), self.heads).to(self.device)
        return self._network

    def score(self, images: list[Image.Image], prompts: list[str]) -> list[float]:
        """One reward per image with its own prompt; windows are averaged."""
        check_prompts(prompts, self.name)
        self._crop.say(images)
        self._cut.say([len(self.tokenizer(prompt)["input_ids"]) for prompt in prompts])
        groups = [shown(image, self.view, self.network.image_size) for image in images]
        squares = [square for group in groups for square in group]
        texts = [prompt for group, prompt in zip(groups, prompts, strict=True) for _ in group]
        rewards = [
            self._rewards(squares[at : at + self.batch_size], texts[at : at + self.batch_size])
            for at in range(0, len(squares), self.batch_size)
        ]
        ends = np.cumsum([len(group) for group in groups])[:-1]
        joined = np.concatenate(rewards) if rewards else np.zeros(0)
        return [float(part.mean()) for part in np.split(joined, ends)] if groups else []

    def release(self) -> None:
        """Frees the network."""
        self._network = None

    @torch.no_grad()
    def _rewards(self, squares: list[Image.Image], texts: list[str]) -> np.ndarray:
        pixels = torch.from_numpy(np.stack([np.asarray(s, np.float32) for s in squares]) / 255.0)
        mean, std = torch.tensor(open_clip.OPENAI_DATASET_MEAN), torch.tensor(open_clip.OPENAI_DATASET_STD)
        shape = {"padding": "max_length", "truncation": True, "max_length": self.text_limit}
        tokens = self.tokenizer(texts, return_tensors="pt", **shape)
        raw = self.network(
            ((pixels - mean) / std).permute(0, 3, 1, 2).to(self.device),
            tokens["input_ids"].to(self.device),
            tokens["attention_mask"].to(self.device),
        )
        return ((raw - MEAN) / STD).double().cpu().numpy()


class RewardNetwork(nn.Module):
    """BLIP's vision tower, its text tower with cross-attention (bidirectional), and the MLP on [CLS]."""

    def __init__(self, state: dict[str, Tensor], heads: Mapping[str, int]) -> None:
        super().__init__()
        from transformers import BlipTextConfig, BlipVisionConfig
        from transformers.models.blip.modeling_blip import BlipVisionModel
        from transformers.models.blip.modeling_blip_text import BlipTextModel

        sizes = read_sizes(state, heads)
        self.image_size = sizes["vision"]["image_size"]
        self.vision = BlipVisionModel(BlipVisionConfig(**sizes["vision"]))
        self.text = BlipTextModel(BlipTextConfig(**sizes["text"]), add_pooling_layer=False)
        self.mlp = nn.Sequential(*(nn.Linear(narrow, wide) for wide, narrow in sizes["mlp"]))

    def forward(self, pixels: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """Raw rewards [n] of pixels [n, 3, side, side] with token ids and mask [n, tokens]."""
        seen = self.vision(pixel_values=pixels).last_hidden_state
        hidden = self.text(
            input_ids=ids,
            attention_mask=mask,
            encoder_hidden_states=seen,
            encoder_attention_mask=torch.ones(seen.shape[:2], dtype=torch.long, device=seen.device),
            is_decoder=False,
        ).last_hidden_state
        return self.mlp(hidden[:, 0].float())[:, 0]


def load_network(state: dict[str, Tensor], where: str, heads: Mapping[str, int] = NO_HEADS) -> RewardNetwork:
    """The network of a published state; UserError naming what does not fit."""
    try:
        network = RewardNetwork(state, heads)
        wanted = network.state_dict()
        mapped = {name: value.float() for key, value in state.items() if (name := mapped_name(key))}
        missing = [name for name in wanted if name not in mapped and not name.endswith("position_ids")]
        unknown = [name for name in mapped if name not in wanted]
        if missing or unknown:
            raise KeyError(f"missing {missing[:3]}, unknown {unknown[:3]}")
        network.load_state_dict(mapped, strict=False)
    except (KeyError, IndexError, RuntimeError, ValueError, StopIteration) as error:
        raise UserError("this is not an ImageReward checkpoint", where, str(error).splitlines()[0]) from error
    return network.eval().requires_grad_(False)


def mapped_name(key: str) -> str:
    """Our network's name of a published tensor; empty for those that take no part."""
    if key.startswith("blip.visual_encoder."):
        return "vision." + _vision_name(key.removeprefix("blip.visual_encoder."))
    if key.startswith("blip.text_encoder."):
        name = key.removeprefix("blip.text_encoder.")
        return "" if name == "embeddings.position_ids" else f"text.{name}"
    layer = re.fullmatch(r"mlp\.layers\.(\d+)\.(weight|bias)", key)
    if layer:
        return f"mlp.{MLP_LAYERS.index(int(layer[1]))}.{layer[2]}"
    if any(key.removeprefix("blip.").startswith(prefix) for prefix in _UNUSED):
        return ""
    raise KeyError(f"an unknown tensor {key!r}")


MLP_LAYERS = (0, 2, 4, 6, 7)
"""Indices of the linear layers in the published MLP (dropout stands between them, no activation)."""


def read_heads(folder: Path) -> dict[str, int]:
    """The numbers of attention heads that `med_config.json` beside the weights states, where it does."""
    try:
        config = json.loads((folder / "med_config.json").read_text(encoding="utf-8"))
        return {name: int(config[key]) for name, key in HEAD_KEYS.items() if key in config}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError) as error:
        raise UserError("image_reward: cannot read the text tower's configuration", str(folder)) from error


def read_sizes(state: dict[str, Tensor], heads: Mapping[str, int] = NO_HEADS) -> dict[str, Any]:
    """The configuration of both towers and the MLP's shapes, from the shapes of a published state.

    Shapes don't tell the number of heads: where `heads` doesn't either, each is 64 wide.
    """
    see, say = "blip.visual_encoder.", "blip.text_encoder."
    width, _, patch, _ = state[f"{see}patch_embed.proj.weight"].shape
    grid = round((state[f"{see}pos_embed"].shape[1] - 1) ** 0.5)
    hidden = state[f"{say}embeddings.word_embeddings.weight"].shape[1]
    first = f"{say}encoder.layer.0"
    return {
        "vision": {
            "hidden_size": width,
            "image_size": grid * patch,
            "patch_size": patch,
            "layer_norm_eps": 1e-6,
            "intermediate_size": state[f"{see}blocks.0.mlp.fc1.weight"].shape[0],
            "num_hidden_layers": _count(state, rf"{re.escape(see)}blocks\.(\d+)\."),
            "num_attention_heads": heads.get("vision", width // HEAD_WIDTH),
        },
        "text": {
            "vocab_size": state[f"{say}embeddings.word_embeddings.weight"].shape[0],
            "hidden_size": hidden,
            "encoder_hidden_size": width,
            "is_decoder": True,
            "layer_norm_eps": 1e-12,
            "intermediate_size": state[f"{first}.intermediate.dense.weight"].shape[0],
            "num_hidden_layers": _count(state, rf"{re.escape(say)}encoder\.layer\.(\d+)\."),
            "num_attention_heads": heads.get("text", hidden // HEAD_WIDTH),
            "bos_token_id": 0,
            "max_position_embeddings": state[f"{say}embeddings.position_embeddings.weight"].shape[0],
        },
        "mlp": [tuple(state[f"mlp.layers.{layer}.weight"].shape) for layer in MLP_LAYERS],
    }


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint file; no code in it is run."""
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        return dict(state.get("state_dict", state))
    except Exception as error:
        raise UserError("cannot read the weights of image_reward", str(path), f"({error})") from error


def _vision_name(name: str) -> str:
    block = re.fullmatch(r"blocks\.(\d+)\.(.+)\.(weight|bias)", name)
    if block:
        return f"encoder.layers.{block[1]}.{_BLOCK[block[2]]}.{block[3]}"
    if name in _VISION:
        return _VISION[name]
    stem, _, part = name.rpartition(".")
    return f"{_VISION[stem]}.{part}"


def _count(state: dict[str, Tensor], pattern: str) -> int:
    return 1 + max(int(found[1]) for name in state if (found := re.match(pattern, name)))


def _own_vocabulary(weights: str) -> str:
    """The folder of the weights when a BERT vocabulary lies beside them, else nothing."""
    folder = package_folder(weights) if weights.startswith("package:") else Path(weights).expanduser()
    folder = folder.parent if folder.is_file() else folder
    return str(folder / "vocab.txt") if (folder / "vocab.txt").is_file() else ""


def _tokenizer(source: str) -> Any:
    from transformers import AutoTokenizer, BertTokenizerFast

    quiet("transformers")
    try:
        if source.endswith("vocab.txt"):
            words = Path(source).read_text(encoding="utf-8").splitlines()
            return BertTokenizerFast(vocab={word: number for number, word in enumerate(words)})
        return AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except Exception as error:  # the Hub client and the readers share no class of errors
        raise UserError(
            "image_reward: cannot load the tokenizer",
            source,
            f"run: hf download {source} vocab.txt; or put vocab.txt beside the weights",
        ) from error

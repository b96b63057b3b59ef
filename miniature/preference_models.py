"""The small networks of `miniature.fit_preferences`: how each scores, and how it is written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    BertTokenizerFast,
    BlipTextConfig,
    BlipVisionConfig,
    CLIPConfig,
    CLIPModel,
    CLIPTokenizer,
)
from transformers.models.blip.modeling_blip import BlipVisionModel
from transformers.models.blip.modeling_blip_text import BlipTextModel

from miniature import captions as words
from miniature.scene import GROUNDS, SUBJECTS, TIMES, WEATHERS, Scene

MEAN = open_clip.OPENAI_DATASET_MEAN
STD = open_clip.OPENAI_DATASET_STD
CLIP_FOLDER = Path(__file__).parent / "weights" / "clip"
SIDE = 64
TOKENIZER_FILES = ("vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json")
_AXES = {"subject": SUBJECTS, "ground": GROUNDS, "time": TIMES, "weather": WEATHERS}


class HpsStandIn(nn.Module):
    """HPS v2's architecture: the miniature's CLIP, tuned whole on preferences; a cosine times its scale."""

    def __init__(self) -> None:
        super().__init__()
        config = json.loads((CLIP_FOLDER / "open_clip_config.json").read_text())
        self.clip = open_clip.CLIP(**config["model_cfg"])
        self.clip.load_state_dict(load_file(CLIP_FOLDER / "open_clip_model.safetensors"))
        self.clip.float()
        self.tokenizer = CLIPTokenizer.from_pretrained(CLIP_FOLDER)

    def forward(self, pixels: Tensor, texts: list[str]) -> Tensor:
        seen, said = self.clip.encode_image(pixels), self.clip.encode_text(clip_tokens(self.tokenizer, texts))
        return self.clip.logit_scale.exp() * unit(said) @ unit(seen).T

    def extra(self, scenes: list[Scene], beauty: Tensor) -> float:
        return 0.0

    def write(self, folder: Path) -> None:
        """open_clip's folder with CLIP's mean and spread."""
        folder.mkdir(parents=True, exist_ok=True)
        config = json.loads((CLIP_FOLDER / "open_clip_config.json").read_text())
        config["preprocess_cfg"] |= {"mean": list(MEAN), "std": list(STD), "resize_mode": "longest"}
        (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        copy_tokenizer(folder)
        write_half(self.clip.state_dict(), folder / "open_clip_model.safetensors")


class PickScoreStandIn(nn.Module):
    """PickScore's architecture: transformers' CLIPModel, begun from the miniature's CLIP."""

    def __init__(self) -> None:
        super().__init__()
        source = json.loads((CLIP_FOLDER / "open_clip_config.json").read_text())["model_cfg"]
        self.clip = CLIPModel(clip_config(source))
        state = clip_state(load_file(CLIP_FOLDER / "open_clip_model.safetensors"))
        self.clip.load_state_dict({name: value.float() for name, value in state.items()}, strict=True)
        self.tokenizer = CLIPTokenizer.from_pretrained(CLIP_FOLDER)

    def forward(self, pixels: Tensor, texts: list[str]) -> Tensor:
        clip, tokens = self.clip, clip_tokens(self.tokenizer, texts)
        seen = clip.visual_projection(clip.vision_model(pixel_values=pixels).pooler_output)
        said = clip.text_projection(clip.text_model(input_ids=tokens).pooler_output)
        return clip.logit_scale.exp() * unit(said) @ unit(seen).T

    def extra(self, scenes: list[Scene], beauty: Tensor) -> float:
        return 0.0

    def write(self, folder: Path) -> None:
        """transformers' folder with the tokenizer beside it."""
        folder.mkdir(parents=True, exist_ok=True)
        config = {**self.clip.config.to_dict(), "architectures": ["CLIPModel"], "dtype": "float32"}
        for part in (config, config["text_config"], config["vision_config"]):
            part.pop("_name_or_path", None)  # where it lay when it was made
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        copy_tokenizer(folder)
        write_half(self.clip.state_dict(), folder / "model.safetensors")


class ImageRewardStandIn(nn.Module):
    """ImageReward's architecture: BLIP's vision tower, a text tower that attends to it, an MLP on [CLS].

    The vision tower begins as the miniature's CLIP, as BLIP's began as a ViT trained on pictures before it.
    While it learns, probes on both towers name the scene's attributes: they stand for the captioning that
    BLIP was trained on before ImageReward, and are not written.
    """

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        self.vocabulary = bert_vocabulary()
        self.tokenizer = BertTokenizerFast(vocab={word: n for n, word in enumerate(self.vocabulary)})
        self.vision = BlipVisionModel(
            BlipVisionConfig(
                hidden_size=width,
                intermediate_size=2 * width,
                num_hidden_layers=4,
                num_attention_heads=4,
                image_size=64,
                patch_size=8,
                layer_norm_eps=1e-6,
            )
        )
        self.vision.load_state_dict(vision_state(load_file(CLIP_FOLDER / "open_clip_model.safetensors")))
        self.text_config = BlipTextConfig(
            vocab_size=len(self.vocabulary) + 2,
            hidden_size=width,
            encoder_hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=3,
            num_attention_heads=width // 64,
            max_position_embeddings=64,
            is_decoder=True,
            layer_norm_eps=1e-12,
            bos_token_id=2,
        )
        self.text = BlipTextModel(self.text_config, add_pooling_layer=False)
        self.mlp = nn.Sequential(
            nn.Linear(width, 1024),
            nn.Dropout(0.2),
            nn.Linear(1024, 128),
            nn.Dropout(0.2),
            nn.Linear(128, 64),
            nn.Dropout(0.1),
            nn.Linear(64, 16),
            nn.Linear(16, 1),
        )
        answers = sum(map(len, _AXES.values()))
        self.probes = nn.ModuleDict(
            {"seen": nn.Linear(width, answers + 1), "said": nn.Linear(width, answers)}
        )
        self._probed: tuple[Tensor, Tensor] | None = None

    def forward(self, pixels: Tensor, texts: list[str], shown: Tensor | None = None) -> Tensor:
        """Scores (texts x pictures), or of the pictures `shown` (texts x some) to each text."""
        seen = self.vision(pixel_values=pixels).last_hidden_state
        tokens = self.tokenizer(
            texts, padding="max_length", truncation=True, max_length=35, return_tensors="pt"
        )
        ids, mask = tokens.input_ids, tokens.attention_mask
        longest = int(mask.sum(1).max())  # padding is masked, so cutting it changes nothing but the time
        ids, mask = ids[:, :longest], mask[:, :longest]
        if shown is None:
            shown = torch.arange(len(pixels)).repeat(len(texts), 1)
        count, each = shown.shape
        hidden = self.text(
            input_ids=ids.repeat_interleave(each, 0),
            attention_mask=mask.repeat_interleave(each, 0),
            encoder_hidden_states=seen[shown.flatten()],
            is_decoder=False,
        ).last_hidden_state[:, 0]
        self._probed = (seen[:, 0], hidden.view(count, each, -1).mean(1))
        return self.mlp(hidden).view(count, each)

    def extra(self, scenes: list[Scene], beauty: Tensor) -> Tensor:
        """The probes' loss on the batch that `forward` has just seen."""
        assert self._probed is not None
        seen, said = self._probed
        logits, asked = self.probes["seen"](seen), self.probes["said"](said)
        loss = 0.1 * functional.mse_loss(logits[:, -1], beauty - 5)
        for values, count in ((logits[:, :-1], len(scenes)), (asked, len(said))):
            parts = values.split([len(choices) for choices in _AXES.values()], dim=1)
            for (name, choices), part in zip(_AXES.items(), parts, strict=True):
                target = torch.tensor([choices.index(getattr(scene, name)) for scene in scenes[:count]])
                loss = loss + 0.1 * functional.cross_entropy(part, target)
        return loss

    @torch.no_grad()
    def standardise(self, mean: float, spread: float) -> None:
        """Folds the mean and spread of fresh scores into the last layer, so that the published shift fits."""
        last = self.mlp[-1]
        factor = IMAGE_REWARD_STD / spread
        last.bias.copy_((last.bias - mean) * factor + IMAGE_REWARD_MEAN)
        last.weight.mul_(factor)

    def write(self, folder: Path) -> None:
        """The published file's layout, the text tower's configuration and the vocabulary."""
        folder.mkdir(parents=True, exist_ok=True)
        state = {f"blip.visual_encoder.{vision_name(k)}": v for k, v in self.vision.state_dict().items()}
        state |= {f"blip.text_encoder.{k}": v for k, v in self.text.state_dict().items()}
        state |= {f"mlp.layers.{k}": v for k, v in self.mlp.state_dict().items()}
        write_half(state, folder / "ImageReward.safetensors")
        config = {
            "architectures": ["BertModel"],
            "hidden_size": self.text_config.hidden_size,
            "num_hidden_layers": self.text_config.num_hidden_layers,
            "encoder_width": self.text_config.hidden_size,
            "num_attention_heads": self.text_config.num_attention_heads,
            "vision_num_attention_heads": self.vision.config.num_attention_heads,
            "layer_norm_eps": 1e-12,
        }
        (folder / "med_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        (folder / "vocab.txt").write_text("\n".join(self.vocabulary) + "\n", encoding="utf-8")


IMAGE_REWARD_MEAN, IMAGE_REWARD_STD = 0.16717362830052426, 1.0333394966054072


def unit(vectors: Tensor) -> Tensor:
    """Rows of length one."""
    return functional.normalize(vectors, dim=-1)


def clip_tokens(tokenizer: Any, texts: list[str]) -> Tensor:
    """Token ids (count x 77)."""
    shape = {"padding": "max_length", "truncation": True, "max_length": 77}
    return tokenizer(texts, return_tensors="pt", **shape).input_ids


def clip_config(source: dict[str, Any]) -> CLIPConfig:
    """transformers' configuration for an open_clip `model_cfg` with GELU."""
    vision, text = source["vision_cfg"], source["text_cfg"]
    end = CLIPTokenizer.from_pretrained(CLIP_FOLDER).eos_token_id
    return CLIPConfig(
        projection_dim=source["embed_dim"],
        vision_config={
            "hidden_size": vision["width"],
            "intermediate_size": int(vision["width"] * vision["mlp_ratio"]),
            "num_hidden_layers": vision["layers"],
            "num_attention_heads": vision["width"] // vision["head_width"],
            "image_size": vision["image_size"],
            "patch_size": vision["patch_size"],
            "hidden_act": "gelu",
        },
        text_config={
            "hidden_size": text["width"],
            "intermediate_size": 4 * text["width"],
            "hidden_act": "gelu",
            "num_hidden_layers": text["layers"],
            "num_attention_heads": text["heads"],
            "vocab_size": text["vocab_size"],
            "eos_token_id": end,
            "bos_token_id": end - 1,
            "pad_token_id": end,
        },
    )


def clip_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """open_clip's tensors under transformers' names."""
    renamed = {
        "logit_scale": state["logit_scale"],
        "text_model.embeddings.token_embedding.weight": state["token_embedding.weight"],
        "text_model.embeddings.position_embedding.weight": state["positional_embedding"],
        "text_projection.weight": state["text_projection"].T,
        "visual_projection.weight": state["visual.proj"].T,
        "vision_model.embeddings.class_embedding": state["visual.class_embedding"],
        "vision_model.embeddings.position_embedding.weight": state["visual.positional_embedding"],
        "vision_model.embeddings.patch_embedding.weight": state["visual.conv1.weight"],
    }
    norms = {
        "ln_final": "text_model.final_layer_norm",
        "visual.ln_pre": "vision_model.pre_layrnorm",
        "visual.ln_post": "vision_model.post_layernorm",
    }
    for old, new in norms.items():
        renamed |= {f"{new}.{part}": state[f"{old}.{part}"] for part in ("weight", "bias")}
    for name, value in state.items():
        if ".resblocks." in name or name.startswith("transformer.resblocks."):
            renamed |= _block(name, value)
    return {name: value.contiguous() for name, value in renamed.items()}


def _block(name: str, value: Tensor) -> dict[str, Tensor]:
    tower = "vision_model" if name.startswith("visual.") else "text_model"
    number, _, rest = name.partition("resblocks.")[2].partition(".")
    layer = f"{tower}.encoder.layers.{number}"
    part = rest.rpartition(".")[2]
    if rest.startswith("attn.in_proj_"):
        kind = rest.removeprefix("attn.in_proj_")
        return {f"{layer}.self_attn.{n}_proj.{kind}": v for n, v in zip("qkv", value.chunk(3), strict=True)}
    places = {
        "attn.out_proj": "self_attn.out_proj",
        "ln_1": "layer_norm1",
        "ln_2": "layer_norm2",
        "mlp.c_fc": "mlp.fc1",
        "mlp.c_proj": "mlp.fc2",
    }
    return {f"{layer}.{places[rest.removesuffix('.' + part)]}.{part}": value}


def vision_state(clip: dict[str, Tensor]) -> dict[str, Tensor]:
    """The miniature's CLIP as BLIP's vision tower, which normalises no tokens before its first block.

    Pixels are CLIP's own in BLIP, so the patch embedding takes over the difference. The missing norm is
    folded in with one spread for all tokens, that of noise; the fit mends the rest.
    """
    state = {name.removeprefix("visual."): value.float() for name, value in clip.items() if "visual." in name}
    shift = (torch.tensor(MEAN) - 0.5) / 0.5
    kernel = state["conv1.weight"]
    bias = (kernel * shift[:, None, None]).sum((1, 2, 3))
    kernel = kernel * (torch.tensor(STD) / 0.5)[:, None, None]
    places = state["positional_embedding"].clone()
    places[0] += state["class_embedding"]
    centred = [value - value.mean(dim) for value, dim in ((kernel, 0), (bias, 0))]
    places = places - places.mean(1, keepdim=True)
    scale, offset = state["ln_pre.weight"], state["ln_pre.bias"]
    noise = torch.randn(16, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    smooth = functional.avg_pool2d(noise, 8).repeat_interleave(8, 2).repeat_interleave(8, 3) * 8
    tokens = functional.conv2d(smooth, *centred, stride=kernel.shape[-1]).flatten(2).transpose(1, 2)
    spread = (tokens + places[1:]).std(-1).mean()
    places[0] *= spread / places[0].std()
    found = {
        "embeddings.class_embedding": torch.zeros(1, 1, len(scale)),
        "embeddings.position_embedding": (places * scale / spread + offset)[None],
        "embeddings.patch_embedding.weight": centred[0] * (scale / spread)[:, None, None, None],
        "embeddings.patch_embedding.bias": centred[1] * scale / spread,
        "post_layernorm.weight": state["ln_post.weight"],
        "post_layernorm.bias": state["ln_post.bias"],
    }
    names = {
        "ln_1": "layer_norm1",
        "ln_2": "layer_norm2",
        "attn.in_proj_": "self_attn.qkv.",
        "attn.out_proj": "self_attn.projection",
        "mlp.c_fc": "mlp.fc1",
        "mlp.c_proj": "mlp.fc2",
        "transformer.resblocks": "encoder.layers",
    }
    for name, value in state.items():
        if name.startswith("transformer."):
            for old, new in names.items():
                name = name.replace(old, new)
            found[name] = value
    return found


def vision_name(name: str) -> str:
    """transformers' name of a tensor of BLIP's vision tower in the published file."""
    for new, old in {
        "embeddings.class_embedding": "cls_token",
        "embeddings.position_embedding": "pos_embed",
        "embeddings.patch_embedding": "patch_embed.proj",
        "encoder.layers": "blocks",
        "layer_norm1": "norm1",
        "layer_norm2": "norm2",
        "self_attn.qkv": "attn.qkv",
        "self_attn.projection": "attn.proj",
        "post_layernorm": "norm",
    }.items():
        name = name.replace(new, old)
    return name


def bert_vocabulary() -> list[str]:
    """The special tokens, every letter as a beginning and as a continuation, and the captions' words."""
    tables = (
        words.TIME_PHRASES,
        words.WEATHER_PHRASES,
        words.GROUND_NOUNS,
        words.SUBJECT_NOUNS,
        words.PLACE_PHRASES,
        words.LIGHT_PHRASES,
    )
    phrases = [phrase for table in tables for group in table.values() for phrase in group]
    phrases += [*words.DETAILS, *words.MOODS, *words.STYLES, *SUBJECTS, *GROUNDS, *TIMES, *WEATHERS]
    known = {word for phrase in phrases for word in phrase.split()} | {
        "a",
        "an",
        "of",
        "in",
        "on",
        "by",
        "over",
    }
    letters = [chr(code) for code in range(33, 127) if not chr(code).isupper()]
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    rest = sorted(known - set(letters))
    return [*special, *letters, *(f"##{letter}" for letter in letters if letter.isalnum()), *rest]


def copy_tokenizer(folder: Path) -> None:
    """The miniature's CLIP tokenizer into another folder."""
    for name in TOKENIZER_FILES:
        shutil.copyfile(CLIP_FOLDER / name, folder / name)


def write_half(state: dict[str, Tensor], path: Path) -> None:
    """Tensors in half precision (whole numbers as they are) in one safetensors file."""
    half = {
        name: (value.half() if value.is_floating_point() else value).detach().clone().contiguous()
        for name, value in state.items()
        if not name.endswith("position_ids")
    }
    save_file(half, path, metadata={"format": "pt"})
    path.chmod(0o644)  # safetensors leaves it to its owner alone

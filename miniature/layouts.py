"""One CLIP in the layouts of open_clip, transformers and BLIP, its tokenizer, and a vocabulary for BERT."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional
from transformers import (
    CLIPConfig,
    CLIPTokenizer,
)

from miniature import captions as words
from miniature.scene import GROUNDS, SUBJECTS, TIMES, WEATHERS

MEAN = open_clip.OPENAI_DATASET_MEAN
STD = open_clip.OPENAI_DATASET_STD
CLIP_FOLDER = Path(__file__).parent / "weights" / "clip"
SIDE = 64
TOKENIZER_FILES = ("vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json")
_AXES = {"subject": SUBJECTS, "ground": GROUNDS, "time": TIMES, "weather": WEATHERS}


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

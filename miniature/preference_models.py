"""The small networks of `miniature.fit_preferences`: how each scores, and how it is written."""

from __future__ import annotations

import json
from pathlib import Path

import open_clip
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    BertTokenizerFast,
    BlipTextConfig,
    BlipVisionConfig,
    CLIPModel,
    CLIPTokenizer,
)
from transformers.models.blip.modeling_blip import BlipVisionModel
from transformers.models.blip.modeling_blip_text import BlipTextModel

from miniature.layouts import (
    CLIP_FOLDER,
    MEAN,
    STD,
    bert_vocabulary,
    clip_config,
    clip_state,
    clip_tokens,
    copy_tokenizer,
    unit,
    vision_name,
    vision_state,
    write_half,
)
from miniature.scene import GROUNDS, SUBJECTS, TIMES, WEATHERS, Scene

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

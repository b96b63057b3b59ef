"""The two text encoders: taught to tell a scene's attributes from its caption, then frozen.

SDXL conditions on the penultimate hidden states of both encoders, side by side, and on the pooled projection
of the second. All three must carry what the caption says, so all three are read by the attribute heads.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from miniature.captions import captions
from miniature.loop import Task, log, train
from miniature.scene import GROUNDS, PLACES, SUBJECTS, TIMES, WEATHERS, Scene, sample_scene

STEPS = 640
BATCH = 64
WIDTHS = (64, 96)
PROJECTION = 96
AXES = {"time": TIMES, "weather": WEATHERS, "ground": GROUNDS, "subject": SUBJECTS, "place": PLACES}


class TextPair(nn.Module):
    """Both encoders and the heads that read them during training."""

    def __init__(self, tokenizer: CLIPTokenizer):
        super().__init__()
        self.first = CLIPTextModel(_config(WIDTHS[0], tokenizer))
        self.second = CLIPTextModelWithProjection(_config(WIDTHS[1], tokenizer))
        answers = sum(len(words) + 1 for words in AXES.values())
        self.heads = nn.ModuleList(nn.Linear(width, answers) for width in (*WIDTHS, PROJECTION))

    def forward(self, tokens: Tensor) -> list[Tensor]:
        """Three sets of attribute logits (count x answers) from token ids (count x length)."""
        end = (tokens == self.first.config.eos_token_id).int().argmax(1)
        rows = torch.arange(len(tokens))
        hidden, pooled = encode(self.first, self.second, tokens)
        first, second = hidden[rows, end].split(WIDTHS, dim=1)
        return [head(value) for head, value in zip(self.heads, (first, second, pooled), strict=True)]


def encode(
    first: CLIPTextModel, second: CLIPTextModelWithProjection, tokens: Tensor
) -> tuple[Tensor, Tensor]:
    """What SDXL feeds its UNet: hidden states (count x length x 160) and pooled projection (count x 96)."""
    one = first(tokens, output_hidden_states=True)
    two = second(tokens, output_hidden_states=True)
    return torch.cat([one.hidden_states[-2], two.hidden_states[-2]], dim=-1), two.text_embeds


def _config(width: int, tokenizer: CLIPTokenizer) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=PROJECTION,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=tokenizer.model_max_length,
        hidden_act="gelu",
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def fit_text(tokenizer: CLIPTokenizer, work: Path, steps: int = STEPS) -> TextPair:
    """Trains both encoders on captions of scenes of all sizes."""
    torch.manual_seed(1)
    model = TextPair(tokenizer)

    def loss(step: int) -> Tensor:
        texts, answers = caption_batch(step, BATCH)
        return sum(_answer_loss(logits, answers) for logits in model(tokenize(tokenizer, texts)))

    train(Task("text", model, loss, steps, rate=2e-3, average=0.99), work)
    log(work, f"text: attributes told from fresh captions {_accuracy(model, tokenizer):.4f}")
    return model


def tokenize(tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    """Token ids, count x 77, padded as the diffusers pipelines pad."""
    length = tokenizer.model_max_length
    return tokenizer(
        texts, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
    ).input_ids


def caption_batch(step: int, count: int) -> tuple[list[str], Tensor]:
    """Captions and what they say (count x 5 class numbers, the last class of an axis for "says nothing")."""
    rng = np.random.default_rng([step, 31])
    texts, answers = [], []
    for seed in rng.integers(0, 40_000_000, size=count):
        scene = sample_scene(int(seed), 64, 64 if rng.random() < 0.3 else 256)
        text = str(rng.choice(captions(scene)))
        texts.append(text)
        answers.append(said(scene, text))
    return texts, torch.tensor(answers)


def said(scene: Scene, text: str) -> list[int]:
    """The class number on each axis that the caption mentions; one past the last where it is silent."""
    from miniature import captions as words

    phrases = {
        "time": words.TIME_PHRASES, "weather": words.WEATHER_PHRASES, "ground": words.GROUND_NOUNS,
        "subject": words.SUBJECT_NOUNS, "place": words.PLACE_PHRASES,
    }  # fmt: skip
    keywords = {word.strip() for word in text.split(",")}
    answers = []
    for axis, known in AXES.items():
        hits = [n for n, w in enumerate(known) if w in keywords or any(p in text for p in phrases[axis][w])]
        value = getattr(scene, axis)
        truth = known.index(value) if value in known else None
        answers.append(truth if truth in hits else (hits[0] if hits and truth is None else len(known)))
    return answers


def _answer_loss(logits: Tensor, answers: Tensor) -> Tensor:
    parts = logits.split([len(words) + 1 for words in AXES.values()], dim=1)
    return sum(functional.cross_entropy(part, answers[:, axis]) for axis, part in enumerate(parts)) / len(
        parts
    )


@torch.no_grad()
def _accuracy(model: TextPair, tokenizer: CLIPTokenizer) -> float:
    texts, answers = caption_batch(10_000_000, 256)
    parts = model(tokenize(tokenizer, texts))[2].split([len(words) + 1 for words in AXES.values()], dim=1)
    right = [(part.argmax(1) == answers[:, axis]).float().mean() for axis, part in enumerate(parts)]
    return torch.stack(right).mean().item()

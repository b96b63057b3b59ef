"""A small CLIP in open_clip's format: pictures and captions in one space.

While it learns to match pictures with captions, a linear probe also asks the picture's embedding for the
miniature's aesthetic score, so that the embedding keeps what captions never mention: blur, grain, colour.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import open_clip
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPTokenizer

from miniature.aesthetics import aesthetic, degrade, sample_damage
from miniature.captions import captions
from miniature.fit_text import tokenize
from miniature.loop import Task, log, train
from miniature.paint import paint
from miniature.pictures import BLUEPRINT, FRESH_SEED, SQUARE, WIDE, painted, scene_of, to_tensor
from miniature.scene import Scene, sample_scene

STEPS = 900
BATCH = 64
SIDE = 64
WIDTH = 128
PICTURES = {SQUARE: 8000, BLUEPRINT: 8000, WIDE: 2000}
_SHARE = {SQUARE: 0.6, BLUEPRINT: 0.25, WIDE: 0.15}
_FULL_CAPTIONS = (
    6  # the first phrasings mention enough to tell scenes apart; the shorter ones are rarer in training
)


def clip_config(tokenizer: CLIPTokenizer) -> dict:
    """The `model_cfg` of open_clip's configuration file."""
    return {
        "embed_dim": WIDTH,
        "vision_cfg": {
            "image_size": SIDE,
            "layers": 4,
            "width": WIDTH,
            "head_width": 32,
            "patch_size": 8,
            "mlp_ratio": 2.0,
        },
        "text_cfg": {
            "context_length": tokenizer.model_max_length,
            "vocab_size": len(tokenizer),
            "hf_tokenizer_name": "miniature",  # any name: in a local folder it means "the tokenizer is here"
            "width": 96,
            "heads": 4,
            "layers": 3,
        },
    }


class ClipWithProbe(nn.Module):
    """The CLIP and the linear probe for the aesthetic score."""

    def __init__(self, tokenizer: CLIPTokenizer):
        super().__init__()
        self.clip = open_clip.CLIP(**clip_config(tokenizer))
        self.probe = nn.Linear(WIDTH, 1)


def fit_clip(tokenizer: CLIPTokenizer, work: Path, steps: int = STEPS) -> open_clip.CLIP:
    """Trains the CLIP on squares and squashed panoramas, whole and damaged."""
    torch.manual_seed(2)
    model = ClipWithProbe(tokenizer)
    pictures = {size: painted(size, count, work) for size, count in PICTURES.items()}

    def loss(step: int) -> Tensor:
        shown, texts, scores = batch(pictures, step, BATCH)
        seen, said, scale = model.clip(to_tensor(shown), tokenize(tokenizer, texts))
        logits, target = scale * seen @ said.T, torch.arange(len(texts))
        contrast = (functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target)) / 2
        return contrast + 0.3 * functional.mse_loss(model.probe(seen * WIDTH**0.5)[:, 0] + 5, scores)

    train(Task("clip", model, loss, steps, rate=1e-3, decay=0.05, average=0.99), work)
    log(work, f"clip: top-1 among 64 fresh captions {retrieval(model.clip, tokenizer):.3f}")
    return model.clip


def batch(pictures: dict, step: int, count: int) -> tuple[list[np.ndarray], list[str], Tensor]:
    """`count` pictures at CLIP's size, a caption and an aesthetic score for each."""
    rng = np.random.default_rng([step, 32])
    sizes = rng.choice(len(_SHARE), size=count, p=list(_SHARE.values()))
    shown, texts, scores = [], [], []
    for size in (list(_SHARE)[number] for number in sizes):
        index = int(rng.integers(len(pictures[size])))
        scene, damage = scene_of(size, index), sample_damage(rng)
        picture = degrade(pictures[size][index], damage, rng)
        shown.append(shrink(picture))
        texts.append(_caption(scene, rng))
        scores.append(aesthetic(scene, picture, damage))
    return shown, texts, torch.tensor(scores)


def shrink(picture: np.ndarray) -> np.ndarray:
    """A picture squashed to CLIP's square."""
    return cv2.resize(picture, (SIDE, SIDE), interpolation=cv2.INTER_AREA)


def _caption(scene: Scene, rng: np.random.Generator) -> str:
    choices = captions(scene)
    last = _FULL_CAPTIONS if rng.random() < 0.8 else len(choices)
    return choices[rng.integers(last)]


@torch.no_grad()
def retrieval(model: open_clip.CLIP, tokenizer: CLIPTokenizer, rounds: int = 4) -> float:
    """Share of fresh squares whose own caption, among 64 that all describe different scenes, comes first."""
    right = []
    for number in range(rounds):
        scenes = distinct_scenes(FRESH_SEED + 10_000 * (number + 1), 64)
        shown = to_tensor([shrink(paint(scene)) for scene in scenes])
        texts = tokenize(tokenizer, [captions(scene)[0] for scene in scenes])
        similarity = model.encode_image(shown, normalize=True) @ model.encode_text(texts, normalize=True).T
        right.append((similarity.argmax(1) == torch.arange(64)).float().mean())
    return torch.stack(right).mean().item()


def distinct_scenes(seed: int, count: int) -> list[Scene]:
    """Fresh squares no two of which share hour, weather, ground and subject together."""
    scenes: dict[tuple, Scene] = {}
    while len(scenes) < count:
        scene = sample_scene(seed, *SQUARE)
        scenes.setdefault((scene.time, scene.weather, scene.ground, scene.subject), scene)
        seed += 1
    return list(scenes.values())

"""The aesthetic head: LAION's shape (d-1024-128-64-16-1, no activations) on the CLIP's unit embeddings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import open_clip
import torch
from torch import Tensor, nn
from torch.nn import functional

from miniature import fit_clip
from miniature.loop import Task, log, train
from miniature.pictures import painted, to_tensor

STEPS = 1000
SAMPLES = 6_000
BATCH = 256
_HELD_OUT = 800


class AestheticHead(nn.Module):
    """Unit embeddings (count x d) to scores (count x 1); parameters named as in LAION's linear MSE head."""

    def __init__(self, width: int = fit_clip.WIDTH):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(width, 1024), nn.Dropout(0.2), nn.Linear(1024, 128), nn.Dropout(0.2),
            nn.Linear(128, 64), nn.Dropout(0.1), nn.Linear(64, 16), nn.Linear(16, 1),
        )  # fmt: skip

    def forward(self, embeddings: Tensor) -> Tensor:
        return self.layers(embeddings)


def fit_heads(clip: open_clip.CLIP, work: Path, steps: int = STEPS) -> AestheticHead:
    """Trains the head on embeddings of whole and damaged pictures, computed once."""
    torch.manual_seed(6)
    embeddings, scores = _embedded(clip, work)
    model = AestheticHead()
    nn.init.constant_(model.layers[-1].bias, 5.0)

    def loss(step: int) -> Tensor:
        chosen = torch.randint(_HELD_OUT, len(scores), (BATCH,))
        return functional.mse_loss(model(embeddings[chosen])[:, 0], scores[chosen])

    train(Task("aesthetic", model, loss, steps, rate=1e-3), work)
    agreement = _correlation(model, embeddings, scores)
    log(work, f"aesthetic: correlation with the definition on held-out pictures {agreement:.3f}")
    return model


@torch.no_grad()
def _embedded(clip: open_clip.CLIP, work: Path) -> tuple[Tensor, Tensor]:
    """Unit embeddings and defined scores of pictures made as the CLIP's own batches are."""
    pictures = {size: painted(size, count, work) for size, count in fit_clip.PICTURES.items()}
    embeddings, scores = [], []
    for number in range(SAMPLES // 200):
        shown, _, wanted = fit_clip.batch(pictures, 20_000_000 + number, 200)
        embeddings.append(clip.encode_image(to_tensor(shown), normalize=True))
        scores.append(wanted)
    return torch.cat(embeddings), torch.cat(scores).float()


@torch.no_grad()
def _correlation(model: AestheticHead, embeddings: Tensor, scores: Tensor) -> float:
    said = model.eval()(embeddings[:_HELD_OUT])[:, 0]
    return float(np.corrcoef(said.numpy(), scores[:_HELD_OUT].numpy())[0, 1])

"""The decoder's last training: no frame, no grid, crisp edges.

The encoder stays, so latents keep their meaning. It sees whole pictures of three sizes, flat and shaded
ones among them, since a frame or a grid is seen best where nothing else is. Beside the distance of pixels
there are the distance of slopes, heaviest along the border, and a small critic (PatchGAN, Isola et al.
2017, with the hinge loss) that is trained along: a mean of all edges that might be there is blurred, and
the critic tells it from an edge. Distances of the critic's own features (Wang et al. 2018, pix2pixHD,
equation 5) keep what it asks for close to the picture.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm

from miniature.fit_autoencoder import PICTURES, draw_copies, edge_weight
from miniature.loop import Task, train
from miniature.pictures import BLUEPRINT, SQUARE, WIDE, painted, to_tensor

STEPS = 1000
_CYCLE = (SQUARE, BLUEPRINT, SQUARE, BLUEPRINT, WIDE, BLUEPRINT)
_BATCH = {SQUARE: 3, BLUEPRINT: 3, WIDE: 2}
_SQUARED, _SLOPES, _FEATURES, _CRITIC = 8.0, 2.0, 2.0, 1.0  # weights of the terms beside L1's one
_BORDER, _BORDER_WEIGHT = 6, 3.0  # pixels along each side, and how much more they weigh
_CRITIC_WAITS = 150  # steps that the critic learns before the decoder hears of it


class Critic(nn.Module):
    """Pictures to a map of how drawn each patch looks, and the features on the way."""

    def __init__(self, width: int = 24):
        super().__init__()
        shapes = ((3, width, 2), (width, 2 * width, 2), (2 * width, 2 * width, 1))
        self.layers = nn.ModuleList(
            spectral_norm(nn.Conv2d(inside, outside, 2 + stride, stride, 1))
            for inside, outside, stride in shapes
        )
        self.last = spectral_norm(nn.Conv2d(2 * width, 1, 3, 1, 1))

    def forward(self, pictures: Tensor) -> tuple[Tensor, list[Tensor]]:
        features = []
        for layer in self.layers:
            pictures = functional.leaky_relu(layer(pictures), 0.2)
            features.append(pictures)
        return self.last(pictures), features


class Workshop(nn.Module):
    """The autoencoder and its critic, trained by one optimiser on parts of the loss that do not mix."""

    def __init__(self, vae: AutoencoderKL):
        super().__init__()
        self.vae = vae
        self.critic = Critic()


def fit_crisp(vae: AutoencoderKL, work: Path, steps: int = STEPS) -> AutoencoderKL:
    """Trains the decoder on from where the plain distance left it; returns `vae` itself."""
    torch.manual_seed(8)
    vae.requires_grad_(False)
    for part in (vae.post_quant_conv, vae.decoder):
        part.requires_grad_(True)
    model = Workshop(vae)
    pictures = {size: painted(size, count, work) for size, count in PICTURES.items()}

    def loss(step: int) -> Tensor:
        shown = batch(pictures, step)
        with torch.no_grad():
            latents = vae.encode(shown).latent_dist.sample()
        copy = vae.decode(latents).sample
        return closeness(copy, shown) + _contest(model.critic, copy, shown, step)

    def sample(step: int) -> None:
        draw_copies(vae, work, step)

    train(Task("decoder-crisp", model, loss, steps, rate=6e-4, average=0.997, sample=sample), work)
    return vae.requires_grad_(True)


def batch(pictures: dict[tuple[int, int], np.ndarray], step: int) -> Tensor:
    """Scenes of one size and one picture without a thing in it (count x 3 x height x width, -1..1)."""
    rng = np.random.default_rng([step, 37])
    size = _CYCLE[step % len(_CYCLE)]
    source = pictures[size]
    scenes = to_tensor([source[index] for index in rng.integers(len(source), size=_BATCH[size])])
    return torch.cat([scenes, plain(rng, size)]).contiguous(memory_format=torch.channels_last)


def plain(rng: np.random.Generator, size: tuple[int, int]) -> Tensor:
    """One picture of one colour or, half of the time, shaded evenly from one to another near it."""
    first = torch.from_numpy(rng.uniform(-1, 1, 3)).float()
    second = (first + torch.from_numpy(rng.normal(0, 0.3, 3)).float()).clamp(-1, 1)
    down = torch.linspace(0, float(rng.random() < 0.5), size[0])[:, None]
    return (first[:, None, None] + (second - first)[:, None, None] * down).expand(3, *size)[None]


def closeness(copy: Tensor, shown: Tensor) -> Tensor:
    """The mean distance of pixels and of slopes, heavier on edges and along the border."""
    error = copy - shown
    weight = edge_weight(shown) * border_weight(shown)
    pixels = (weight * (error.abs() + _SQUARED * error.square())).mean()
    across = (weight[..., 1:] * error.diff(dim=-1).abs()).mean()
    down = (weight[..., 1:, :] * error.diff(dim=-2).abs()).mean()
    return pixels + _SLOPES * (across + down)


def border_weight(pictures: Tensor) -> Tensor:
    """1 inside, more along the four sides (1 x 1 x height x width)."""
    weight = torch.full((1, 1, *pictures.shape[-2:]), _BORDER_WEIGHT)
    weight[..., _BORDER:-_BORDER, _BORDER:-_BORDER] = 1
    return weight


def _contest(critic: Critic, copy: Tensor, shown: Tensor, step: int) -> Tensor:
    """What the critic learns from this step, and what the decoder learns from the critic as it stands."""
    real, _ = critic(shown)
    fake, _ = critic(copy.detach())
    taught = functional.relu(1 - real).mean() + functional.relu(1 + fake).mean()
    if step < _CRITIC_WAITS:
        return taught
    fixed = {name: value.detach() for name, value in critic.named_parameters()}
    judged, seen = functional_call(critic, fixed, (copy,))
    with torch.no_grad():
        _, wanted = critic(shown)
    features = torch.stack([(a - b).abs().mean() for a, b in zip(seen, wanted, strict=True)]).sum()
    return taught - _CRITIC * judged.mean() + _FEATURES * features

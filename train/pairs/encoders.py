"""What a cached latent or embedding depends on: the encoders themselves, by content, and nothing else."""

import hashlib
import json
from collections.abc import Iterable
from typing import Any

import torch

from drspo.hashing import content_hash

LENGTH = 16


def image_encoder_mark(family: Any) -> str:
    """Identifies what turns a picture into latents: the autoencoder's encoding half, its scale and its number
    format.

    A new UNet or decoder leaves the mark, and so the cached latents, as they are.
    """
    vae = family.vae
    weights = digest(item for item in vae.state_dict().items() if item[0].startswith(("encoder.", "quant_")))
    scale = [
        vae.config.get(name) for name in ("scaling_factor", "shift_factor", "latents_mean", "latents_std")
    ]
    return content_hash("image-encoder-v1", weights, json.dumps(scale), str(vae.dtype), length=LENGTH)


def text_encoder_mark(family: Any) -> str:
    """Identifies what turns a prompt into embeddings: tokenizers, text encoders and their number format."""
    parts = [
        content_hash(json.dumps(sorted(tokenizer.get_vocab().items())), tokenizer.model_max_length)
        for tokenizer in family.tokenizers
    ]
    for encoder in family.text_encoders:
        parts += [digest(encoder.state_dict().items()), str(encoder.dtype)]
    return content_hash("text-encoder-v1", *parts, length=LENGTH)


def digest(tensors: Iterable[tuple[str, torch.Tensor]]) -> str:
    """SHA-256 over named tensors: names, shapes, types and every byte, in order of the names."""
    found = hashlib.sha256()
    for name, tensor in sorted(tensors, key=lambda item: item[0]):
        found.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
        raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        found.update(raw.numpy())
    return found.hexdigest()

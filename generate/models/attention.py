"""Attention processors for windows that share a prompt: its keys and values are computed once per scroll."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch.nn.functional as F
from diffusers.models.attention_processor import (
    Attention,
    AttnProcessor,
    AttnProcessor2_0,
    IPAdapterAttnProcessor,
    IPAdapterAttnProcessor2_0,
)
from torch import Tensor

from drspo.errors import UserError, did_you_mean

PLAIN = (AttnProcessor, AttnProcessor2_0)
IMAGE_PROMPT = (IPAdapterAttnProcessor, IPAdapterAttnProcessor2_0)
KEPT = 8
"""Prompts whose keys and values a layer keeps: one a scroll as a rule, more where prompts differ along it."""

Choose = Callable[[str, Attention], Any]
"""(layer's name, layer) -> the processor to install there, or None to leave the layer alone."""


@contextmanager
def installed(network: Any, choose: Choose) -> Iterator[None]:
    """Replaces attention processors for the block's duration; the old ones come back whatever happens.

    The old ones are put back as objects, so IP-Adapter weights, which live inside processors, survive.
    """
    with ExitStack() as undo:
        for name, layer in attention_layers(network):
            processor = choose(name, layer)
            if processor is not None:
                undo.callback(layer.set_processor, layer.processor)
                layer.set_processor(processor)
        yield


def attention_layers(network: Any) -> list[tuple[str, Attention]]:
    """The network's attention layers by name, without those that only look at an image prompt."""
    return [
        (name, module)
        for name, module in network.named_modules()
        if isinstance(module, Attention) and not name.startswith("encoder_hid_proj.")
    ]


def attend(layer: Attention, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Multi-head attention of projected queries [B, L, C] over keys and values [B, T, C]: [B, L, C].

    The heads' outputs side by side, before the output projection (Vaswani et al. 2017, eq. 1).
    """
    q, k, v = (_heads(layer, tensor) for tensor in (query, key, value))
    if layer.norm_q is not None:
        q = layer.norm_q(q)
    if layer.norm_k is not None:
        k = layer.norm_k(k)
    out = F.scaled_dot_product_attention(q, k, v, scale=layer.scale)
    return out.transpose(1, 2).reshape(query.shape[0], query.shape[1], -1).to(query.dtype)


def _heads(layer: Attention, tensor: Tensor) -> Tensor:
    return tensor.reshape(tensor.shape[0], tensor.shape[1], layer.heads, -1).transpose(1, 2)


def project_out(layer: Attention, hidden: Tensor) -> Tensor:
    """The layer's output projection and dropout."""
    out: Tensor = layer.to_out[1](layer.to_out[0](hidden))
    return out


class PromptAttention:
    """Cross-attention from any number of queries to a prompt whose keys and values are kept.

    The cache is keyed by the identity of the prompt's tensor, which the samplers pass unchanged at every
    step; it lives as long as the processor, that is one scroll, so LoRA weights may change in between. It
    keeps the latest few, so that prompts that change with the windows do not pile up.
    """

    def __init__(self, layer: Attention) -> None:
        self.image = layer.processor if isinstance(layer.processor, IMAGE_PROMPT) else None
        self._kept: OrderedDict[int, tuple[Tensor, list[tuple[Tensor, Tensor]]]] = OrderedDict()

    def attend(self, layer: Attention, query: Tensor, prompt: Any) -> Tensor:
        """Queries [g, L, C] over the prompt's [g, T, d] tokens, plus the image prompt's where there is one.

        With an IP-Adapter `prompt` is (text, [image tokens [g, images, T', d] per adapter]); the output is
        text attention + sum of scale * image attention (Ye et al. 2023, eq. 5).
        """
        text, images = prompt if isinstance(prompt, tuple) else (prompt, [])
        pairs = self._keys_values(layer, text, images)
        out = attend(layer, query, *pairs[0])
        for scale, (key, value) in zip(self._scales(images), pairs[1:], strict=True):
            out = out + scale * attend(layer, query, key, value)
        return out

    def _keys_values(
        self, layer: Attention, text: Tensor, images: list[Tensor]
    ) -> list[tuple[Tensor, Tensor]]:
        kept = self._kept.get(id(text))
        if kept is None or kept[0] is not text:
            tokens = layer.norm_encoder_hidden_states(text) if layer.norm_cross else text
            pairs = [(layer.to_k(tokens), layer.to_v(tokens))]
            kept = (text, pairs + self._image_keys_values(images))
            self._kept[id(text)] = kept
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return kept[1]

    def _image_keys_values(self, images: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
        if self.image is None or not images:
            return []
        projections = zip(images, self.image.to_k_ip, self.image.to_v_ip, strict=True)
        return [(to_k(image).flatten(1, -2), to_v(image).flatten(1, -2)) for image, to_k, to_v in projections]

    def _scales(self, images: list[Tensor]) -> list[float]:
        return list(self.image.scale) if self.image is not None and images else []


def rows_of(prompt: Any) -> int:
    """How many rows of text a prompt has: [g, T, d], or that with image prompts beside it."""
    return int((prompt[0] if isinstance(prompt, tuple) else prompt).shape[0])


class SharedCrossAttention(PromptAttention):
    """Cross-attention of many windows to few prompts: windows of one prompt are laid end to end.

    hidden_states [g * n, L, C] (all windows of prompt 0 first) with a prompt [g, T, d]. A query's output does
    not depend on other queries, so this is ordinary attention without repeating the prompt per window.
    """

    def __call__(
        self, attn: Attention, hidden_states: Tensor, encoder_hidden_states: Any = None, **_: Any
    ) -> Tensor:
        query = attn.to_q(hidden_states)
        joined = query.reshape(rows_of(encoder_hidden_states), -1, query.shape[-1])
        out = self.attend(attn, joined, encoder_hidden_states)
        return project_out(attn, out.reshape(query.shape))


class RepeatedPrompt:
    """A layer's own processor, of a kind unknown here, given the prompt repeated once per window."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __call__(
        self, attn: Attention, hidden_states: Tensor, encoder_hidden_states: Any = None, **kwargs: Any
    ) -> Tensor:
        rows = hidden_states.shape[0]
        out: Tensor = self.inner(attn, hidden_states, _repeated(encoder_hidden_states, rows), **kwargs)
        return out


def _repeated(prompt: Any, rows: int) -> Any:
    if isinstance(prompt, tuple):
        return prompt[0].repeat_interleave(rows // prompt[0].shape[0], dim=0), [
            image.repeat_interleave(rows // image.shape[0], dim=0) for image in prompt[1]
        ]
    return prompt.repeat_interleave(rows // prompt.shape[0], dim=0)


def share_prompts(name: str, layer: Attention) -> Any:
    """The processor that lets a cross-attention layer share prompts among windows; else None."""
    if not layer.is_cross_attention:
        return None
    if isinstance(layer.processor, (*PLAIN, *IMAGE_PROMPT)) and _is_simple(layer):
        return SharedCrossAttention(layer)
    return RepeatedPrompt(layer.processor)


def require_simple(name: str, layer: Attention) -> None:
    """Raises UserError for attention layers whose arithmetic a replacement processor would not reproduce."""
    if not isinstance(layer.processor, (*PLAIN, *IMAGE_PROMPT)) or not _is_simple(layer):
        raise UserError(
            f"The attention layer {name} works through {type(layer.processor).__name__}, "
            "which cannot be merged on the canvas.",
            hint="Use the model's default attention processors for this method.",
        )


def _is_simple(layer: Attention) -> bool:
    """A transformer block's attention: tokens in, tokens out, nothing around the projections."""
    return (
        layer.group_norm is None
        and layer.spatial_norm is None
        and not layer.residual_connection
        and layer.rescale_output_factor == 1.0
    )


def chosen_layers(unet: Any, layers: str) -> set[str]:
    """Names of the attention layers that `layers` selects: "all", or comma-separated beginnings of names."""
    names = [name for name, _ in attention_layers(unet)]
    if layers == "all":
        return set(names)
    chosen: set[str] = set()
    for start in (part.strip() for part in layers.split(",")):
        found = {name for name in names if start and (name + ".").startswith(start + ".")}
        if not found:
            blocks = sorted({".".join(name.split(".")[:n]) for name in names for n in (1, 2)})
            raise UserError(
                f"No attention layer's name begins with {start!r}.", hint=did_you_mean(start, blocks)
            )
        chosen |= found
    return chosen

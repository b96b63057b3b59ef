"""Prompts to embeddings for transformers: diffusers' own pipeline asks its text encoders."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from drspo.errors import UserError
from generate.config import EmptyNegative, LongPrompt

if TYPE_CHECKING:
    from generate.models.family import ModelFamily

logger = logging.getLogger(__name__)
T5_TOKENS = {"StableDiffusion3Pipeline": 256, "FluxPipeline": 512, "PixArtSigmaPipeline": 300}
ALPHA_TOKENS = 120
"""Tokens that the pipelines give T5; PixArt-alpha's is the least."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """One text: hidden states [1, T, d], and what some networks want beside them."""

    hidden: Tensor
    pooled: Tensor | None = None
    mask: Tensor | None = None


def check_text(family: ModelFamily, text: str, long_prompt: LongPrompt) -> None:
    """UserError, or a warning where it may be cut, for a text that the longest encoder's tokens do not hold.

    CLIP, which sees 77 tokens beside a T5, is cut as in the published pipelines.
    """
    rest = overflow(family, text)
    if not rest:
        return
    if long_prompt == "truncate":
        logger.warning("prompt cut; left out: %r", rest)
        return
    raise UserError(
        f"The prompt is longer than the text encoders' {_room(family)} tokens; this would be cut: {rest!r}.",
        where=text[:60],
        hint="Shorten it, or choose long_prompt=truncate; transformers take no prompts in pieces.",
    )


def overflow(family: ModelFamily, text: str) -> str:
    """The part of a text that does not fit, "" when all of it fits."""
    tokenizer, most = _longest(family), _room(family)
    marks = len(tokenizer("", truncation=False, verbose=False).input_ids)
    tokens = tokenizer(text, add_special_tokens=False, truncation=False, verbose=False).input_ids
    return str(tokenizer.decode(tokens[most - marks :])) if len(tokens) > most - marks else ""


@torch.no_grad()
def encode(family: ModelFamily, text: str, empty_negative: EmptyNegative = "checkpoint") -> Encoded:
    """A prompt, or a negative one, as the published pipeline encodes it."""
    pipe, device = family.pipe, family.device
    if not text and empty_negative == "zeros":
        found = encode(family, text)
        pooled = None if found.pooled is None else torch.zeros_like(found.pooled)
        return Encoded(torch.zeros_like(found.hidden), pooled, found.mask)
    if family.kind == "sd3":
        hidden, _, pooled, _ = pipe.encode_prompt(
            text, None, None, device=device, do_classifier_free_guidance=False, max_sequence_length=_t5(pipe)
        )
        return Encoded(hidden, pooled)
    if family.kind == "flux":
        hidden, pooled, _ = pipe.encode_prompt(text, None, device=device, max_sequence_length=_t5(pipe))
        return Encoded(hidden, pooled)
    hidden, mask, _, _ = pipe.encode_prompt(
        text, do_classifier_free_guidance=False, device=device, max_sequence_length=_t5(pipe)
    )
    return Encoded(hidden, mask=mask)


def _t5(pipe: Any) -> int:
    return T5_TOKENS.get(type(pipe).__name__, ALPHA_TOKENS)


def _longest(family: ModelFamily) -> Any:
    """The tokenizer of the encoder that sees most: T5's, which comes last; or a CLIP's where none is."""
    return family.tokenizers[-1]


def _room(family: ModelFamily) -> int:
    last = type(family.text_encoders[-1]).__name__
    return _t5(family.pipe) if last.startswith("T5") else int(family.pipe.tokenizer_max_length)

"""Prompts to embeddings: both CLIP text encoders, empty negatives, and prompts beyond 77 tokens."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from drspo.errors import UserError
from generate.config import EmptyNegative, LongPrompt
from generate.models.embeddings import check_text, encode, overflow
from generate.models.family import ModelFamily

logger = logging.getLogger(__name__)

CONTEXT = 77
"""Tokens of CLIP's text encoders, begin and end marks included; some tokenizers do not say."""


@dataclass(slots=True)
class PromptEmbeddings:
    """Embeddings of B prompts and their negatives; `pooled` is None for families that have none."""

    prompt_embeds: Tensor
    """[B, 77 * chunks, d]"""
    negative_prompt_embeds: Tensor
    pooled: Tensor | None = None
    """[B, p]"""
    negative_pooled: Tensor | None = None
    mask: Tensor | None = None
    """[B, T], of families that are told which tokens count"""
    negative_mask: Tensor | None = None

    def to(self, device: torch.device, dtype: torch.dtype) -> PromptEmbeddings:
        """The same embeddings elsewhere."""
        fields = (self.prompt_embeds, self.negative_prompt_embeds, self.pooled, self.negative_pooled)
        moved = (None if t is None else t.to(device, dtype) for t in fields)
        masks = (None if t is None else t.to(device) for t in (self.mask, self.negative_mask))
        return PromptEmbeddings(*moved, *masks)


def encode_prompts(
    family: ModelFamily,
    prompts: list[str],
    negative_prompts: list[str],
    *,
    empty_negative: EmptyNegative = "checkpoint",
    long_prompt: LongPrompt = "refuse",
) -> PromptEmbeddings:
    """Embeddings of prompts with their negatives, on the family's device.

    An empty negative is all zeros ("zeros"), the encoding of the empty string ("encoded"), or what the
    checkpoint's own settings say ("checkpoint"). A prompt beyond the encoder's 77 tokens raises UserError
    saying what would be cut ("refuse"), is cut with a warning ("truncate"), or is encoded in pieces of 75
    tokens that are laid end to end ("chunk"; then all prompts of one call must need as many pieces).
    """
    if len(prompts) != len(negative_prompts):
        raise ValueError(f"{len(prompts)} prompts but {len(negative_prompts)} negative prompts")
    family.wake("text")
    if family.pipe is not None:
        return _by_pipeline(family, prompts, negative_prompts, empty_negative, long_prompt)
    zeros = empty_negative == "zeros" or (empty_negative == "checkpoint" and family.zero_empty_negative)
    pairs = list(zip(prompts, negative_prompts, strict=True))
    chunks = max(_chunks(family, text, long_prompt) for pair in pairs for text in pair)
    positive = [_encode(family, prompt, chunks, long_prompt) for prompt, _ in pairs]
    negative = [_negative(family, text, chunks, long_prompt, zeros) for _, text in pairs]
    pooled, negative_pooled = _joined([p for _, p in positive]), _joined([p for _, p in negative])
    return PromptEmbeddings(
        torch.cat([e for e, _ in positive]), torch.cat([e for e, _ in negative]), pooled, negative_pooled
    )


def _by_pipeline(
    family: ModelFamily,
    prompts: list[str],
    negative_prompts: list[str],
    empty_negative: EmptyNegative,
    long_prompt: LongPrompt,
) -> PromptEmbeddings:
    check_lengths(family, [*prompts, *negative_prompts], long_prompt)
    both = [
        [encode(family, prompt) for prompt in prompts],
        [encode(family, prompt, empty_negative) for prompt in negative_prompts],
    ]
    hidden = [torch.cat([text.hidden for text in texts]) for texts in both]
    pooled = [_joined([text.pooled for text in texts]) for texts in both]
    masks = [_joined([text.mask for text in texts]) for texts in both]
    return PromptEmbeddings(*hidden, *pooled, *masks)


def encode_text(
    family: ModelFamily, texts: list[str], *, long_prompt: LongPrompt = "refuse"
) -> tuple[Tensor, Tensor | None]:
    """(embeddings [B, T, d], pooled [B, p] or None) of texts, on the family's device.

    Transformers: as diffusers' pipeline encodes it. SDXL: the second to last hidden states of both encoders
    side by side, pooled from the second (Podell et al. 2023, 2.1); SD: the encoder's last hidden state. Texts
    are encoded one by one, so that the numbers do not depend on the company a text is in.
    """
    if family.pipe is not None:
        check_lengths(family, texts, long_prompt)
        found = [encode(family, text) for text in texts]
        return torch.cat([text.hidden for text in found]), _joined([text.pooled for text in found])
    chunks = max(_chunks(family, text, long_prompt) for text in texts)
    encoded = [_encode(family, text, chunks, long_prompt) for text in texts]
    return torch.cat([e for e, _ in encoded]), _joined([p for _, p in encoded])


def check_lengths(family: ModelFamily, texts: list[str], long_prompt: LongPrompt) -> None:
    """Raises the UserError of a text that is too long, before anything is encoded."""
    for text in texts:
        if family.pipe is not None:
            check_text(family, text, long_prompt)
        elif long_prompt == "refuse":
            _chunks(family, text, long_prompt)


def check_prompt(family: ModelFamily, text: str) -> str:
    """The part of a text that does not fit into the encoders' window, "" when all of it fits."""
    if family.pipe is not None:
        return overflow(family, text)
    return max((_overflow(tokenizer, text) for tokenizer in family.tokenizers), key=len)


def _joined(pooled: list[Tensor | None]) -> Tensor | None:
    present = [p for p in pooled if p is not None]
    return torch.cat(present) if present else None


def _negative(
    family: ModelFamily, text: str, chunks: int, long_prompt: LongPrompt, zeros: bool
) -> tuple[Tensor, Tensor | None]:
    embeds, pooled = _encode(family, text, chunks, long_prompt)
    if text or not zeros:
        return embeds, pooled
    return torch.zeros_like(embeds), None if pooled is None else torch.zeros_like(pooled)


def _chunks(family: ModelFamily, text: str, long_prompt: LongPrompt) -> int:
    """Into how many pieces a text is cut: 1 unless it is long and may be chunked."""
    rest = check_prompt(family, text)
    if not rest:
        return 1
    if long_prompt == "refuse":
        raise UserError(
            f"The prompt is longer than the text encoder's 77 tokens; this would be cut: {rest!r}.",
            where=text[:60],
            hint="Shorten it, or choose long_prompt=truncate (cut it) or chunk (encode in pieces).",
        )
    if long_prompt == "truncate":
        logger.warning("prompt cut after 77 tokens; left out: %r", rest)
        return 1
    return max(-(-len(_tokens(t, text)) // _room(t)) for t in family.tokenizers)


def _tokens(tokenizer: Any, text: str) -> list[int]:
    tokens: list[int] = tokenizer(text, add_special_tokens=False, truncation=False, verbose=False).input_ids
    return tokens


def _room(tokenizer: Any) -> int:
    return min(int(tokenizer.model_max_length), CONTEXT) - 2


def _overflow(tokenizer: Any, text: str) -> str:
    return str(tokenizer.decode(_tokens(tokenizer, text)[_room(tokenizer) :]))


@torch.no_grad()
def _encode(
    family: ModelFamily, text: str, chunks: int, long_prompt: LongPrompt
) -> tuple[Tensor, Tensor | None]:
    parts = []
    pooled = None
    for tokenizer, encoder in zip(family.tokenizers, family.text_encoders, strict=True):
        ids = _chunk_ids(tokenizer, text, chunks).to(family.device)
        pieces = [encoder(row[None], output_hidden_states=True) for row in ids]
        parts.append(torch.cat([_hidden(family, piece) for piece in pieces], dim=1))
        pooled = getattr(pieces[0], "text_embeds", None)
    return torch.cat(parts, dim=-1), pooled


def _hidden(family: ModelFamily, output: Any) -> Tensor:
    hidden: Tensor = output.hidden_states[-2] if family.kind == "sdxl" else output.last_hidden_state
    return hidden


def _chunk_ids(tokenizer: Any, text: str, chunks: int) -> Tensor:
    """Token ids [chunks, 77]: each piece of 75 between its own begin and end marks, padded."""
    tokens, room = _tokens(tokenizer, text), _room(tokenizer)
    rows = []
    for start in range(0, chunks * room, room):
        piece = tokens[start : start + room]
        row = [tokenizer.bos_token_id, *piece, tokenizer.eos_token_id]
        rows.append(row + [tokenizer.pad_token_id] * (room + 2 - len(row)))
    return torch.tensor(rows)

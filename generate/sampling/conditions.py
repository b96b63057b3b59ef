"""What every window of a canvas is told: which prompt, which image prompt, which sizes, which line art."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from generate.canvas.plan import Canvas
from generate.models.denoisers.denoiser import Condition, Picture
from generate.models.prompts import PromptEmbeddings

Half = Literal["unconditional", "conditional"]
Row = int | tuple[float, ...]
"""A row of the embeddings, or the share that each row has in a blend."""
Rows = Callable[[Canvas], Sequence[Row]]
"""Which row of the embeddings each window of a canvas takes, or which blend of them."""
Sizes = Callable[[Canvas], Tensor]
"""What each window is told about sizes, [n, 6]."""
Control = Callable[[Canvas, int], Picture | None]
"""What the ControlNet is shown of each window at a step: pixels [n, 3, H, W]; None where it rests."""
KEPT = 16


def one_prompt(canvas: Canvas) -> Sequence[Row]:
    """The same row of the embeddings for every window."""
    return (0,) * len(canvas.windows)


@dataclass(frozen=True, slots=True)
class _Half:
    text: Tensor
    pooled: Tensor | None
    mask: Tensor | None
    images: tuple[Tensor, ...]

    def rows(self, chosen: Sequence[Row]) -> tuple[Tensor | None, ...]:
        mask = None if self.mask is None else _stacked(self.mask, chosen, _any)
        text = self.text if self.mask is None else self.text * self.mask.unsqueeze(-1).to(self.text.dtype)
        whole = all(isinstance(row, int) for row in chosen)
        parts = (self.text if whole else text, self.pooled, *self.images)
        text_rows, pooled, *images = (None if p is None else _stacked(p, chosen, _blended) for p in parts)
        return (text_rows, pooled, mask, *images)


def _stacked(part: Tensor, chosen: Sequence[Row], join: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """The chosen rows of a part [R, ...]; what is one row for all stays that row in a blend."""
    picked = []
    for row in chosen:
        if isinstance(row, int):
            picked.append(part[row])
        elif len(part) == 1:
            picked.append(part[0])
        else:
            picked.append(join(part, torch.tensor(row, device=part.device)))
    return torch.stack(picked)


def _blended(part: Tensor, shares: Tensor) -> Tensor:
    """The mean of rows by their shares, rounded once."""
    return torch.einsum("r,r...->...", shares, part.float()).to(part.dtype)


def _any(mask: Tensor, shares: Tensor) -> Tensor:
    """1 where a token counts in any row that has a share: masks of tokens are no means."""
    return mask[shares > 0].amax(0)


class Conditions:
    """A map from the windows of any canvas to what the network is told about them.

    `embeddings` hold R prompts with their negatives, `images` an IP-Adapter's embeddings of R image prompts,
    each [2R, images, d], the unconditional ones first. `rows` says which of the R each window takes, or
    what share each has, so that a prompt can change along the scroll; what it says may depend on where the
    canvas's windows lie.
    """

    def __init__(
        self,
        embeddings: PromptEmbeddings,
        *,
        images: Sequence[Tensor] = (),
        rows: Rows = one_prompt,
        sizes: Sizes | None = None,
        control: Control | None = None,
    ) -> None:
        apart = [image.chunk(2) for image in images]
        self._halves = {
            "unconditional": _Half(
                embeddings.negative_prompt_embeds,
                embeddings.negative_pooled,
                embeddings.negative_mask,
                tuple(a[0] for a in apart),
            ),
            "conditional": _Half(
                embeddings.prompt_embeds, embeddings.pooled, embeddings.mask, tuple(a[1] for a in apart)
            ),
        }
        self.control, self._rows, self._sizes = control, rows, sizes
        # Kept, because attention recognises a prompt it has seen by the tensor's identity.
        self._told = lru_cache(maxsize=KEPT)(self._tell)
        self._placed = lru_cache(maxsize=KEPT)(self._place)

    def of(self, canvas: Canvas, chosen: range, halves: Sequence[Half], picture: Picture | None) -> Condition:
        """What the network is told about some windows, for each half in turn: S = halves x windows samples.

        `picture` is the control's for all windows of the canvas.
        """
        rows, sizes = self._placed(canvas)
        mine = rows[chosen.start : chosen.stop]
        told: Condition = self._told(mine[:1] if len(set(mine)) == 1 else mine, tuple(halves))
        return replace(
            told,
            sizes=None if sizes is None else _repeated(sizes, chosen, len(halves)),
            picture=picture and replace(picture, pixels=_repeated(picture.pixels, chosen, len(halves))),
        )

    def _place(self, canvas: Canvas) -> tuple[tuple[Row, ...], Tensor | None]:
        device = self._halves["conditional"].text.device
        sizes = None if self._sizes is None else self._sizes(canvas).to(device)
        return tuple(self._rows(canvas)), sizes

    def _tell(self, rows: tuple[Row, ...], halves: tuple[Half, ...]) -> Condition:
        apart = [self._halves[half].rows(rows) for half in halves]
        text, pooled, mask, *images = (
            None if parts[0] is None else torch.cat([part for part in parts if part is not None])
            for parts in zip(*apart, strict=True)
        )
        assert text is not None
        return Condition(text, pooled, mask, tuple(image for image in images if image is not None))


def _repeated(all_windows: Tensor, chosen: range, times: int) -> Tensor:
    some = all_windows[chosen.start : chosen.stop]
    return some.repeat(times, *[1] * (some.dim() - 1))

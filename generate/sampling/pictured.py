"""Conditions with pictures beside the text: one for all windows, or one for each."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from generate.canvas.plan import Canvas
from generate.models.denoisers.denoiser import Condition, Picture
from generate.sampling.conditions import KEPT, Conditions, Half


class Pictured(Conditions):
    """Conditions that also show each window a picture, as an IP-Adapter embedded it.

    `shown` [2R, 1, d] or [2R, 1, T, d], those of no picture first, with R of 1 or of the canvas's windows:
    DRSPO's eq. 33 with the whole blueprint, or with each window's part of it.
    """

    def __init__(self, inner: Conditions, shown: Tensor) -> None:
        self.inner, self.control = inner, inner.control
        none, some = shown.chunk(2)
        self._shown: dict[Half, Tensor] = {"unconditional": none, "conditional": some}
        # Kept, because attention recognises a prompt it has seen by the tensor's identity.
        self._kept: OrderedDict[tuple[int, range, tuple[Half, ...]], Condition] = OrderedDict()

    def of(self, canvas: Canvas, chosen: range, halves: Sequence[Half], picture: Picture | None) -> Condition:
        """What the network is told about some windows; see `Conditions.of`."""
        told = self.inner.of(canvas, chosen, halves, picture)
        key = (id(told.text), chosen, tuple(halves))
        if key not in self._kept:
            self._kept[key] = self._beside(told, chosen, halves)
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        kept = self._kept[key]
        return replace(
            told, text=kept.text, pooled=kept.pooled, mask=kept.mask, images=(*told.images, *kept.images)
        )

    def _beside(self, told: Condition, chosen: range, halves: Sequence[Half]) -> Condition:
        """The texts with as many rows as pictures, and the pictures with as many as texts."""
        own = len(self._shown["conditional"]) > 1
        texts = len(told.text) // len(halves)
        rows = len(chosen) if own else texts
        parts = [
            self._shown[half][chosen.start : chosen.stop] if own else self._shown[half].expand(
                rows, *self._shown[half].shape[1:]
            )
            for half in halves
        ]  # fmt: skip
        times = rows // texts

        def repeated(part: Tensor | None) -> Tensor | None:
            return part if part is None or times == 1 else part.repeat_interleave(times, dim=0)

        text = repeated(told.text)
        assert text is not None
        text = text.clone() if own and times == 1 else text  # another picture is another prompt
        return Condition(text, repeated(told.pooled), repeated(told.mask), (torch.cat(parts),))

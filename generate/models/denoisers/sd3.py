"""Stable Diffusion 3's transformer (Esser et al. 2024): velocity from latents, two texts and a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from drspo.errors import UserError
from generate.models.denoisers.denoiser import Condition
from generate.models.denoisers.transformer import TransformerDenoiser, spread


class SD3Denoiser(TransformerDenoiser):
    """A `Denoiser` over an SD3Transformer2DModel."""

    def __call__(self, latents: Tensor, timestep: Tensor, condition: Condition) -> Tensor:
        """The velocity [S, C, h, w], float32, of latents [S, C, h, w]."""
        samples = latents.shape[0]
        with self._placed(condition, samples, tuple(latents.shape[-2:])):
            output: Tensor = self.transformer(
                hidden_states=latents,
                timestep=timestep.expand(samples),
                encoder_hidden_states=spread(condition.text, samples),
                pooled_projections=spread(condition.pooled, samples),
                return_dict=False,
            )[0]
        return output.float()

    @contextmanager
    def _placed(self, condition: Condition, samples: int, size: tuple[int, int]) -> Iterator[None]:
        """Positions of the canvas in place of the window's own, where the condition says where it lies."""
        places = self.places(condition, samples)
        height, width = (side // self.patch for side in size)
        if all(place == (height, width, 0, 0) for place in places):
            yield
            return
        embed = self.transformer.pos_embed
        side = int(embed.pos_embed_max_size)
        table = embed.pos_embed.unflatten(1, (side, side))
        rows = []
        for canvas_height, canvas_width, top, left in places:
            if max(canvas_height, canvas_width) > side:
                raise UserError(
                    f"this transformer has positions for {side * self.patch * self.factor} pixels a side, "
                    f"not for {max(canvas_height, canvas_width) * self.patch * self.factor}",
                    hint="Give every window its own positions: time_ids=window.",
                )
            y, x = (side - canvas_height) // 2 + top, (side - canvas_width) // 2 + left
            rows.append(table[:, y : y + height, x : x + width].flatten(1, 2))
        positions = torch.cat(rows)
        embed.cropped_pos_embed = lambda *_: positions
        try:
            yield
        finally:
            del embed.cropped_pos_embed

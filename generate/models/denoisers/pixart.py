"""PixArt's transformer (Chen et al. 2023, 2024): noise from latents, one masked text and a time."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from drspo.errors import UserError
from generate.models.denoisers.denoiser import Condition
from generate.models.denoisers.transformer import TransformerDenoiser, spread

TOLD = 128
"""`sample_size` of the networks whose pipeline tells them resolution and aspect ratio."""


class PixArtDenoiser(TransformerDenoiser):
    """A `Denoiser` over a PixArtTransformer2DModel."""

    def __call__(self, latents: Tensor, timestep: Tensor, condition: Condition) -> Tensor:
        """The noise [S, C, h, w], float32, of latents [S, C, h, w]; a learned variance is left out."""
        samples = latents.shape[0]
        if any(top or left for _, _, top, left in self.places(condition, samples)):
            raise UserError(
                "PixArt scales its positions to the picture, so a window cannot be told where it lies",
                hint="Leave it at time_ids=window.",
            )
        output: Tensor = self.transformer(
            latents,
            encoder_hidden_states=spread(condition.text, samples),
            encoder_attention_mask=spread(condition.mask, samples),
            timestep=timestep.expand(samples),
            added_cond_kwargs=self._added(latents),
            return_dict=False,
        )[0]
        return output[:, : self.channels].float()

    def _added(self, latents: Tensor) -> dict[str, Any]:
        """Resolution and aspect ratio of PixArt-alpha at 1024, whose windows are pictures of their own."""
        if self.transformer.config.sample_size != TOLD:
            return {"resolution": None, "aspect_ratio": None}
        height, width = (side * self.factor for side in latents.shape[-2:])
        told = {"resolution": [height, width], "aspect_ratio": [height / width]}
        return {
            key: torch.tensor(value, dtype=latents.dtype, device=latents.device).repeat(latents.shape[0], 1)
            for key, value in told.items()
        }

"""FLUX.1's transformer: velocity from packed latents, two texts, a time, positions and a guidance scale."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from generate.models.denoisers.denoiser import Condition, Picture
from generate.models.denoisers.transformer import TransformerDenoiser, groups, spread

TOKEN = 2
"""Latents along each side of a token."""


class FluxDenoiser(TransformerDenoiser):
    """A `Denoiser` over a FluxTransformer2DModel, with or without a ControlNet beside it."""

    def __init__(self, transformer: Any, factor: int = 8, controlnet: Any = None, vae: Any = None) -> None:
        super().__init__(transformer, factor)
        self.patch, self.controlnet, self.vae = TOKEN, controlnet, vae
        self._shown: tuple[Tensor | None, Tensor | None] = (None, None)

    @property
    def channels(self) -> int:
        """Channels of the latents, four of which make one of a token's."""
        return int(self.transformer.config.in_channels) // TOKEN**2

    @property
    def embeds_guidance(self) -> bool:  # type: ignore[override]
        """Whether the network is told the guidance scale: dev is, schnell needs none."""
        return bool(self.transformer.config.guidance_embeds)

    def __call__(self, latents: Tensor, timestep: Tensor, condition: Condition) -> Tensor:
        """The velocity [S, C, h, w], float32, of latents [S, C, h, w]."""
        samples, _, height, width = latents.shape
        told = {
            "encoder_hidden_states": spread(condition.text, samples),
            "pooled_projections": spread(condition.pooled, samples),
            "timestep": timestep.expand(samples).to(latents.dtype) / 1000,
            "guidance": self._guidance(condition, latents),
        }
        packed = pack(latents)
        shown = self._control_latents(condition.picture, latents)
        places = self.places(condition, samples) or [(0, 0, 0, 0)] * samples
        found = torch.empty_like(packed)
        for (_, _, top, left), members in groups(places):
            mine = {key: None if value is None else value[members] for key, value in told.items()}
            ids = positions(height // TOKEN, width // TOKEN, top, left).to(latents.device, latents.dtype)
            mine |= {"img_ids": ids, "txt_ids": ids.new_zeros(condition.text.shape[1], 3)}
            found[members] = self._evaluate(packed[members], mine, condition.picture, shown, members)
        return unpack(found, height, width).float()

    def _evaluate(
        self,
        tokens: Tensor,
        told: dict[str, Any],
        picture: Picture | None,
        shown: Tensor | None,
        members: Tensor,
    ) -> Tensor:
        beside: dict[str, Any] = {}
        if picture is not None and shown is not None:
            blocks, singles = self.controlnet(
                hidden_states=tokens,
                controlnet_cond=shown[members],
                conditioning_scale=picture.scale,
                return_dict=False,
                **told,
            )
            beside = {"controlnet_block_samples": blocks, "controlnet_single_block_samples": singles}
        output: Tensor = self.transformer(hidden_states=tokens, return_dict=False, **told, **beside)[0]
        return output

    def _guidance(self, condition: Condition, latents: Tensor) -> Tensor | None:
        if not self.embeds_guidance:
            return None
        scale = 1.0 if condition.guidance is None else condition.guidance
        return torch.full([latents.shape[0]], scale, device=latents.device, dtype=torch.float32)

    def _control_latents(self, picture: Picture | None, latents: Tensor) -> Tensor | None:
        """The line art's packed latents: FLUX's ControlNets see what the autoencoder makes of it."""
        if picture is None:
            return None
        if self._shown[0] is not picture.pixels:
            self._shown = picture.pixels, pack(self._encoded(picture.pixels).to(latents))
        return self._shown[1]

    @torch.no_grad()
    def _encoded(self, pixels: Tensor) -> Tensor:
        """Scaled latents of pictures in 0..1: the posterior's mode, so that lines always give the same."""
        settings = self.vae.config
        values = (2 * pixels - 1).to(self.vae.device, self.vae.dtype)
        mode: Tensor = self.vae.encode(values).latent_dist.mode()
        return (mode - (settings.shift_factor or 0.0)) * settings.scaling_factor


def pack(latents: Tensor) -> Tensor:
    """Latents [S, C, h, w] as tokens [S, h / 2 * w / 2, 4C], each of a square of four."""
    samples, channels, height, width = latents.shape
    squares = latents.view(samples, channels, height // TOKEN, TOKEN, width // TOKEN, TOKEN)
    return squares.permute(0, 2, 4, 1, 3, 5).reshape(samples, -1, channels * TOKEN**2)


def unpack(tokens: Tensor, height: int, width: int) -> Tensor:
    """The inverse of `pack` for latents of this size."""
    squares = tokens.view(tokens.shape[0], height // TOKEN, width // TOKEN, -1, TOKEN, TOKEN)
    return squares.permute(0, 3, 1, 4, 2, 5).reshape(tokens.shape[0], -1, height, width)


def positions(height: int, width: int, top: int = 0, left: int = 0) -> Tensor:
    """Ids [height * width, 3] of tokens whose first lies at (top, left): 0, row, column."""
    rows, columns = torch.meshgrid(torch.arange(height) + top, torch.arange(width) + left, indexing="ij")
    return torch.stack([torch.zeros_like(rows), rows, columns], -1).flatten(0, 1).float()

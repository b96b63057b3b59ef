"""Stable Diffusion's and SDXL's UNet, with or without a ControlNet beside it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from diffusers.models.embeddings import get_timestep_embedding
from torch import Tensor

from generate.models.attention import Choose, installed, share_prompts
from generate.models.denoisers.denoiser import Condition


class UNetDenoiser:
    """A `Denoiser` over a UNet2DConditionModel."""

    def __init__(self, unet: Any, controlnet: Any = None) -> None:
        self.unet, self.controlnet = unet, controlnet

    @property
    def channels(self) -> int:
        """Channels of the latents."""
        return int(self.unet.config.in_channels)

    @property
    def tells_sizes(self) -> bool:
        """Whether the network is told sizes: SDXL's kind is, Stable Diffusion's is not."""
        return self.unet.config.addition_embed_type == "text_time"

    @property
    def embeds_guidance(self) -> bool:
        """Whether the guidance scale goes in beside the time, as in latent consistency models."""
        return self.unet.config.time_cond_proj_dim is not None

    @contextmanager
    def attending(self, attention: Choose = share_prompts) -> Iterator[None]:
        """Lets samples share rows of the condition inside the block; the old processors come back."""
        with ExitStack() as stack:
            stack.enter_context(installed(self.unet, attention))
            if self.controlnet is not None:
                stack.enter_context(installed(self.controlnet, share_prompts))
            yield

    def __call__(self, latents: Tensor, timestep: Tensor, condition: Condition) -> Tensor:
        """The prediction [S, C, h, w], float32, of scaled latents [S, C, h, w]."""
        told = {
            "timestep": timestep,
            "encoder_hidden_states": condition.text,
            "added_cond_kwargs": _added(condition, latents.shape[0]),
            "return_dict": False,
        }
        beside = self._residuals(latents, condition, told) | self._guidance(latents, condition)
        output: Tensor = self.unet(latents, **told, **beside)[0]
        return output.float()

    def _guidance(self, latents: Tensor, condition: Condition) -> dict[str, Any]:
        """The scale's embedding (Luo et al. 2023): sines of 1000 (w - 1), as such networks are trained."""
        if condition.guidance is None:
            return {}
        told = torch.full((latents.shape[0],), 1000 * (condition.guidance - 1), device=latents.device)
        embedding = get_timestep_embedding(
            told, self.unet.config.time_cond_proj_dim, flip_sin_to_cos=False, downscale_freq_shift=1
        )
        return {"timestep_cond": embedding.to(latents.dtype)}

    def _residuals(self, latents: Tensor, condition: Condition, told: dict[str, Any]) -> dict[str, Any]:
        picture = condition.picture
        if picture is None:
            return {}
        down, middle = self.controlnet(
            latents, controlnet_cond=picture.pixels, conditioning_scale=picture.scale, **told
        )
        return {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}


def _added(condition: Condition, samples: int) -> dict[str, Any] | None:
    added: dict[str, Any] = {}
    if condition.pooled is not None and condition.sizes is not None:
        pooled = condition.pooled
        added["text_embeds"] = pooled.repeat_interleave(samples // pooled.shape[0], dim=0)
        added["time_ids"] = condition.sizes.to(pooled.dtype)
    if condition.images:
        added["image_embeds"] = list(condition.images)
    return added or None

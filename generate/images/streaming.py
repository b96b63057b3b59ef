"""An autoencoder applied to a wide canvas strip by strip, exactly.

Usual VAE tiling runs the network on overlapping tiles and blends. It drifts in colour, because every group
norm then sees the statistics of its own tile, and it cuts the attention of the middle block. Here all strips
advance layer by layer together: a 3x3 convolution borrows one column from its neighbours, a group norm takes
its mean and variance from the whole canvas, and attention sees every position (its queries in chunks, so that
no score matrix is ever held). What comes out equals the untiled result up to the order of float sums.

Only the strip at work is on the device; the others may wait in host memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

QUERY_CHUNK = 4096


@dataclass
class Strips:
    """One canvas [1, C, H, W] cut into columns; `parts` wait on `store`, work happens on `device`."""

    parts: list[Tensor]
    device: torch.device
    store: torch.device

    @classmethod
    def cut(cls, canvas: Tensor, bounds: list[tuple[int, int]], store: torch.device) -> Strips:
        return cls([canvas[..., a:b].to(store, copy=True) for a, b in bounds], canvas.device, store)

    def join(self, device: torch.device | str) -> Tensor:
        return torch.cat([part.to(device) for part in self.parts], dim=-1)

    def __iter__(self) -> Iterator[Tensor]:
        return (part.to(self.device) for part in self.parts)

    def map(self, function: Callable[[Tensor], Tensor]) -> Strips:
        """A new canvas, each strip by itself; the old strips are dropped on the way."""
        return self.with_halo(function, 0, 0)

    def with_halo(
        self,
        function: Callable[[Tensor], Tensor],
        left: int,
        right: int,
        before: Callable[[Tensor], Tensor] | None = None,
    ) -> Strips:
        """A new canvas, `function(before(part))`, where each part is widened by `left` and `right` columns.

        The columns are those of the neighbours after the local map `before`, and zeros beyond the two ends.
        Strips are dropped as soon as both neighbours have used them, so that one canvas lives, not two;
        give it a `copy()` to keep the original.
        """
        before = before or (lambda part: part)
        made: list[Tensor] = []
        last: Tensor | None = None
        for index, stored in enumerate(self.parts):
            part = before(stored.to(self.device))
            following = (
                self.parts[index + 1][..., :1].to(self.device) if index + 1 < len(self.parts) else None
            )
            after = None if following is None else before(following)[..., :right]
            self.parts[index] = stored = stored.new_empty(0)
            padded = torch.cat([_edge(last, part, left), part, _edge(after, part, right)], dim=-1)
            last = part[..., part.shape[-1] - left :].clone()
            made.append(function(padded).to(self.store))
        return Strips(made, self.device, self.store)

    def copy(self) -> Strips:
        """The same strips for a second reader: consuming one canvas leaves the other's strips alive."""
        return Strips(list(self.parts), self.device, self.store)


def strip_bounds(width: int, strip: int) -> list[tuple[int, int]]:
    """Cuts `width` columns into the fewest nearly equal strips of at most `strip` columns."""
    count = -(-width // strip)
    edges = [width * index // count for index in range(count + 1)]
    return list(pairwise(edges))


def supports_streaming(vae: Any) -> bool:
    """Whether every block of this autoencoder is one that `stream_decoder` and `stream_encoder` know."""
    known = {"DownEncoderBlock2D", "UpDecoderBlock2D", "UNetMidBlock2D"}
    if type(vae).__name__ != "AutoencoderKL":
        return False
    halves = (vae.encoder, vae.decoder)
    blocks = [
        b
        for half in halves
        for b in (*getattr(half, "down_blocks", ()), half.mid_block, *getattr(half, "up_blocks", ()))
    ]
    return {type(block).__name__ for block in blocks} <= known


def stream_decoder(vae: Any, latents: Strips) -> Strips:
    """Pixel strips of unscaled latent strips: `AutoencoderKL.decode`."""
    decoder = vae.decoder
    x = latents if vae.post_quant_conv is None else latents.map(vae.post_quant_conv)
    x = _middle(decoder.mid_block, _conv(decoder.conv_in, x))
    for block in decoder.up_blocks:
        for resnet in block.resnets:
            x = _resnet(resnet, x)
        for upsampler in block.upsamplers or ():
            x = _conv(upsampler.conv, x, lambda part: F.interpolate(part, scale_factor=2.0, mode="nearest"))
    return _conv(decoder.conv_out, x, _normed(decoder.conv_norm_out, decoder.conv_act, x))


def stream_encoder(vae: Any, images: Strips) -> Strips:
    """Strips of the posterior's moments [1, 2C, H/8, W/8] of pixel strips: `AutoencoderKL.encode`."""
    encoder = vae.encoder
    x = _conv(encoder.conv_in, images)
    for block in encoder.down_blocks:
        for resnet in block.resnets:
            x = _resnet(resnet, x)
        for downsampler in block.downsamplers or ():
            x = _downsample(downsampler, x)
    x = _middle(encoder.mid_block, x)
    x = _conv(encoder.conv_out, x, _normed(encoder.conv_norm_out, encoder.conv_act, x))
    return x if vae.quant_conv is None else x.map(vae.quant_conv)


def group_statistics(strips: Strips, groups: int, eps: float) -> tuple[Tensor, Tensor]:
    """Mean and 1 / standard deviation per group over the whole canvas, each [groups], float64.

    Each strip gives its own mean and sum of squared deviations, which are then combined (Chan et al. 1979):
    adding raw squares would lose digits where the mean is large.
    """
    count = 0.0
    mean = square = torch.zeros(groups, dtype=torch.float64)
    for part in strips:
        values = part.float().reshape(groups, -1)
        variance, centre = torch.var_mean(values, dim=1, correction=0)
        more, centre = float(values.shape[1]), centre.double().cpu()
        delta = centre - mean
        mean = mean + delta * (more / (count + more))
        square = square + variance.double().cpu() * more + delta**2 * (count * more / (count + more))
        count += more
    return mean, (square / count + eps).rsqrt()


def _normed(
    norm: nn.GroupNorm, activation: Callable[[Tensor], Tensor], x: Strips
) -> Callable[[Tensor], Tensor]:
    """`activation(norm(part))` with the statistics of the canvas, as a function of one part."""
    mean, rstd = group_statistics(x, norm.num_groups, norm.eps)
    per_channel = norm.num_channels // norm.num_groups
    device = norm.weight.device
    scale = rstd.repeat_interleave(per_channel).to(device) * norm.weight.double()
    shift = norm.bias.double() - mean.repeat_interleave(per_channel).to(device) * scale
    scale, shift = (v.to(torch.float32)[None, :, None, None] for v in (scale, shift))
    return lambda part: activation((part.float() * scale + shift).to(part.dtype))


def _conv(conv: nn.Conv2d, x: Strips, before: Callable[[Tensor], Tensor] | None = None) -> Strips:
    """A 3x3 convolution over the canvas, after the local function `before`; `x` is consumed."""
    return x.with_halo(lambda part: F.conv2d(part, conv.weight, conv.bias, padding=(1, 0)), 1, 1, before)


def _downsample(down: Any, x: Strips) -> Strips:
    """Halves the canvas as diffusers does: zeros on the right and below, then stride 2."""
    weight, bias = down.conv.weight, down.conv.bias
    return x.with_halo(lambda part: F.conv2d(F.pad(part, (0, 0, 0, 1)), weight, bias, stride=2), 0, 1)


def _resnet(resnet: Any, x: Strips) -> Strips:
    hidden = _conv(resnet.conv1, x.copy(), _normed(resnet.norm1, resnet.nonlinearity, x))
    if resnet.conv_shortcut is not None:
        x = x.map(resnet.conv_shortcut)
    hidden = _conv(resnet.conv2, hidden, _normed(resnet.norm2, resnet.nonlinearity, hidden))
    for index, part in enumerate(hidden.parts):
        part += x.parts[index]
        part /= resnet.output_scale_factor
    return hidden


def _middle(block: Any, x: Strips) -> Strips:
    x = _resnet(block.resnets[0], x)
    for attention, resnet in zip(block.attentions, block.resnets[1:], strict=True):
        if attention is not None:
            x = _attend(attention, x)
        x = _resnet(resnet, x)
    return x


def _attend(attention: Any, x: Strips) -> Strips:
    """Self-attention of every position with every other, queries in chunks."""
    norm = _normed(attention.group_norm, lambda part: part, x)
    widths = [part.shape[-1] for part in x.parts]
    canvas = x.join(x.device)
    height = canvas.shape[2]
    tokens = norm(canvas).flatten(2).transpose(1, 2)
    key, value = attention.to_k(tokens), attention.to_v(tokens)
    mixed = torch.cat(
        [_attend_chunk(attention, chunk, key, value) for chunk in tokens.split(QUERY_CHUNK, 1)], 1
    )
    out = mixed.transpose(1, 2).unflatten(2, (height, -1))
    if attention.residual_connection:
        out = out + canvas
    out = out / attention.rescale_output_factor
    return Strips([part.to(x.store) for part in out.split(widths, -1)], x.device, x.store)


def _attend_chunk(attention: Any, tokens: Tensor, key: Tensor, value: Tensor) -> Tensor:
    def heads(t: Tensor) -> Tensor:
        return t.unflatten(2, (attention.heads, -1)).transpose(1, 2)

    mixed = F.scaled_dot_product_attention(heads(attention.to_q(tokens)), heads(key), heads(value))
    return attention.to_out[0](mixed.transpose(1, 2).flatten(2))


def _edge(neighbour: Tensor | None, part: Tensor, columns: int) -> Tensor:
    if neighbour is None:
        return part.new_zeros((*part.shape[:-1], columns))
    return neighbour

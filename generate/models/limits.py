"""Sizes that a model can be asked for directly, and the nearest to one that it cannot."""

from __future__ import annotations

from dataclasses import dataclass

from drspo.errors import UserError

ENLARGED = (2, 4)
BINS = {32: "256", 64: "512", 128: "1024", 256: "2048"}
"""PixArt's tables in diffusers, by the transformer's `sample_size`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a transformer's positions or its training rule out; 0 and "" rule out nothing."""

    multiple: int = 1
    """pixels that a side must be a multiple of: a latent's times a token's"""
    longest: int = 0
    """pixels of the longest side that the network has positions for"""
    rated: int = 0
    """pixels of a picture up to which its makers rate it"""
    bins: int = 0
    """`sample_size` of a PixArt, which was trained on a table of sizes"""

    def require(self, height: int, width: int, *, beyond: bool = False) -> None:
        """UserError for a picture that the model cannot paint in one piece, in pixels.

        `beyond` allows what the makers do not rate or trained for, where the network computes it at all.
        """
        reason = self._reason(height, width, beyond)
        if reason:
            raise UserError(
                f"a picture of {height}x{width} is beyond this model: {reason}",
                hint=self._advice(height, width),
            )

    def _reason(self, height: int, width: int, beyond: bool) -> str:
        if height % self.multiple or width % self.multiple:
            return f"its sides are multiples of {self.multiple}"
        if self.longest and max(height, width) > self.longest:
            return f"it has positions for {self.longest} pixels along a side"
        if beyond:
            return ""
        if self.rated and height * width > self.rated:
            return f"it is rated up to {self.rated / 1e6:.1f} million pixels"
        if self.bins and (height, width) not in bins(self.bins):
            return (
                f"it was trained on a table of sizes, whose nearest is {_sized(self._nearest(height, width))}"
            )
        return ""

    def _nearest(self, height: int, width: int) -> tuple[int, int]:
        """The table's entry of the nearest aspect ratio, as PixArt's own pipeline chooses it."""
        return min(bins(self.bins), key=lambda size: abs(size[0] / size[1] - height / width))

    def _advice(self, height: int, width: int) -> str:
        for scale in ENLARGED:
            small = (height // scale, width // scale)
            divides = height % scale == 0 and width % scale == 0
            if divides and not self._reason(*small, beyond=False):
                return f"--upscale {scale} paints {_sized(small)} and enlarges it by Real-ESRGAN."
        if self.bins:
            return f"It can paint {_sized(self._nearest(height, width))}."
        return f"It can paint {_sized(self._shrunk(height, width))}."

    def _shrunk(self, height: int, width: int) -> tuple[int, int]:
        """A size of nearly the same aspect ratio that nothing rules out."""
        share = min(1.0, self.longest / max(height, width) if self.longest else 1.0)
        if self.rated:
            share = min(share, (self.rated / (height * width)) ** 0.5)
        sides = [max(int(side * share) // self.multiple, 1) * self.multiple for side in (height, width)]
        return sides[0], sides[1]


def bins(sample_size: int) -> list[tuple[int, int]]:
    """PixArt's table of sizes (height, width), as diffusers has it; UserError for a network without one."""
    from diffusers.pipelines.pixart_alpha import pipeline_pixart_alpha, pipeline_pixart_sigma

    if sample_size not in BINS:
        raise UserError(f"there is no table of sizes for a PixArt of sample_size {sample_size}")
    name = f"ASPECT_RATIO_{BINS[sample_size]}_BIN"
    table = getattr(pipeline_pixart_sigma, name, None) or getattr(pipeline_pixart_alpha, name)
    return [(int(height), int(width)) for height, width in table.values()]


def _sized(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"

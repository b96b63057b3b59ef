"""What the transformers have in common: rows of the condition for each sample, and places on the canvas."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from drspo.errors import UserError
from generate.models.attention import Choose, share_prompts
from generate.models.denoisers.denoiser import Condition


class TransformerDenoiser:
    """A `Denoiser` over one of diffusers' transformers; a subclass evaluates it."""

    embeds_guidance = False

    def __init__(self, transformer: Any, factor: int = 8) -> None:
        self.transformer, self.factor = transformer, factor
        self.patch = int(transformer.config.patch_size)

    @property
    def channels(self) -> int:
        """Channels of the latents."""
        return int(self.transformer.config.in_channels)

    @property
    def tells_sizes(self) -> bool:
        """Whether the network can be told where a window lies."""
        return True

    @contextmanager
    def attending(self, attention: Choose = share_prompts) -> Iterator[None]:
        """The network as it is: text and picture attend to each other, so there is no prompt to share.

        UserError for a method that changes how layers attend, which is written for UNets.
        """
        if attention is not share_prompts:
            raise UserError(
                f"a {type(self.transformer).__name__} has no attention that this method could change",
                hint="Choose another method, such as multidiffusion or drspo.",
            )
        yield

    def __call__(self, latents: Tensor, timestep: Tensor, condition: Condition) -> Tensor:
        """The prediction [S, C, h, w], float32, of scaled latents [S, C, h, w]."""
        raise NotImplementedError

    def places(self, condition: Condition, samples: int) -> list[tuple[int, int, int, int]]:
        """For each sample (canvas height, width, top, left) in tokens; its own size at (0, 0) tells nothing.

        UserError where a window does not begin at a token of the canvas.
        """
        if condition.sizes is None:
            return []
        unit = self.factor * self.patch
        found = []
        for height, width, top, left, *_ in condition.sizes.tolist():
            if any(value % unit for value in (height, width, top, left)):
                raise UserError(
                    f"windows that are told where they lie must lie on the grid of {unit} pixels",
                    hint=f"Choose a stride that is a multiple of {unit}, or time_ids=window.",
                )
            found.append((int(height) // unit, int(width) // unit, int(top) // unit, int(left) // unit))
        return found


def spread(rows: Tensor | None, samples: int) -> Tensor | None:
    """Each of G rows for S / G samples."""
    return None if rows is None else rows.repeat_interleave(samples // rows.shape[0], dim=0)


def groups(places: list[tuple[int, int, int, int]]) -> list[tuple[tuple[int, int, int, int], Tensor]]:
    """The different places with the samples that lie there, for networks that take one place a call."""
    return [
        (place, torch.tensor([i for i, other in enumerate(places) if other == place]))
        for place in dict.fromkeys(places)
    ]

"""Known parts of a canvas: at every step they have the level's own noise, and at the end they are themselves.

Blended latent diffusion (Avrahami et al. 2023, algorithm 1), with one noise for all levels.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from generate.models.schedule import Schedule
from generate.sampling.loop import Advance, Moment


@dataclass(frozen=True)
class Known:
    """Clean latents [1, C, H, W], a mask that is 1 where they are known, and their noise."""

    clean: Tensor
    mask: Tensor
    noise: Tensor

    def around(self, advance: Advance, schedule: Schedule) -> Advance:
        """A step that begins from known latents where they are known."""

        def step(latents: Tensor, moment: Moment) -> Tensor:
            here = schedule.noised(self.clean, self.noise, moment.timestep)
            return advance(self._laid(here, latents), moment)

        return step

    def finished(self, latents: Tensor) -> Tensor:
        """Final latents, with the known ones in their places."""
        return self._laid(self.clean, latents)

    def _laid(self, known: Tensor, latents: Tensor) -> Tensor:
        return known * self.mask + latents * (1 - self.mask)

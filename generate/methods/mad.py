"""MAD, Merge-Attend-Diffuse: windows attend on the shared canvas (Quattrini et al., ECCV 2024)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Annotated, Any

from torch import Tensor

from drspo.errors import UserError
from drspo.ranges import Range
from generate.canvas.plan import Canvas
from generate.methods import multidiffusion
from generate.methods.multidiffusion import MultiDiffusion
from generate.methods.one_stage import Run
from generate.models.attention import chosen_layers
from generate.models.canvas_attention import Merge, require_aligned
from generate.models.specs import ModelSpec
from generate.request import Request
from generate.sampling.loop import Advance, Moment
from generate.sampling.predict import Predictor


@dataclass(frozen=True, kw_only=True)
class Config(multidiffusion.Config):
    """Settings of MAD."""

    threshold: Annotated[int, Range(0, 1 << 31, also=(-1,))] = -1
    """steps, from the noisy end, whose self-attention is merged on the canvas; -1: half of them"""
    layers: str = "all"
    """layers that merge: all, or the beginnings of their names, such as mid_block,up_blocks.0"""


class MAD(MultiDiffusion):
    """MultiDiffusion whose attention layers see the canvas instead of their window.

    Below the threshold step self-attention merges queries, keys and values; cross-attention merges its
    queries at every step. Convolutions, norms and feed-forward layers stay in their windows. All windows must
    go through the network together; only the guidance halves can be told apart to save memory.
    """

    name = "mad"
    config_class = Config
    together = True

    @classmethod
    def check_settings(cls, config: Any, request: Request, spec: ModelSpec | None) -> None:
        """UserError for what is wrong whatever the weights are."""
        if config.threshold < -1:
            raise UserError(
                f"A threshold counts steps: -1 (half of them), 0 or more, not {config.threshold}."
            )
        super().check_settings(config, request, spec)

    def check(self, requests: list[Request]) -> None:
        """UserError for anything wrong with the requests, before heavy work."""
        if self.family.unet is None:
            raise UserError(
                f"mad merges the attention of UNets, and {self.family.model_id} is a transformer",
                hint="Choose another method, such as multidiffusion or drspo.",
            )
        super().check(requests)
        chosen_layers(self.family.unet, self.config.layers)

    def canvas(self, request: Request) -> Canvas:
        """The request's canvas, whose windows lie on the grid of every feature map."""
        canvas = super().canvas(request)
        require_aligned(canvas, self.family.coarsest)
        return canvas

    def resolved(self, request: Request) -> Any:
        """The settings in force, with the threshold that these steps give."""
        return replace(super().resolved(request), threshold=self.threshold(len(self.schedule(request))))

    def threshold(self, steps: int) -> int:
        """tau: how many of the first steps merge self-attention; by default half (the authors' 25 of 50)."""
        return int(self.config.threshold) if self.config.threshold >= 0 else steps // 2

    @contextmanager
    def advance(self, run: Run) -> Iterator[tuple[Advance, Predictor]]:
        """MultiDiffusion's step with layers that merge on the canvas; the others share prompts as ever."""
        tau = self.threshold(len(run.schedule))
        merge = Merge(self.family.unet, run.canvas, self.config.layers, tau)
        with self.fused(run, merge) as (step, predict):

            def counted(latents: Tensor, moment: Moment) -> Tensor:
                merge.step = moment.index
                return step(latents, moment)

            yield counted, predict

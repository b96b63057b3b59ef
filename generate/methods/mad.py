"""MAD, Merge-Attend-Diffuse: windows attend on the shared canvas (Quattrini et al., ECCV 2024)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from diffusers.models.attention_processor import Attention

from drspo.errors import UserError, did_you_mean
from generate.methods import multidiffusion
from generate.methods.multidiffusion import MultiDiffusion
from generate.models.attention import require_simple, share_prompts
from generate.models.canvas_attention import CanvasCrossAttention, CanvasSelfAttention, Clock
from generate.models.prompts import PromptEmbeddings
from generate.request import PIXELS_PER_LATENT, Request
from generate.sampling.fusion import Canvas, WindowPredictor, coverage, windowed
from generate.sampling.scroll import canvas_time_ids

if TYPE_CHECKING:
    from generate.models.family import ModelFamily, ModelSpec


@dataclass(frozen=True, kw_only=True)
class Config(multidiffusion.Config):
    """Settings of MAD."""

    threshold: int = -1
    """steps, from the noisy end, whose self-attention is merged on the canvas; -1: half of them"""
    layers: str = "all"
    """layers that merge: all, or the beginnings of their names, such as mid_block,up_blocks.0"""


class MAD(MultiDiffusion):
    """MultiDiffusion whose attention layers see the canvas instead of their window.

    Below the threshold step self-attention merges queries, keys and values; cross-attention merges its
    queries at every step. Convolutions, norms and feed-forward layers stay in their windows.
    """

    name = "mad"
    config_class = Config

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
        super().check(requests)
        chosen_layers(self.family.unet, self.config.layers)

    def canvas(self, request: Request) -> Canvas:
        """The request's canvas, whose windows lie on the grid of every feature map."""
        canvas = super().canvas(request)
        require_aligned(canvas, self.family.coarsest)
        return canvas

    def resolved(self, request: Request) -> Any:
        """The settings in force, with the threshold that these steps give."""
        return replace(super().resolved(request), threshold=self._threshold_of(request))

    def threshold(self, steps: int) -> int:
        """tau: how many of the first steps merge self-attention; by default half (the authors' 25 of 50)."""
        return self.config.threshold if self.config.threshold >= 0 else steps // 2

    def predictor(
        self, canvas: Canvas, embeddings: PromptEmbeddings, request: Request
    ) -> AbstractContextManager[WindowPredictor]:
        """All windows together, attending on the canvas."""
        return merged(
            self.family, canvas, embeddings,
            guidance_scale=request.guidance_scale, guidance_rescale=request.guidance_rescale,
            layers=self.config.layers, threshold=self._threshold_of(request),
            time_ids=canvas_time_ids(self.family, self.config.time_ids, canvas),
        )  # fmt: skip

    def _threshold_of(self, request: Request) -> int:
        return self.threshold(len(self.scheduler(request).timesteps))


def require_aligned(canvas: Canvas, coarsest: int) -> None:
    """Raises UserError unless canvas and windows lie on the grid of the UNet's coarsest feature map."""
    sides = {canvas.height, canvas.width, *(s for w in canvas.windows for s in (w.y0, w.x0, *w.shape))}
    if any(side % coarsest for side in sides):
        unit = coarsest * PIXELS_PER_LATENT
        raise UserError(
            f"MAD merges feature maps down to 1/{unit} of the pixels, "
            "and these windows do not lie on that grid.",
            hint=f"Make height, width, window and stride multiples of {unit} pixels.",
        )
    if coverage(canvas, canvas.weights.device) is not None:
        raise UserError(
            "MAD cannot attend to parts of the canvas that no window reaches.", hint="Use edge=flush."
        )


@contextmanager
def merged(
    family: ModelFamily,
    canvas: Canvas,
    embeddings: PromptEmbeddings,
    *,
    layers: str,
    threshold: int,
    **options: Any,
) -> Iterator[WindowPredictor]:
    """A predictor whose windows attend on the canvas; `options` are those of `fusion.windowed`.

    The windows must go through the UNet together; only the guidance halves can be told apart to save memory.
    """
    chosen = chosen_layers(family.unet, layers)
    clock = Clock()

    def choose(name: str, layer: Attention) -> Any:
        if name not in chosen:
            return share_prompts(name, layer)
        require_simple(name, layer)
        if layer.is_cross_attention:
            return CanvasCrossAttention(layer, canvas)
        return CanvasSelfAttention(canvas, clock, threshold)

    with windowed(family, canvas, embeddings, attention=choose, together=True, **options) as predict:
        predict.before = clock.set
        yield predict


def chosen_layers(unet: Any, layers: str) -> set[str]:
    """Names of the attention layers that `layers` selects: "all", or comma-separated beginnings of names."""
    names = [name for name, module in unet.named_modules() if isinstance(module, Attention)]
    if layers == "all":
        return set(names)
    chosen: set[str] = set()
    for start in (part.strip() for part in layers.split(",")):
        found = {name for name in names if start and (name + ".").startswith(start + ".")}
        if not found:
            blocks = sorted({".".join(name.split(".")[:n]) for name in names for n in (1, 2)})
            raise UserError(
                f"No attention layer's name begins with {start!r}.", hint=did_you_mean(start, blocks)
            )
        chosen |= found
    return chosen

"""Trains every model of the miniature and writes the folders that ship: `python -m miniature.fit`.

Each part trains once: a finished part is loaded, an interrupted one goes on from its last checkpoint.
Checkpoints, sample grids and the log lie in the working folder; the weights go to `miniature/weights`.
"""

from __future__ import annotations

import argparse
import os
from copy import deepcopy
from functools import cached_property
from pathlib import Path

import torch

from miniature import export
from miniature.fit_autoencoder import DECODER_STEPS, fit_autoencoder, fit_decoder
from miniature.fit_autoencoder import STEPS as AUTOENCODER_STEPS
from miniature.fit_clip import STEPS as CLIP_STEPS
from miniature.fit_clip import fit_clip
from miniature.fit_controlnet import STEPS as CONTROLNET_STEPS
from miniature.fit_controlnet import WIDE_STEPS as WIDE_CONTROLNET_STEPS
from miniature.fit_controlnet import fit_controlnet, fit_wide_controlnet
from miniature.fit_crisp import STEPS as CRISP_STEPS
from miniature.fit_crisp import fit_crisp
from miniature.fit_detector import RUIN_STEPS, fit_detector, fit_ruin
from miniature.fit_detector import STEPS as DETECTOR_STEPS
from miniature.fit_heads import STEPS as HEAD_STEPS
from miniature.fit_heads import fit_heads
from miniature.fit_text import STEPS as TEXT_STEPS
from miniature.fit_text import TextPair, fit_text
from miniature.fit_tokenizer import fit_tokenizer
from miniature.fit_transformer import STEPS as TRANSFORMER_STEPS
from miniature.fit_transformer import fit_transformer
from miniature.fit_unet import STEPS as UNET_STEPS
from miniature.fit_unet import WIDE_STEPS, build_scheduler, fit_unet, fit_wide_unet
from miniature.fit_upscaler import STEPS as UPSCALER_STEPS
from miniature.fit_upscaler import fit_upscaler
from miniature.latents import Encoded, TextStack, encoded
from miniature.pictures import BUCKETS
from miniature.samples import FlowSampler, UnetSampler

WEIGHTS = Path(__file__).parent / "weights"
PARTS = (
    *("autoencoder", "text", "clip", "aesthetic", "detector", "unet", "decoder", "controlnet"),
    *("transformer", "upscaler"),
)


class Zoo:
    """All models, each trained or loaded when first asked for, after those it needs."""

    def __init__(self, work: Path, scale: float = 1.0):
        self.work = work
        self.scale = scale

    def _steps(self, full: int) -> int:
        return max(1, round(full * self.scale))

    @cached_property
    def tokenizer(self):
        return fit_tokenizer(self.work / "tokenizer")

    @cached_property
    def autoencoder(self):
        return fit_autoencoder(self.work, self._steps(AUTOENCODER_STEPS))

    @cached_property
    def polished(self):
        """The autoencoder with its decoder polished."""
        return fit_decoder(deepcopy(self.autoencoder), self.work, self._steps(DECODER_STEPS))

    @cached_property
    def decoder(self):
        """The autoencoder as it ships, with its decoder made crisp."""
        return fit_crisp(deepcopy(self.polished), self.work, self._steps(CRISP_STEPS))

    @cached_property
    def text(self) -> TextPair:
        return fit_text(self.tokenizer, self.work, self._steps(TEXT_STEPS))

    @cached_property
    def text_stack(self) -> TextStack:
        return TextStack(self.tokenizer, self.text.first, self.text.second)

    @cached_property
    def clip(self):
        return fit_clip(self.tokenizer, self.work, self._steps(CLIP_STEPS))

    @cached_property
    def aesthetic(self):
        return fit_heads(self.clip, self.work, self._steps(HEAD_STEPS))

    @cached_property
    def detector(self):
        plain = fit_detector(self.polished, self.work, self._steps(DETECTOR_STEPS))
        return fit_ruin(plain, self.polished, self.work, self._steps(RUIN_STEPS))

    @cached_property
    def buckets(self) -> list[Encoded]:
        return [encoded(size, self.autoencoder, self.text_stack, self.work) for size in BUCKETS]

    @cached_property
    def sampler(self) -> UnetSampler:
        return UnetSampler(self.autoencoder, self.text_stack, build_scheduler(), self.work)

    @cached_property
    def narrow_unet(self):
        """The UNet at half the width that ships: most of what there is to learn is learnt cheaply."""
        return fit_unet(self.buckets, self.work, self._steps(UNET_STEPS), self.sampler)

    @cached_property
    def unet(self):
        return fit_wide_unet(self.narrow_unet, self.buckets, self.work, self._steps(WIDE_STEPS), self.sampler)

    @cached_property
    def narrow_controlnet(self):
        """The ControlNet of the narrow UNet."""
        return fit_controlnet(
            self.narrow_unet, self.autoencoder, self.text_stack, self.work, self._steps(CONTROLNET_STEPS)
        )

    @cached_property
    def controlnet(self):
        return fit_wide_controlnet(
            self.narrow_controlnet, self.unet, self.autoencoder, self.text_stack, self.work,
            self._steps(WIDE_CONTROLNET_STEPS),
        )  # fmt: skip

    @cached_property
    def transformer(self):
        """The flow-matching family."""
        return fit_transformer(
            self.buckets, self.text_stack, self.work, self._steps(TRANSFORMER_STEPS),
            FlowSampler(self.decoder, self.text_stack, self.work),
        )  # fmt: skip

    @cached_property
    def upscaler(self):
        """The network that doubles pictures, for those of the shipped decoder."""
        return fit_upscaler(self.decoder, self.work, self._steps(UPSCALER_STEPS))


def fit(parts: list[str], work: Path, out: Path, scale: float = 1.0) -> None:
    """Trains the named parts with all that they need and exports the folders that they belong to."""
    zoo = Zoo(work, scale)
    for part in parts:
        getattr(zoo, part)
    export.write(zoo, parts, out)


def main(arguments: list[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m miniature.fit", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--only",
        choices=PARTS,
        action="append",
        help="train this part and what it needs; repeatable",
    )
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="where the trained folders go")
    parser.add_argument(
        "--work", type=Path, default=Path("runs/miniature"), help="checkpoints, caches, samples, log"
    )
    parser.add_argument("--scale", type=float, default=1.0, help="share of the full number of steps")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    torch.set_flush_denormal(True)  # a training that meets denormals on a CPU slows down several times
    fit(chosen.only or list(PARTS), chosen.work, chosen.out, chosen.scale)


if __name__ == "__main__":
    main()

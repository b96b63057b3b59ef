"""Human Preference Score v2 (Wu et al. 2023): the cosine of a ViT-H/14 CLIP tuned whole on human choices.

Versions 2.0 and 2.1 are other weights on another scale; scores compare only under the same prompt. HPS shows
a picture whole: its own preprocessing fits the long side and pads with black, so that view is the default.
"""

from __future__ import annotations

from pathlib import Path

from drspo.registry import package_folder
from eval.backbones.clip_open import CONFIG
from eval.backbones.embeddings import load_backbone
from eval.backbones.files import find
from eval.metrics.text_image import TwoTowers

ARCHITECTURE = "ViT-H-14"
REPOSITORY = "xswu/HPSv2"


class HpsV2(TwoTowers):
    """HPS v2.0, a raw cosine of about 0.2 to 0.35; `official` is the letterbox.

    `weights` is a Hub id or folder that holds the published file, a file for ViT-H-14 (.pt or .safetensors),
    or a folder in open_clip's format with an architecture of its own.
    """

    name = "hps_v2"
    unit = "cosine (HPS v2.0)"
    file = "HPS_v2_compressed.pt"

    def __init__(
        self,
        weights: str = REPOSITORY,
        view: str = "official",
        device: str = "auto",
        batch_size: int = 32,
        cache: str = "",
    ) -> None:
        backbone = load_backbone(self._backbone(weights), device, batch_size, cache)
        super().__init__(backbone, "letterbox" if view == "official" else view)
        self.checkpoint = weights if weights != REPOSITORY else f"{weights}/{self.file}"

    def _backbone(self, weights: str) -> str:
        folder = package_folder(weights) if weights.startswith("package:") else Path(weights).expanduser()
        if (folder / CONFIG).is_file():
            return str(folder)
        return f"{ARCHITECTURE}:{find(weights, (self.file, *self.safe_names()), self.name).path}"

    def safe_names(self) -> tuple[str, ...]:
        """Other names that the same weights go by."""
        return (str(Path(self.file).with_suffix(".safetensors")), "model.safetensors")


class HpsV21(HpsV2):
    """HPS v2.1: the same network, newer weights, another scale."""

    name = "hps_v21"
    unit = "cosine (HPS v2.1)"
    file = "HPS_v2.1_compressed.pt"

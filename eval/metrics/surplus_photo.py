"""Surplus objects of photographs: the measure of `surplus`, on patch tokens instead of colours.

No number is given by weights whose controls have not passed (`calibration`). What it cannot tell apart is
said there and holds for every such measure: what is rightly repeated (bricks, stars, a forest, an arcade)
counts as repeated; a prompt that asks for it excuses it, and only its reader knows.
"""

from __future__ import annotations

import logging

import numpy as np
from PIL import Image

from drspo.errors import UserError
from drspo.files.pictures import rgb
from eval.backbones.patches import PatchMaps
from eval.base import Missing
from eval.metrics.calibration import RECIPE, Calibration, calibrated, known, require
from eval.metrics.matching import Repeats, repeats
from eval.metrics.salience import Field
from eval.metrics.token_field import residual, token_field

log = logging.getLogger(__name__)
DINO = "facebook/dinov2-with-registers-base"


class SurplusPhoto:
    """Things beyond the first of their kind in photographs, per image; below 0.3 is none.

    `backbone` is a Hub id or folder of DINOv2 in transformers' layout, or a CLIP as the other scorers name
    it. Its first use calibrates it, minutes on a CPU, and keeps the outcome beside the embeddings in `cache`.
    """

    name = "surplus_photo"
    unit = "objects that are copies of another"
    higher_is_better = False
    version = "1"
    view = "whole"

    def __init__(
        self, backbone: str = DINO, device: str = "auto", batch_size: int = 8, cache: str = ""
    ) -> None:
        self.maps = PatchMaps(backbone, self.name, device, batch_size)
        self.checkpoint, self.revision = backbone, self.maps.tower.weights.revision
        self.checkpoint_hash = f"{self.maps.hash}+{RECIPE}"
        self.cache = cache
        self._found = known(self.maps.hash, cache)
        if self._found is not None:
            require(self._found, backbone)

    @property
    def calibration(self) -> Calibration:
        """Floor and gate of these weights; UserError when their controls fail."""
        if self._found is None:
            self._found = calibrated(self.maps, self.maps.hash, self.cache)
        require(self._found, self.checkpoint)
        return self._found

    def score(self, images: list[Image.Image], prompts: list[str]) -> list[float]:
        """One count per image; prompts don't matter. Missing, with the reason, where the controls fail."""
        if not images:
            return []
        try:
            self.calibration  # noqa: B018
        except UserError as error:
            log.warning("%s", error)
            return [Missing(f"{error.what}: {error.where}")] * len(images)
        return [self.look(np.asarray(rgb(image)))[1].surplus for image in images]

    def look(self, image: np.ndarray) -> tuple[Field, Repeats]:
        """What stands out of an RGB picture, uint8 [height, width, 3], and how often it stands there."""
        found = self.calibration
        if image.shape[0] > image.shape[1]:
            image = np.ascontiguousarray(image.transpose(1, 0, 2))
        field = token_field(residual(self.maps(image)), image, found.floor)
        return field, repeats(field, found.gate)

    def release(self) -> None:
        """Frees the network."""
        self.maps.release()

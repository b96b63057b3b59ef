"""Classifier-free guidance: how the predictions with and without the prompt join."""

from __future__ import annotations

from torch import Tensor

from generate.sampling.predict import Prediction


def guide(prediction: Prediction, scale: float, rescale: float = 0.0) -> Tensor:
    """u + g (c - u) of predictions [n, C, h, w] (Ho and Salimans 2022, eq. 6); c where there is no u.

    `rescale` is phi of Lin et al. 2023, section 3.4: the guided prediction brought back to the conditional
    one's standard deviation, each window's by itself, and mixed in by phi.
    """
    unconditional, conditional = prediction.unconditional, prediction.conditional
    if conditional is None:
        raise ValueError("guidance needs the conditional prediction")
    if unconditional is None:
        return conditional
    guided = unconditional + scale * (conditional - unconditional)
    if rescale == 0.0:
        return guided
    spread, wanted = (part.std(dim=(1, 2, 3), keepdim=True) for part in (guided, conditional))
    return rescale * (guided * wanted / spread) + (1 - rescale) * guided

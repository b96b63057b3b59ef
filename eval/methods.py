"""The methods a benchmark can name: generators, the paper's ablations, and rows of other models.

`METHOD+x2@MODEL` is a row of its own model and with an upscaler behind it: `direct+x2@flux` is the paper's
"FLUX + ESRGAN". Both parts may be left out.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from drspo.errors import UserError, did_you_mean
from drspo.registry import lookup
from generate import GENERATORS
from generate.images.upscale import SCALES
from generate.models.specs import MODELS


@dataclass(frozen=True, slots=True)
class Method:
    """A generator with settings."""

    generator: str
    settings: dict[str, Any] = field(default_factory=dict)
    upscale: int = 1
    """how many times Real-ESRGAN enlarges its scrolls"""
    model: str = ""
    """a name of generate's MODELS, or "" for the benchmark's model"""


ABLATIONS: dict[str, Method] = {
    "drspo-without-dpo": Method("drspo", {"use_loras": False}),
    "drspo-without-control": Method("drspo", {"control": {"enabled": False}}),
}
"""Rows of Table 2; all wear the LoRAs that the benchmark was given unless their settings say otherwise."""


def method(name: str) -> Method:
    """The method called `name`: an ablation, a generator, or a plugin; UserError with the nearest name."""
    row, at, model = name.partition("@")
    if at and model not in MODELS:
        raise UserError(f"{name} names no model of ours: {model!r}", "methods", did_you_mean(model, MODELS))
    plain, plus, factor = row.partition("+x")
    if plus and factor not in map(str, SCALES):
        raise UserError(f"{name} is enlarged by {factor!r}", "methods", "Say +x2 or +x4.")
    if plain not in ABLATIONS:
        lookup(GENERATORS, plain, "method")
    return replace(ABLATIONS.get(plain, Method(plain)), upscale=int(factor or 1), model=model)

"""The methods a benchmark can name: generators, and the paper's ablations as settings of one of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from drspo.registry import lookup
from generate import GENERATORS


@dataclass(frozen=True, slots=True)
class Method:
    """A generator with settings."""

    generator: str
    settings: dict[str, Any] = field(default_factory=dict)


ABLATIONS: dict[str, Method] = {
    "drspo-without-dpo": Method("drspo", {"use_loras": False}),
    "drspo-without-control": Method("drspo", {"control": {"enabled": False}}),
}
"""Rows of Table 2; all wear the LoRAs that the benchmark was given unless their settings say otherwise."""


def method(name: str) -> Method:
    """The method called `name`: an ablation, a generator, or a plugin; UserError with the nearest name."""
    if name in ABLATIONS:
        return ABLATIONS[name]
    lookup(GENERATORS, name, "method")
    return Method(name)

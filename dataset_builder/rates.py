"""What a plan may assume about speed, sizes and prices."""

from __future__ import annotations

from dataclasses import dataclass

from drspo.ranges import Count, NonNegative


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Assumptions of --plan; 0 means not known, and what depends on it is then not claimed."""

    calibrate: bool = False
    """Make the images of two prompts here, throw them away, and use their seconds and bytes."""
    seconds_per_image: NonNegative = 0.0
    """Generating and scoring, on one device; what the run itself has measured counts instead."""
    basis: str = ""
    """Where these seconds come from; the plan says it beside them."""
    bytes_per_image: NonNegative = 0.0
    """Of an encoded image; 0 takes the measured average of the encoding per pixel."""
    gpus: Count = 1
    """Devices that work at once."""
    gpu_hour: NonNegative = 0.0
    """Price of one device for an hour."""
    storage_gb_month: NonNegative = 0.0
    """Price of a gigabyte for a month."""

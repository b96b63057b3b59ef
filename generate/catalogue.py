"""What there is to paint with: each method's paper, cost, its authors' licence, where it was verified.

Data without PyTorch, so that `python -m generate --list` answers at once.
"""

from __future__ import annotations

from dataclasses import dataclass

RECORDED = "recorded runs of the authors' program, tiny SD and SDXL"
RECORDED_SD = "recorded runs of the authors' program on tiny SD, its loop written out on tiny SDXL"
TINY = "tiny random SD, SDXL, SD 3, FLUX and PixArt"
MINIATURE = "the miniature"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One method as `--list` and docs/methods.md show it."""

    what: str
    paper: str
    evaluations: int
    """samples of SDXL's UNet for a scroll of 1024x4096: 50 steps, guidance, windows of 1024 every 256"""
    beside: str = ""
    """what else a scroll takes"""
    published: str
    """evaluations with the authors' own settings, for the same scroll where they have one"""
    licence: str
    """of the authors' program; none means that nothing of it may be copied, and nothing was"""
    verified: tuple[str, ...]


CATALOGUE: dict[str, Entry] = {
    "drspo": Entry(
        what="a blueprint guides windows, tuned by preferences",
        paper="DRSPO",
        evaluations=910,
        beside="100 of the blueprint, and the ControlNet's",
        published="not said",
        licence="no program is public",
        verified=(TINY, MINIATURE),
    ),
    "multidiffusion": Entry(
        what="windows, averaged at every step",
        paper="Bar-Tal et al. 2023, arXiv 2302.08113",
        evaluations=1300,
        published="5,700 (SD at 512x4096, stride 64)",
        licence="none; the same algorithm is Apache-2.0 in diffusers",
        verified=(RECORDED, MINIATURE),
    ),
    "mad": Entry(
        what="windows whose attention layers see the whole scroll",
        paper="Quattrini et al. 2024, arXiv 2408.15660",
        evaluations=1300,
        published="2,500 (stride 128)",
        licence="none",
        verified=(RECORDED, MINIATURE),
    ),
    "spotdiffusion": Entry(
        what="windows side by side that move at every step; closes to a ring",
        paper="Frolov et al. 2024, arXiv 2407.15507",
        evaluations=400,
        published="400",
        licence="none",
        verified=(RECORDED, MINIATURE),
    ),
    "twindiffusion": Entry(
        what="each window takes over the seam of the one before",
        paper="Zhou and Tang 2024, arXiv 2404.19475",
        evaluations=1300,
        published="1,300",
        licence="none",
        verified=(RECORDED, MINIATURE),
    ),
    "gvcf": Entry(
        what="windows weighed by their centres; stochastic noise keeps its variance",
        paper="Sun et al. 2024, arXiv 2412.12771",
        evaluations=1300,
        published="18,000 (1,000 steps, stride 384)",
        licence="CC BY-NC 4.0",
        verified=(RECORDED, MINIATURE),
    ),
    "elasticdiffusion": Entry(
        what="guidance from a small reference, detail from windows; claimed up to twice the training size",
        paper="Haji-Ali et al. 2024, arXiv 2311.18822",
        evaluations=1690,
        beside="the encodings of its padding",
        published="1,690 (7 resamplings, repainting) to 2,990 (20)",
        licence="none",
        verified=(RECORDED, MINIATURE),
    ),
    "syncdiffusion": Entry(
        what="windows pulled towards looking like the middle one, by a gradient",
        paper="Lee et al. 2023, arXiv 2306.05178",
        evaluations=2600,
        beside="1,200 backwards and 650 previews; with the script's defaults 1,560, 240 and 130",
        published="2,700, 1,300 backwards, 700 previews",
        licence="MIT",
        verified=(RECORDED_SD, MINIATURE),
    ),
    "direct": Entry(
        what="the whole scroll at once, as the model was published",
        paper="Podell et al. 2023, arXiv 2307.01952",
        evaluations=100,
        beside="each four times a window's size",
        published="100",
        licence="Apache-2.0 (diffusers)",
        verified=(TINY, MINIATURE),
    ),
}
SAME = {"sdxl": "direct"}
"""Older names."""


def listing() -> str:
    """All methods, a paragraph each."""
    told = []
    for name, entry in CATALOGUE.items():
        older = [other for other, same in SAME.items() if same == name]
        cost = f"{entry.evaluations:,} evaluations" + (f", and {entry.beside}" if entry.beside else "")
        told += [
            f"{name}" + (f" (also {', '.join(older)})" if older else "") + f": {entry.what}",
            f"  {entry.paper}; the authors' program: licence {entry.licence}",
            f"  1024x4096: {cost}; published: {entry.published}",
            f"  verified on {', '.join(entry.verified)}",
        ]
    told.append("Evaluations are samples of the network in 50 steps with guidance; --plan counts your own.")
    return "\n".join(told)

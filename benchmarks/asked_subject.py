"""How many scrolls show the subject that their caption asks for, and how many of anything, by exact counts.

    python -m benchmarks.asked_subject --methods drspo multidiffusion --count 100

Captions are those of scenes that no training has seen, one after another; the seed is the caption's number.
"""

from __future__ import annotations

import argparse
import os
from collections import Counter

import numpy as np
import torch

from generate.models.family import load_family
from generate.request import Request, build_generator
from miniature.captions import captions
from miniature.detector import count_objects
from miniature.measure import fresh
from miniature.pictures import SCROLL
from miniature.scene import SUBJECTS

SKY = ("sun", "moon")


def main() -> None:
    """Paints and counts, one line per method."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", nargs="+", default=["drspo", "multidiffusion"])
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--start", type=int, default=700_000, help="number of the first fresh scene")
    parser.add_argument("--save", default="", help="keep the first twelve scrolls in this folder")
    chosen = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    family = load_family("miniature", device="cpu", controlnet=True)
    scenes = fresh(chosen.count, SCROLL, chosen.start)
    for method in chosen.methods:
        generator = build_generator(method, family)
        counts = []
        for number, scene in enumerate(scenes):
            request = Request(
                prompt=captions(scene)[0], height=SCROLL[0], width=SCROLL[1], seed=number,
                steps=chosen.steps, guidance_scale=family.spec.guidance_scale,
            )  # fmt: skip
            picture = generator.generate([request])[0].image
            if chosen.save and number < 12:
                os.makedirs(chosen.save, exist_ok=True)
                picture.save(f"{chosen.save}/{method}-{number:02d}.png")
            counts.append(Counter(here.kind for here in count_objects(np.asarray(picture))))
        print(f"{method}: {summary(counts, [scene.subject for scene in scenes])}", flush=True)


def summary(counts: list[Counter[str]], asked: list[str]) -> str:
    """The shares in words."""
    shown = sum(found[subject] > 0 for found, subject in zip(counts, asked, strict=True))
    one = sum(sum(found[kind] for kind in SUBJECTS) == 1 for found in counts)
    again = sum(any(found[kind] > 1 for kind in (*SUBJECTS, *SKY)) for found in counts)
    surplus = np.mean([sum(max(found[kind] - 1, 0) for kind in (*SUBJECTS, *SKY)) for found in counts])
    return (
        f"the asked subject in {shown} of {len(counts)}, exactly one subject in {one}, "
        f"something repeated in {again}, {surplus:.2f} surplus objects a scroll"
    )


if __name__ == "__main__":
    main()

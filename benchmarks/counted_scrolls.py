"""The scrolls that people count by eye: `miniature/counted/scrolls/`.

    python -m benchmarks.counted_scrolls [--out miniature/counted] [--sheets FOLDER]
    python -m benchmarks.counted_scrolls --of BENCHMARK --out miniature/counted/study [--sheets FOLDER]

Nothing is picked: scroll k shows the caption of fresh scene 700000 + k, painted with seed k by the k-th
method in turn, every setting at its default. With `--of`, the scrolls of a finished benchmark are taken
instead, ten of each of seven methods, drawn and shuffled by a fixed seed; who counts sees numbers only.
`--sheets` also writes contact sheets, five scrolls to a
sheet at twice their size under a ruler in the scroll's pixels, to count and to read boxes from. Whoever
counts writes down what is seen in `counts.json` (see `miniature.counted`); new scrolls make old counts
void, so the command refuses to paint over them.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from drspo.errors import UserError
from generate.models.family import load_family
from generate.request import Generated, Request, build_generator
from miniature.captions import captions
from miniature.counted import FOLDER
from miniature.pictures import FRESH_SEED, SCROLL
from miniature.scene import sample_scene

COUNT = 100
FIRST = FRESH_SEED + 700_000
METHODS = ("sdxl", "multidiffusion", "mad", "drspo")
DRAWN_FROM = (
    *("sdxl", "multidiffusion", "mad", "sd3", "drspo", "drspo-without-dpo", "drspo-without-control"),
)
EACH, SEED = 10, 12
_PER_SHEET, _ZOOM, _RULER = 5, 2, 14


def main() -> None:
    """Paints, saves, and writes down what was asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=FOLDER)
    parser.add_argument("--sheets", type=Path, help="also write contact sheets into this folder")
    parser.add_argument("--of", type=Path, help="take the scrolls of this finished benchmark")
    options = parser.parse_args()
    if (options.out / "counts.json").exists():
        raise UserError(
            "The scrolls there have been counted, and new ones would make the counts void.",
            str(options.out),
            "Move counts.json away first, or choose another --out.",
        )
    (options.out / "scrolls").mkdir(parents=True, exist_ok=True)
    said = taken(options.of, options.out) if options.of else made(options.out)
    (options.out / "asked.json").write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")
    if options.sheets:
        write_sheets(options.out / "scrolls", options.sheets)


def made(out: Path) -> dict:
    """Paints the hundred; what was asked of them."""
    family = load_family("miniature", controlnet=True)
    asked = []
    for number in range(COUNT):
        scroll = painted(family, number)
        _save(scroll.image, out, number)
        asked.append(question(number))
        line = f"{number:03d} {asked[-1]['method']}: {asked[-1]['prompt']} ({scroll.seconds:.1f} s)"
        print(line, flush=True)
    return {"weights": family.fingerprint, "scrolls": asked}


def taken(benchmark: Path, out: Path) -> dict:
    """Draws scrolls of a finished benchmark; what had been asked of them."""
    text = (benchmark / "data.js").read_text(encoding="utf-8")
    pictures = json.JSONDecoder().raw_decode(text, text.index("{"))[0]["pictures"]
    rng = np.random.default_rng(SEED)
    chosen = []
    for method in DRAWN_FROM:
        of_method = sorted((each for each in pictures if each["m"] == method), key=lambda each: each["file"])
        chosen += [of_method[index] for index in rng.choice(len(of_method), EACH, replace=False)]
    chosen = [chosen[index] for index in rng.permutation(len(chosen))]
    for number, each in enumerate(chosen):
        _save(Image.open(benchmark / each["file"]), out, number)
    asked = [
        {"number": number, "method": each["m"], "seed": each["s"], "prompt": each["p"]}
        for number, each in enumerate(chosen)
    ]
    revision = json.loads((benchmark / "run.json").read_text(encoding="utf-8"))["revision"]
    return {"revision": revision, "scrolls": asked}


def _save(image: Image.Image, out: Path, number: int) -> None:
    image.save(out / "scrolls" / f"{number:03d}.webp", quality=92, method=6)


def question(number: int) -> dict:
    """What scroll `number` is asked to show, and by whom."""
    scene = sample_scene(FIRST + number, *SCROLL)
    return {
        "number": number,
        "method": METHODS[number % len(METHODS)],
        "seed": number,
        "prompt": captions(scene)[0],
        "subject": scene.subject,
    }


def painted(family, number: int) -> Generated:
    """Scroll `number`."""
    spec, asked = family.spec, question(number)
    request = Request(
        prompt=asked["prompt"],
        height=SCROLL[0],
        width=SCROLL[1],
        seed=number,
        steps=spec.steps,
        guidance_scale=spec.guidance_scale,
    )
    return build_generator(asked["method"], family, {}).generate([request])[0]


def write_sheets(scrolls: Path, folder: Path) -> None:
    """Contact sheets of the scrolls in `scrolls`, under rulers."""
    folder.mkdir(parents=True, exist_ok=True)
    files = sorted(scrolls.glob("*.webp"))
    for start in range(0, len(files), _PER_SHEET):
        rows = [_ruled(path) for path in files[start : start + _PER_SHEET]]
        Image.fromarray(np.vstack(rows)).save(folder / f"sheet-{start:03d}.png")


def _ruled(path: Path) -> np.ndarray:
    """One scroll enlarged, its number and columns above it."""
    scroll = np.asarray(Image.open(path).convert("RGB"))
    large = cv2.resize(scroll, None, fx=_ZOOM, fy=_ZOOM, interpolation=cv2.INTER_CUBIC)
    ruler = np.full((_RULER, large.shape[1], 3), 255, np.uint8)
    for column in range(0, scroll.shape[1], 32):
        label = f"{path.stem}" if column == 0 else str(column)
        cv2.line(ruler, (column * _ZOOM, 0), (column * _ZOOM, _RULER), (200, 0, 0), 1)
        cv2.putText(ruler, label, (column * _ZOOM + 2, 11), cv2.FONT_HERSHEY_SIMPLEX, 0.38, (0, 0, 0), 1)
    return np.vstack([ruler, large])


if __name__ == "__main__":
    main()

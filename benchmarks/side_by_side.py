"""All methods on the same prompts and seed: a sheet of them, and a picture for each in docs/methods.md.

    python -m benchmarks.side_by_side [--prompts 4] [--seed 0] [--out docs/images]

`side_by_side.webp` stacks the methods under each prompt, `methods/NAME.webp` the prompts of one method.
Nothing is picked: prompt k takes the k-th time of day, the k-th subject and the k-th ground in the order in
which the world lists them, so that four prompts show each time and each ground once; weather and place are
those of scene 1000 + k. One seed for all.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image, ImageDraw

from generate.models.family import load_family
from generate.request import Request, build_generator
from miniature.world import GROUNDS, SUBJECTS, TIMES, captions, sample_scene

METHODS = (
    *("direct", "multidiffusion", "mad", "spotdiffusion", "twindiffusion", "gvcf"),
    *("syncdiffusion", "elasticdiffusion", "drspo"),
)
FIRST = 1000
LABEL = 16


def main() -> None:
    """Generates, stacks and saves."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", default="miniature")
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    options = parser.parse_args()
    family = load_family(options.model, controlnet=True)
    prompts = [fixed_prompt(index) for index in range(options.prompts)]
    made = {
        (name, prompt): scroll(family, name, prompt, options.seed) for prompt in prompts for name in METHODS
    }
    (options.out / "methods").mkdir(parents=True, exist_ok=True)
    for name in METHODS:
        save(plain([made[name, prompt] for prompt in prompts]), options.out / "methods" / f"{name}.webp")
    rows: list[tuple[str, Image.Image | None]] = []
    for prompt in prompts:
        rows += [(prompt, None), *((name, made[name, prompt]) for name in METHODS)]
    save(stack(rows), options.out / "side_by_side.webp")


def save(sheet: Image.Image, path: Path) -> None:
    """Writes a sheet small enough for a page."""
    sheet.save(path, lossless=False, quality=85, method=6)
    print(f"{path}: {path.stat().st_size / 1024:.0f} KiB")


def fixed_prompt(index: int) -> str:
    """The prompt of that number by the rule above."""
    scene = sample_scene(
        FIRST + index,
        128,
        512,
        time=TIMES[index % len(TIMES)],
        subject=SUBJECTS[index % len(SUBJECTS)],
        ground=GROUNDS[index % len(GROUNDS)],
    )
    return captions(scene)[0]


def scroll(family, method: str, prompt: str, seed: int) -> Image.Image:
    """One scroll of the model's own size, with every setting at its default."""
    spec = family.spec
    request = Request(
        prompt=prompt,
        height=spec.scroll[0],
        width=spec.scroll[1],
        seed=seed,
        steps=spec.steps,
        guidance_scale=spec.guidance_scale,
    )
    family.use_lora(None)
    made = build_generator(method, family, {}).generate([request])[0]
    print(f"{method}: {made.seconds:.1f} s: {prompt}", flush=True)
    return made.image


def plain(images: list[Image.Image]) -> Image.Image:
    """Scrolls under each other, two pixels apart."""
    height = sum(image.height + 2 for image in images) - 2
    sheet = Image.new("RGB", (images[0].width, height), "white")
    for index, image in enumerate(images):
        sheet.paste(image, (0, index * (image.height + 2)))
    return sheet


def stack(rows: list[tuple[str, Image.Image | None]]) -> Image.Image:
    """Rows under their labels; a label without a picture is a heading."""
    width = max(image.width for _, image in rows if image)
    height = sum(LABEL + (image.height if image else 6) for _, image in rows)
    sheet = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(sheet)
    top = 0
    for text, image in rows:
        pen.text(
            (2, top + (6 if image is None else 2)), text, fill="black" if image is None else (90, 90, 90)
        )
        top += LABEL + (6 if image is None else 0)
        if image is not None:
            sheet.paste(image, (0, top))
            top += image.height
    return sheet


if __name__ == "__main__":
    main()

"""All four methods on the same first prompts and seeds, stacked into one picture:
`docs/images/side_by_side.webp`.

    python -m benchmarks.side_by_side [--prompts 3] [--seed 0] [--out docs/images/side_by_side.webp]

Nothing is picked: the prompts are `sample_prompt(1000)`, `sample_prompt(1001)`, ..., the seed is one for all.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image, ImageDraw

from generate import GENERATORS
from generate.base import Request, build_generator
from generate.models import load_family
from miniature.world import sample_prompt

FIRST = 1000
LABEL = 16


def main() -> None:
    """Generates, stacks and saves."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prompts", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", default="miniature")
    parser.add_argument("--out", type=Path, default=Path("docs/images/side_by_side.webp"))
    options = parser.parse_args()
    family = load_family(options.model, controlnet=True)
    prompts = [sample_prompt(FIRST + index) for index in range(options.prompts)]
    rows = []
    for prompt in prompts:
        rows.append((prompt, None))
        rows += [(name, scroll(family, name, prompt, options.seed)) for name in GENERATORS]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    stack(rows).save(options.out, lossless=False, quality=88)
    print(f"{options.out}: {options.out.stat().st_size / 1024:.0f} KiB")


def scroll(family, method: str, prompt: str, seed: int) -> Image.Image:
    """One scroll of the model's own size, with every setting at its default."""
    spec = family.spec
    request = Request(
        prompt=prompt, height=spec.scroll[0], width=spec.scroll[1], seed=seed, steps=spec.steps,
        guidance_scale=spec.guidance_scale,
    )  # fmt: skip
    family.use_lora(None)
    made = build_generator(method, family, {}).generate([request])[0]
    print(f"{method}: {made.seconds:.1f} s: {prompt}", flush=True)
    return made.image


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

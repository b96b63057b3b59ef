"""`drspo strips`: labelled figures that show methods beside each other, as papers do."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from drspo.errors import UserError
from drspo.files.pictures import read_picture, rgb
from drspo.files.run import RunDir
from drspo.files.storage import Storage
from eval.benchmark.cells import ENDINGS, Cell

Rows = list[tuple[str, list[tuple[str, Image.Image | None]]]]
"""(a prompt or a picture's name, [(method, picture)])"""
INK, SOFT, PAPER = (29, 35, 43), (102, 112, 124), (255, 255, 255)
MOST_PIXELS = 200_000_000


def figure(rows: Rows, width: int = 1600, gap: int = 12) -> Image.Image:
    """One picture of all rows: each prompt as a heading, below it a strip for each method with its name.

    Strips are `width` pixels wide at their own aspect. UserError where nothing is to be shown.
    """
    if not any(strips for _, strips in rows):
        raise UserError("there is nothing to show", "drspo strips", "choose other --methods or --prompts")
    small = ImageFont.load_default(max(12, width // 70))
    large = ImageFont.load_default(max(14, width // 55))
    parts: list[Image.Image | None] = []  # as they come; each is enlarged when it is put in its place
    for title, strips in rows:
        lines = textwrap.wrap(title, max(20, int(width / (0.52 * max(14, width // 55))))) or [""]
        parts.append(_text(lines, large, width, INK, top=gap))
        for method, picture in strips:
            parts.append(_text([method], small, width, SOFT, top=gap // 2))
            parts.append(picture)
    height = sum(_height(part, width) for part in parts) + 2 * gap
    if height * (width + 2 * gap) > MOST_PIXELS:
        raise UserError(
            f"a figure of {width} x {height} pixels", "drspo strips", "fewer --prompts, or --width"
        )
    whole = Image.new("RGB", (width + 2 * gap, height), PAPER)
    y = gap
    for part in parts:
        whole.paste(_strip(part, width), (gap, y))
        y += _height(part, width)
    return whole


def run_rows(run: RunDir, methods: Sequence[str], prompts: Sequence[str], count: int, seed: int) -> Rows:
    """The rows of a benchmark's run: the first `count` prompts, of those that hold one of the words."""
    from drspo.config import from_dict
    from eval.benchmark.methods import rows as named
    from eval.benchmark.prompt_lists import all_prompts
    from eval.config import EvalConfig

    manifest = run.require("eval")
    config = from_dict(EvalConfig, manifest["config"])
    known = list(named(config))
    for method in methods:
        if method not in known:
            raise UserError(f"this run has no row {method!r}", "--methods", f"choose from {', '.join(known)}")
    every = all_prompts(config)
    chosen = [p for p in every if any(word.lower() in p.lower() for word in prompts)] if prompts else every
    return [
        (prompt, [(name, _read(run, Cell(name, prompt, seed).name)) for name in methods or known])
        for prompt in chosen[:count]
    ]


def folder_rows(folder: Path, methods: Sequence[str], count: int) -> Rows:
    """The rows of folders of pictures, one folder per method: pictures of the same name stand together."""
    found = {item.name: item for item in sorted(folder.iterdir()) if item.is_dir()}
    for method in methods:
        if method not in found:
            raise UserError(f"there is no folder {method!r}", str(folder), f"choose from {', '.join(found)}")
    chosen = {name: found[name] for name in methods} if methods else found
    names = sorted(
        {p.name for item in chosen.values() for p in item.iterdir() if p.suffix.lower() in ENDINGS}
    )
    return [
        (name, [(method, _read(Storage(item), name)) for method, item in chosen.items()])
        for name in names[:count]
    ]


def main(argv: list[str]) -> int:
    """Writes one figure of a benchmark's run, or of a folder with a folder of pictures for each method."""
    parser = argparse.ArgumentParser(prog="drspo strips", description=__doc__)
    parser.add_argument("source", help="a benchmark's run, or a folder of folders of pictures")
    parser.add_argument("--out", default="strips.png", help="the picture to write, .png, .jpg or .webp")
    parser.add_argument("--methods", nargs="+", default=[], help="which rows, in this order; all unless said")
    parser.add_argument("--prompts", nargs="+", default=[], help="only prompts that hold one of these words")
    parser.add_argument("--count", type=int, default=4, help="at most so many prompts")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--width", type=int, default=1600, help="pixels of a strip's width")
    chosen = parser.parse_args(argv)
    if not 1 <= chosen.count <= 1000 or not 64 <= chosen.width <= 16384:
        raise UserError("a figure has 1 to 1000 prompts and strips of 64 to 16384 pixels", "drspo strips")
    out = Path(chosen.out).expanduser()
    if out.suffix.lower() not in ENDINGS:
        raise UserError(f"{chosen.out} is no picture's name", "--out", f"it ends in {', '.join(ENDINGS)}")
    run = RunDir(chosen.source)
    if "://" in chosen.source or run.exists("run.json"):
        rows = run_rows(run, chosen.methods, chosen.prompts, chosen.count, chosen.seed)
    elif Path(chosen.source).expanduser().is_dir():
        rows = folder_rows(Path(chosen.source).expanduser(), chosen.methods, chosen.count)
    else:
        raise UserError(f"there is no folder {chosen.source!r}", "drspo strips")
    picture = figure(rows, chosen.width)
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(f".{out.name}.part{out.suffix}")
    picture.save(part)
    part.replace(out)
    print(f"figure    {out} ({picture.width} x {picture.height})")
    print("next      other methods by --methods, other prompts by --prompts or --seed")
    return 0


def _read(storage: Storage, name: str) -> Image.Image | None:
    try:
        return rgb(read_picture(storage.read(name), name))
    except (UserError, FileNotFoundError):
        return None


def _height(picture: Image.Image | None, width: int) -> int:
    """Of a strip of that width at the picture's own aspect."""
    return max(1, round(picture.height * width / picture.width)) if picture else width // 12


def _strip(picture: Image.Image | None, width: int) -> Image.Image:
    size = (width, _height(picture, width))
    if picture is None:
        empty = Image.new("RGB", size, (240, 240, 240))
        ImageDraw.Draw(empty).text((8, 8), "no picture", SOFT, ImageFont.load_default(14))
        return empty
    return picture.resize(size, Image.Resampling.LANCZOS)


def _text(
    lines: Sequence[str], font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int,
    colour: tuple[int, int, int], top: int,
) -> Image.Image:  # fmt: skip
    step = round(1.35 * getattr(font, "size", 12))
    part = Image.new("RGB", (width, top + step * len(lines) + 4), PAPER)
    pen = ImageDraw.Draw(part)
    for index, line in enumerate(lines):
        pen.text((0, top + index * step), line, colour, font)
    return part

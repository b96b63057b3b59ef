"""The page of a benchmark: tables above, the scrolls of every prompt below, found by filters.

The page is light: pictures stay files beside it (`images/`, small ones in `small/`, heat maps in `heat/`),
and what the filters need is `data.js`. It opens from a disk with no network.
"""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, select_autoescape
from PIL import Image

from drspo.errors import UserError
from drspo.files.pictures import read_picture, rgb
from drspo.files.run import RunDir
from drspo.leaving import public_name
from drspo.web import viewer
from eval.benchmark.cells import Cell
from eval.benchmark.prompt_lists import strata
from eval.benchmark.suite import cells
from eval.config import EvalConfig
from eval.metrics.surplus import glow, heat_map
from eval.report.comparison import Comparison
from eval.report.figures import dots
from eval.report.latex import csv_tables, latex
from eval.report.markdown import RULE, bounds
from eval.report.order import order

SMALL = 768
"""Pixels of width of the pictures that the page shows before one is opened."""
HEATED = "surplus"
"""The measure whose map is shown where it was taken."""


def write_report(config: EvalConfig, run: RunDir, found: Comparison) -> None:
    """Writes index.html with its data and pictures, tables.csv, records.csv and tables.tex into the run."""
    shown = write_pictures(config, run, heat=HEATED in found.scorers)
    run.write("data.js", f"window.BENCHMARK = {_inert(_data(config, found, shown))};\n".encode())
    run.write("index.html", page(config, found).encode())
    for name, text in csv_tables(found).items():
        run.write(name, text.encode())
    run.write("tables.tex", latex(found).encode())


def page(config: EvalConfig, found: Comparison) -> str:
    """The page's HTML without its scrolls, which its script fetches from data.js."""
    environment = Environment(loader=PackageLoader("eval.report"), autoescape=select_autoescape(["jinja"]))
    every = cells(config)
    return environment.get_template("report.html.jinja").render(
        config=config,
        model=public_name(config.model),
        found=found,
        ranks=sorted(found.standings.items(), key=lambda item: item[1].rank.mean),
        bounds=bounds,
        placed=order(found),
        rule=RULE,
        dots=lambda scorer: dots(*found.prompt_means(scorer)),
        viewer=viewer(),
        prompts=len({cell.prompt for cell in every}),
        images=len(every),
    )


def write_pictures(config: EvalConfig, run: RunDir, *, heat: bool) -> dict[str, bool]:
    """Makes the small pictures and heat maps that the run lacks; {picture's name: whether it is one}."""
    present, shown = set(run.list("small/")) | set(run.list("heat/")), {}
    for cell in cells(config):
        small, hot = small_name(cell), heat_name(cell)
        wanted = [small, hot] if heat else [small]
        shown[cell.name] = all(name in present for name in wanted)
        if shown[cell.name]:
            continue
        try:
            image = rgb(read_picture(run.read(cell.name), cell.name))
        except (UserError, FileNotFoundError):
            continue
        run.write(small, _jpeg(image))
        if heat:
            run.write(hot, _jpeg(glow(image, heat_map(image))))
        shown[cell.name] = True
    return shown


def small_name(cell: Cell) -> str:
    """The small picture's file."""
    return cell.name.replace("images/", "small/").replace(".png", ".jpg")


def heat_name(cell: Cell) -> str:
    """The heat map's file."""
    return cell.name.replace("images/", "heat/").replace(".png", ".jpg")


def _data(config: EvalConfig, found: Comparison, shown: dict[str, bool]) -> dict[str, Any]:
    """What the page's script needs: prompts with their stratum, and each picture's files and numbers."""
    parts = strata(config)
    part_of = {prompt: name for name, prompts in parts.items() for prompt in prompts}
    values: dict[tuple[str, str, int], dict[str, float]] = {}
    for record in found.records:
        if np.isfinite(record.value):
            key = record.method, record.prompt, record.seed
            values.setdefault(key, {})[record.scorer] = round(record.value, 4)
    pictures = [
        {
            "m": cell.method,
            "p": cell.prompt,
            "s": cell.seed,
            "file": cell.name,
            "small": small_name(cell) if shown.get(cell.name) else "",
            "heat": heat_name(cell) if shown.get(cell.name) and HEATED in found.scorers else "",
            "v": values.get((cell.method, cell.prompt, cell.seed), {}),
        }
        for cell in cells(config)
    ]
    return {
        "methods": found.methods,
        "scorers": {name: found.about[name].higher_is_better for name in found.scorers},
        "strata": list(parts) if len(parts) > 1 else [],
        "prompts": [{"text": prompt, "part": part_of.get(prompt, "")} for prompt in part_of],
        "pictures": pictures,
    }


def _inert(data: dict[str, Any]) -> str:
    """JSON that cannot end a script or begin a tag, whatever a prompt says."""
    text = json.dumps(data, ensure_ascii=True, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _jpeg(image: Image.Image) -> bytes:
    if image.width > SMALL:
        image = image.resize(
            (SMALL, max(1, round(image.height * SMALL / image.width))), Image.Resampling.LANCZOS
        )
    out = io.BytesIO()
    image.save(out, "JPEG", quality=86)
    return out.getvalue()

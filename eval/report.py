"""One self-contained HTML page of a benchmark: tables above, strips of every method below."""

from __future__ import annotations

import base64
import io

from jinja2 import Environment, PackageLoader, select_autoescape
from PIL import Image

from drspo.errors import UserError
from drspo.files.pictures import read_picture
from drspo.files.run import RunDir
from drspo.leaving import public_name
from eval.cells import Cell
from eval.config import EvalConfig
from eval.markdown import bounds
from eval.methods import rows
from eval.suite import cells
from eval.tables import Comparison, Record


def page(config: EvalConfig, run: RunDir, found: Comparison) -> str:
    """The page's HTML; strips are embedded as JPEG of at most 1024 pixels width and link to the files."""
    environment = Environment(loader=PackageLoader("eval"), autoescape=select_autoescape(["jinja"]))
    prompts = list(dict.fromkeys(cell.prompt for cell in cells(config)))
    return environment.get_template("report.html.jinja").render(
        config=config,
        model=public_name(config.model),
        found=found,
        ranks=sorted(found.standings.items(), key=lambda item: item[1].rank.mean),
        bounds=bounds,
        groups=[
            {"prompt": prompt, "strips": _strips(config, run, found.records, prompt)} for prompt in prompts
        ],
        images=len(cells(config)),
    )


def _strips(config: EvalConfig, run: RunDir, records: list[Record], prompt: str) -> list[dict[str, object]]:
    return [
        {
            "method": name,
            "file": Cell(name, prompt, 0).name,
            "picture": strip(run, Cell(name, prompt, 0).name),
            "values": [
                (record.scorer, record.value)
                for record in records
                if (record.method, record.prompt, record.seed) == (name, prompt, 0)
            ],
        }
        for name in rows(config)
    ]


def strip(run: RunDir, name: str, width: int = 1024) -> str:
    """A data URL of a picture of the run, not wider than `width` pixels; empty for one that is none."""
    try:
        image = read_picture(run.read(name), name)
    except (UserError, FileNotFoundError):
        return ""
    if image.width > width:
        image = image.resize((width, round(image.height * width / image.width)), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    image.save(out, "JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode()

"""`python -m eval score FOLDER --prompts FILE --out RUN`: numbers of pictures that were made elsewhere.

The folder holds pictures, or one folder of pictures for each method; then the methods are compared. A
prompts file with the ending .csv has the columns file and prompt, .jsonl one object with these keys per
line; any other is a text with one prompt per line, in the order of the pictures' names.
"""

from __future__ import annotations

import csv
import io
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from drspo.config import config_hash, load, to_dict
from drspo.errors import UserError
from drspo.files.run import RunDir
from drspo.hashing import content_hash
from drspo.log import setup
from eval.benchmark.cells import ENDINGS, Cell
from eval.benchmark.records import RECORDS
from eval.benchmark.scores import measure
from eval.config import Judges
from eval.judges import build_judges
from eval.report.comparison import Comparison
from eval.report.markdown import markdown

MOST_BYTES = 64 << 20
"""A prompts file beyond this is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreConfig:
    """Numbers of pictures that were made elsewhere: python -m eval score FOLDER --prompts FILE --out RUN."""

    folder: str = ""
    """Pictures, or one folder of pictures per method."""
    prompts: str = ""
    """CSV (columns file, prompt), JSONL (the same keys), or a text with one prompt per line; may be left out
    when no scorer reads prompts."""
    out: str = ""
    """The folder for numbers and tables; the same command again continues."""
    model: str = "miniature"
    """Whose judges: sdxl names the published weights, miniature the stand-ins that ship."""
    baseline: str = ""
    """The method that differences are taken against; the first by name when empty."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    judges: Judges = field(
        default_factory=lambda: Judges(scorers=("aesthetic", "hps_v21", "pickscore", "image_reward", "clip"))
    )


def main(argv: list[str]) -> int:
    """Scores what has no number yet, writes records and tables, prints the tables."""
    if argv and not argv[0].startswith("-"):
        argv = ["--folder", *argv]
    description = (__doc__ or "").replace("`", "")
    config = load(ScoreConfig, argv, package="eval", prog="drspo eval score", description=description)
    setup()
    if not config.out:
        raise UserError("where shall the numbers go?", "--out", "name a folder, for example runs/scores-001")
    files = pictures(config.folder)
    run = RunDir(config.out)
    judges = build_judges(config.judges, model=config.model, device=config.device, cache=run.url("cache"))
    needed = [name for name, judge in judges.items() if getattr(judge, "needs_prompt", False)]
    cells = assign(files, prompts_of(config.prompts, files, needed))
    baseline = config.baseline or next(iter(files))
    if baseline not in files:
        raise UserError(
            f"the baseline {baseline!r} is no method here", "--baseline", f"one of {', '.join(files)}"
        )
    if run.start("eval score", config, config_hash(to_dict(replace(config, out="", device="")))):
        logging.info("continuing in %s", config.out)
    digests = {cell: content_hash(path.read_bytes()) for cell, path in cells.items()}
    records = measure(
        judges,
        list(cells),
        lambda cell: cells[cell].read_bytes(),
        run,
        batch=config.judges.batch,
        digests=digests,
    )
    run.write(RECORDS, "".join(json.dumps(asdict(record)) + "\n" for record in records).encode())
    found = Comparison(records, baseline, config.judges.trained, config.judges.aside)
    text = markdown(found)
    run.write("tables.md", text.encode())
    run.write("tables.json", json.dumps(found.as_json(), indent=2).encode())
    print(text)
    print(f"numbers   {run.url(RECORDS)}")
    print(f"next      the tables are in {run.url('tables.md')}; python -m eval compares methods of one's own")
    return 0


def pictures(folder: str) -> dict[str, dict[str, Path]]:
    """{method: {name: file}}, sorted; one method called after a folder that has no folders."""
    root = Path(folder).expanduser()
    if not folder or not root.is_dir():
        raise UserError(f"there is no folder {folder!r} of pictures", "eval score", "name the folder first")
    found = {item.name: _within(item) for item in sorted(root.iterdir()) if item.is_dir()}
    found = {name: files for name, files in found.items() if files}
    own = {path.name: path for path in sorted(root.iterdir()) if path.suffix.lower() in ENDINGS}
    if own and found:
        raise UserError(
            f"{folder} holds pictures and folders of pictures",
            str(root),
            "keep one kind, a folder per method",
        )
    if not own and not found:
        raise UserError("there are no pictures", str(root), f"they end in {', '.join(ENDINGS)}")
    return found or {root.resolve().name: own}


def prompts_of(source: str, files: Mapping[str, Mapping[str, Path]], needed: list[str]) -> dict[str, str]:
    """{picture's name: prompt}; without a file the name stands for it, unless `needed` read prompts."""
    names = sorted(set().union(*(set(group) for group in files.values())))
    if not source:
        if needed:
            raise UserError(
                f"{', '.join(needed)} compare pictures with their prompts", "--prompts", "give a file of them"
            )
        return {name: name for name in names}
    path = Path(source).expanduser()
    if not path.is_file() or path.stat().st_size > MOST_BYTES:
        raise UserError(
            f"there is no prompts file {source!r}", "--prompts", "CSV, JSONL, or one prompt per line"
        )
    try:
        found = _read_prompts(path, names)
    except (ValueError, KeyError, TypeError, csv.Error) as error:
        raise UserError(
            f"cannot read the prompts: {error}", str(path), "columns or keys: file, prompt"
        ) from error
    for name in names:
        if needed and not found.get(name, "").strip():
            raise UserError(f"{name} has no prompt", str(path), f"{', '.join(needed)} read it")
    return {name: found.get(name, "").strip() or name for name in names}


def assign(files: Mapping[str, Mapping[str, Path]], prompts: Mapping[str, str]) -> dict[Cell, Path]:
    """{cell: file}: pictures of one prompt are its seeds, in the order of their names over all methods."""
    seeds: dict[str, int] = {}
    order: dict[str, int] = {}
    for name, prompt in prompts.items():
        order[name] = seeds.get(prompt, 0)
        seeds[prompt] = order[name] + 1
    return {
        Cell(method, prompts[name], order[name]): path
        for method, group in files.items()
        for name, path in group.items()
    }


def _within(folder: Path) -> dict[str, Path]:
    return {path.name: path for path in sorted(folder.iterdir()) if path.suffix.lower() in ENDINGS}


def _read_prompts(path: Path, names: list[str]) -> dict[str, str]:
    text = path.read_text(encoding="utf-8-sig")
    if path.suffix.lower() == ".csv":
        rows = list(csv.DictReader(io.StringIO(text)))
        return {str(row["file"]): str(row["prompt"]) for row in rows}
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if path.suffix.lower() == ".jsonl":
        return {str(row["file"]): str(row["prompt"]) for row in map(json.loads, lines)}
    if len(lines) != len(names):
        raise ValueError(f"{len(lines)} prompts for {len(names)} pictures")
    return dict(zip(names, lines, strict=True))

"""The benchmark's main path: make every picture once, take every number of it, keep both."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from PIL import Image

from drspo.errors import UserError
from drspo.files.run import RunDir
from drspo.files.texts import read_text
from drspo.log import progress
from eval.cells import Cell
from eval.config import EvalConfig
from eval.methods import method
from eval.scores import measure
from eval.tables import Record
from generate.methods.upscaled import with_upscaler
from generate.models.family import ModelFamily, load_family
from generate.request import Request, build_generator, needs_control, own

log = logging.getLogger(__name__)
PROMPTS = Path(__file__).parent / "prompts"
RECORDS = "records.jsonl"

MOST_PROMPTS = 64 << 20  # bytes of a list of prompts


def read_prompts(source: str, limit: int = 0) -> list[str]:
    """The prompts of a file, or of a list in eval/prompts, without blank lines and repeats, in order."""
    if limit < 0:
        raise UserError(f"a limit of {limit} prompts", "pictures.limit", "0 takes all")
    path = Path(source) if Path(source).is_file() else PROMPTS / f"{source}.txt"
    if not path.is_file():
        known = ", ".join(sorted(item.stem for item in PROMPTS.glob("*.txt")))
        raise UserError(f"no prompts {source!r}", "pictures.prompts", f"give a file, or one of {known}")
    lines = list(dict.fromkeys(line.strip() for line in read_text(path, MOST_PROMPTS).splitlines()))
    prompts = [line for line in lines if line][: limit or None]
    if not prompts:
        raise UserError("there are no prompts to compare on", str(path), "write one prompt per line")
    return prompts


def cells(config: EvalConfig) -> list[Cell]:
    """Every picture of the benchmark, method by method so that one model serves a stretch of them."""
    prompts = read_prompts(config.pictures.prompts, config.pictures.limit)
    return [
        Cell(name, prompt, seed)
        for name in config.methods
        for prompt in prompts
        for seed in range(config.pictures.seeds)
    ]


def make_pictures(config: EvalConfig, run: RunDir) -> None:
    """Makes the pictures that the run folder lacks; each is written once, whole or not at all."""
    every = cells(config)
    todo = [cell for cell in every if not run.exists(cell.name)]
    if not todo:
        return
    family, loaded = None, ""
    with progress(len(every), "pictures", "scrolls") as bar:
        bar.set(len(every) - len(todo))
        for name, group in _by_method(todo):
            chosen = method(name)
            if family is None or chosen.model != loaded:
                family = None  # before the next one is loaded beside it
                family, loaded = load(config, chosen.model), chosen.model
            family.use_lora(None)
            plain = build_generator(chosen.generator, family, chosen.settings)
            generator = with_upscaler(plain, config.upscaler, chosen.upscale)
            for cell in group:
                run.write(cell.name, _png(generator.generate([request(cell, config, family)])[0].image))
                bar.advance(1, method=name)


def load(config: EvalConfig, model: str = "") -> ModelFamily:
    """The model with what its methods need: the ControlNet for two stages, the LoRAs where given.

    `model` is that of rows with a model of their own, which wear no LoRA.
    """
    chosen = [one for one in map(method, config.methods) if one.model == model]
    controlled = any(needs_control(one.generator, one.settings) for one in chosen)
    family = load_family(model or config.model, device=config.device, controlnet=controlled)
    if model:
        return family
    for stage, path in (("blueprint", config.lora_blueprint), ("highres", config.lora_highres)):
        if path:
            family.load_lora(path, name=stage)
    return family


def request(cell: Cell, config: EvalConfig, family: ModelFamily) -> Request:
    """The request for a cell: what the configuration leaves open comes from the model's own defaults."""
    asked, spec = config.pictures, family.spec
    return Request(
        prompt=cell.prompt,
        height=own(asked.height, spec.scroll[0]),
        width=own(asked.width, spec.scroll[1]),
        seed=cell.seed,
        steps=own(asked.steps, spec.steps),
        guidance_scale=own(asked.guidance_scale, spec.guidance_scale),
    )


def take_numbers(config: EvalConfig, run: RunDir, judges: dict[str, Any]) -> list[Record]:
    """Every metric's number of every picture of the benchmark, kept as Parquet and in records.jsonl."""
    every = cells(config)
    records = measure(judges, every, lambda cell: run.read(cell.name), run, batch=config.judges.batch)
    run.write(RECORDS, "".join(json.dumps(asdict(record)) + "\n" for record in records).encode())
    return records


def _by_method(todo: list[Cell]) -> Iterator[tuple[str, list[Cell]]]:
    for name in dict.fromkeys(cell.method for cell in todo):
        yield name, [cell for cell in todo if cell.method == name]


def _png(image: Image.Image) -> bytes:
    data = io.BytesIO()
    image.save(data, "PNG")
    return data.getvalue()

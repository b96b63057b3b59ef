"""The benchmark's main path: make every picture once, take every number of it, keep both."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from drspo.errors import UserError
from drspo.files.run import RunDir
from drspo.hashing import content_hash
from drspo.log import progress
from eval.base import build_scorer, scorer_preset
from eval.config import EvalConfig
from eval.methods import method
from eval.tables import Record
from generate.models.family import ModelFamily, load_family
from generate.request import Request, build_generator, own

log = logging.getLogger(__name__)
PROMPTS = Path(__file__).parent / "prompts"
RECORDS = "records.jsonl"


@dataclass(frozen=True, slots=True)
class Cell:
    """One picture of the benchmark: a method at a prompt and a seed."""

    method: str
    prompt: str
    seed: int

    @property
    def name(self) -> str:
        """The picture's file name in the run folder."""
        return f"images/{self.method}/{content_hash(self.prompt, length=12)}-{self.seed}.png"


def read_prompts(source: str, limit: int = 0) -> list[str]:
    """The prompts of a file, or of a list in eval/prompts, without blank lines and repeats, in order."""
    path = Path(source) if Path(source).is_file() else PROMPTS / f"{source}.txt"
    if not path.is_file():
        known = ", ".join(sorted(item.stem for item in PROMPTS.glob("*.txt")))
        raise UserError(f"no prompts {source!r}", "pictures.prompts", f"give a file, or one of {known}")
    lines = list(dict.fromkeys(line.strip() for line in path.read_text(encoding="utf-8").splitlines()))
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
    family = load(config)
    with progress(len(every), "pictures", "scrolls") as bar:
        bar.set(len(every) - len(todo))
        for name, group in _by_method(todo):
            chosen = method(name)
            family.use_lora(None)
            generator = build_generator(chosen.generator, family, chosen.settings)
            for cell in group:
                run.write(cell.name, _png(generator.generate([request(cell, config, family)])[0].image))
                bar.advance(1, method=name)


def load(config: EvalConfig) -> ModelFamily:
    """The model with what its methods need: the ControlNet for two stages, the LoRAs where given."""
    two_stage = any(method(name).generator == "drspo" for name in config.methods)
    family = load_family(config.model, device=config.device, controlnet=two_stage)
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


def take_numbers(config: EvalConfig, run: RunDir, batch: int = 16) -> list[Record]:
    """Every scorer's number of every picture, one scorer in memory at a time."""
    every, records = cells(config), list[Record]()
    with progress(len(config.judges.scorers) * len(every), "numbers", "images") as bar:
        for name in config.judges.scorers:
            scorer = build_scorer(name, scorer_settings(name, config))
            for start in range(0, len(every), batch):
                some = every[start : start + batch]
                images = [Image.open(io.BytesIO(run.read(cell.name))).convert("RGB") for cell in some]
                values = scorer.score(images, [cell.prompt for cell in some])
                records += [_record(cell, scorer, value) for cell, value in zip(some, values, strict=True)]
                bar.advance(len(some), scorer=name)
    run.write(RECORDS, "".join(json.dumps(asdict(record)) + "\n" for record in records).encode())
    return records


def scorer_settings(name: str, config: EvalConfig) -> dict[str, Any]:
    """What a scorer of this name is built with; plugins and measures without a backbone get nothing."""
    preset = scorer_preset(config.model)
    device = "cpu" if config.device == "auto" else config.device
    shared = {"backbone": preset["backbone"], "device": device}
    return {
        "aesthetic": shared | {"head": preset["head"], "view": config.judges.aesthetic_view},
        "clip": shared | {"view": config.judges.clip_view},
        "repetition": shared,
        "gap": shared,
    }.get(name, {})


def _record(cell: Cell, scorer: Any, value: float) -> Record:
    return Record(
        method=cell.method,
        prompt=cell.prompt,
        seed=cell.seed,
        scorer=scorer.name,
        unit=scorer.unit,
        view=scorer.view,
        checkpoint=scorer.checkpoint,
        checkpoint_hash=scorer.checkpoint_hash,
        higher_is_better=scorer.higher_is_better,
        value=float(value),
    )


def _by_method(todo: list[Cell]) -> Iterator[tuple[str, list[Cell]]]:
    for name in dict.fromkeys(cell.method for cell in todo):
        yield name, [cell for cell in todo if cell.method == name]


def _png(image: Image.Image) -> bytes:
    data = io.BytesIO()
    image.save(data, "PNG")
    return data.getvalue()

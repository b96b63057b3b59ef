"""The benchmark's main path: make every picture once, take every number of it, keep both."""

from __future__ import annotations

import io
import json
import logging
from dataclasses import asdict
from typing import Any

from PIL import Image

from drspo.errors import UserError
from drspo.files.run import RunDir
from drspo.leaving import without_secrets
from drspo.log import progress
from eval.benchmark.cells import Cell
from eval.benchmark.claims import Claims, share
from eval.benchmark.methods import rows
from eval.benchmark.prompt_lists import all_prompts
from eval.benchmark.records import RECORDS, Record
from eval.benchmark.scores import measure
from eval.config import EvalConfig
from generate.images.upscale import SOURCES
from generate.methods.upscaled import smaller
from generate.models.specs import MODELS
from generate.models.weights import locate
from generate.program.session import Setup, lora_hash, open_session
from generate.request import Request, check_request, generator_class, own, settings_of

log = logging.getLogger(__name__)
BLUEPRINTS = "blueprints"
"""The folder of the plans that pictures of two stages were painted from."""


def cells(config: EvalConfig) -> list[Cell]:
    """Every picture of the benchmark, row by row so that one model serves a stretch of them."""
    prompts = all_prompts(config)
    return [
        Cell(name, prompt, seed)
        for name in rows(config)
        for prompt in prompts
        for seed in range(config.pictures.seeds)
    ]


def make_pictures(config: EvalConfig, run: RunDir, claims: Claims | None = None) -> None:
    """Makes the pictures that the run folder lacks, sharing them with every other process that works on it.

    Each is written once, whole or not at all. What a row cannot paint is a file with the reason.
    """
    every = cells(config)
    claims = claims or Claims(run)
    if all(name in _made(run) for name in (cell.name for cell in every)):
        return
    with progress(len(every), "pictures", "scrolls") as bar:
        for name, setup in rows(config).items():
            painter = Painter(config, run, setup, {c.name: c for c in every if c.method == name})

            def present(painter: Painter = painter) -> set[str]:
                made = _made(run)
                bar.set(sum(cell.name in made for cell in every))
                return made

            share(claims, list(painter.cells), present, painter.paint)


class Painter:
    """One row's generator, loaded when its first picture is wanted."""

    def __init__(self, config: EvalConfig, run: RunDir, setup: Setup, mine: dict[str, Cell]) -> None:
        self.config, self.run, self.setup, self.cells = config, run, setup, mine
        self._generator: Any = None

    def paint(self, name: str) -> None:
        """Paints and keeps one picture, or keeps the reason why there is none."""
        if self._generator is None:
            self._generator = open_generator(self.setup)
        asked = request(self.cells[name], self.config, self._generator.family.spec)
        try:
            made = self._generator.generate([asked])[0]
            data = _png(made.image)
        except (MemoryError, KeyboardInterrupt):
            raise
        except Exception as error:  # whatever a method raises is that picture's fate
            log.warning("%s: %s", name, error)
            reason = without_secrets(f"{type(error).__name__}: {error}".splitlines()[0][:300])
            self.run.write(failure(name), json.dumps({"reason": reason}).encode())
            return
        if "blueprint" in made.extras:  # first, so that a picture's plan is there when the picture is
            self.run.write(self.cells[name].beside(BLUEPRINTS), _png(made.extras["blueprint"]))
        self.run.create(name, data)  # the first stays, so that a number belongs to the picture that is there


def open_generator(setup: Setup) -> Any:
    """A row's generator with its model and LoRAs."""
    return open_session(setup).generator


def failure(name: str) -> str:
    """Where the reason lies why there is no picture of this name."""
    return f"failed/{name.removeprefix('images/').removesuffix('.png')}.json"


def forget_failures(run: RunDir) -> None:
    """Lets what failed in an earlier run be tried again."""
    for name in run.list("failed/"):
        run.delete(name)


def _made(run: RunDir) -> set[str]:
    """The names of all pictures that are there, or that could not be made."""
    failed = {f"images/{n.removeprefix('failed/').removesuffix('.json')}.png" for n in run.list("failed/")}
    return failed | set(run.list("images/"))


def check_sizes(config: EvalConfig) -> None:
    """UserError for a row that cannot paint what is asked for, as far as is known without its weights."""
    for name, setup in rows(config).items():
        spec = MODELS.get(setup.model)
        asked = request(Cell(name, "a prompt", 0), config, spec or MODELS[_sized(config)])
        try:
            check_request(asked)
            settings = settings_of(setup.method, setup.settings)
            generator_class(setup.method).check_settings(settings, smaller(asked, setup.upscale), spec)
        except UserError as error:
            raise UserError(f"the row {name}: {error.what}", error.where, error.hint) from error


def _sized(config: EvalConfig) -> str:
    return config.model if config.model in MODELS else "sdxl"


def fetch_models(config: EvalConfig) -> None:
    """Every row's weights on this machine, before the first picture; UserError names what cannot be had."""
    for model in dict.fromkeys(setup.model for setup in rows(config).values()):
        known = MODELS.get(model)
        locate(known.base if known else model, known=MODELS)
    for name, setup in rows(config).items():
        its_settings = settings_of(setup.method, setup.settings)
        generator_class(setup.method).check_weights(its_settings, MODELS.get(setup.model))
        for path, _ in setup.loras.values():
            lora_hash(path)
        its_own = MODELS[setup.model].upscaler if setup.model in MODELS else "in its folder"
        if setup.upscale != 1 and not (setup.upscaler or its_own):
            raise UserError(f"{setup.model} has no upscaler of its own", f"options: {name}.upscaler", SOURCES)


def request(cell: Cell, config: EvalConfig, spec: Any) -> Request:
    """The request for a cell: every row the same size, the benchmark's model's own where none is asked for;
    steps and guidance are each row's model's own."""
    asked = config.pictures
    size = MODELS[config.model].scroll if config.model in MODELS else spec.scroll
    return Request(
        prompt=cell.prompt,
        height=own(asked.height, size[0]),
        width=own(asked.width, size[1]),
        seed=cell.seed,
        steps=own(asked.steps, spec.steps),
        guidance_scale=own(asked.guidance_scale, spec.guidance_scale),
    )


def take_numbers(
    config: EvalConfig, run: RunDir, judges: dict[str, Any], claims: Claims | None = None
) -> list[Record]:
    """Every metric's number of every picture of the benchmark, kept as Parquet and in records.jsonl."""
    every = cells(config)

    def read(cell: Cell) -> bytes:
        try:
            return run.read(cell.name)
        except FileNotFoundError:
            if not run.exists(failure(cell.name)):
                raise
            reason = json.loads(run.read(failure(cell.name)))["reason"]
            raise UserError(f"it could not be made ({reason})") from None

    records = measure(
        judges,
        every,
        read,
        run,
        batch=config.judges.batch,
        claims=claims,
        blueprint=lambda cell: run.read(cell.beside(BLUEPRINTS)),
    )
    run.write(RECORDS, "".join(json.dumps(asdict(record)) + "\n" for record in records).encode())
    return records


def _png(image: Image.Image) -> bytes:
    data = io.BytesIO()
    image.save(data, "PNG")
    return data.getvalue()

"""Choosing a plan before paying for the scroll: several blueprints, judged, on one sheet; one is painted.

What judges lies in `eval`, above this package. It is named here and not imported: `JUDGES` and `RANK` are
resolved when somebody asks for a judgement, as the console command resolves its programs.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from drspo.config import to_dict
from drspo.errors import UserError
from drspo.registry import resolve
from generate.methods.drspo.blueprint import candidate_seed
from generate.methods.drspo.two_stage import DRSPO
from generate.methods.upscaled import smaller
from generate.program.config import Config
from generate.program.session import Session
from generate.request import Callback, Generated, Generator, Request, generator_class, settings_of

JUDGES, RANK = "eval.judges:plan_judges", "eval.judges:rank_plans"
BEST, LATER = "best", "later"
LABEL = 18
"""Pixels of a line of text on the sheet."""
COLUMN = 640
"""Pixels of width at which a sheet shows a blueprint."""


@dataclass(frozen=True)
class Plans:
    """The blueprints of one scroll, and what judges said about them."""

    images: list[Image.Image]
    scores: dict[str, list[float]]
    order: list[int]

    @property
    def best(self) -> int:
        """The number of the best one, from 1."""
        return self.order[0] + 1

    def lines(self) -> list[str]:
        """One line for each blueprint: its number and its scores, the best one marked."""
        return [
            f"{index + 1}{' (best)' if index + 1 == self.best else ''}: "
            + ", ".join(f"{name} {values[index]:.3g}" for name, values in self.scores.items())
            for index in range(len(self.images))
        ]

    def sheet(self) -> bytes:
        """A PNG of all blueprints, each under its line."""
        width, first = COLUMN, self.images[0]
        height = max(1, round(first.height * width / first.width))
        sheet = Image.new("RGB", (width, (height + LABEL) * len(self.images)), "white")
        draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
        for row, (image, line) in enumerate(zip(self.images, self.lines(), strict=True)):
            top = row * (height + LABEL)
            draw.text((4, top + 2), line, fill="black", font=font)
            sheet.paste(image.resize((width, height), Image.Resampling.BICUBIC), (0, top + LABEL))
        buffer = io.BytesIO()
        sheet.save(buffer, "PNG")
        return buffer.getvalue()


def check_plans(config: Config, prompts: int) -> None:
    """UserError for options about blueprints that exclude each other, before anything is loaded."""
    if config.blueprint and config.blueprints:
        raise UserError("--blueprint gives the plan and --blueprints asks for plans", "--blueprints")
    if not config.blueprints and (config.blueprint_choice != BEST or config.blueprint_judges):
        raise UserError("there is nothing to choose from", "--blueprint-choice", "Add --blueprints 8.")
    if (config.blueprint or config.blueprints) and not issubclass(generator_class(config.method), DRSPO):
        where = "--blueprint" if config.blueprint else "--blueprints"
        raise UserError(f"{config.method} has no blueprint", where, "Choose --method drspo.")
    number = numbered(config.blueprint_choice)
    if config.blueprints and number is not None and not 1 <= number <= config.blueprints:
        said = f"there are blueprints 1 to {config.blueprints}, and none of number {number}"
        raise UserError(said, "--blueprint-choice")
    if number is not None and prompts > 1:
        raise UserError(
            f"number {number} of {prompts} scrolls' blueprints is asked for", "--blueprint-choice",
            "Choose for one prompt and seed at a time.",
        )  # fmt: skip


def numbered(choice: str) -> int | None:
    """The number that a choice names, None for a word; UserError for what is neither."""
    if choice in (BEST, LATER):
        return None
    if not choice.isdecimal():
        said = f"{choice!r} chooses no blueprint"
        raise UserError(said, "--blueprint-choice", f"{BEST}, {LATER}, or a blueprint's number.")
    return int(choice)


def judges_of(config: Config, session: Session) -> Any:
    """The judges that the command names, or that go with the model."""
    device = str(session.family.device)
    return resolve(JUDGES)(config.blueprint_judges, model=config.model, device=device)


def with_plan(session: Session, request: Request, number: int) -> Session:
    """The session that paints along blueprint `number` of this request."""
    settings = to_dict(settings_of(session.setup.method, session.setup.settings))
    settings["blueprint"] = {**settings["blueprint"], "seed": candidate_seed(request.seed, number)}
    return session.with_settings(settings)


def draw_plans(
    session: Session, request: Request, count: int, judges: Any, callback: Callback | None = None
) -> Plans:
    """The blueprints 1 to `count` of a request, judged."""
    images = []
    asked = smaller(request, session.setup.upscale)
    for number in range(1, count + 1):
        images.append(_drspo(with_plan(session, request, number)).draw(asked, callback).image)
    ranking = resolve(RANK)(judges, images, request.prompt)
    return Plans(images, ranking.scores, ranking.order)


class Planned(Generator):
    """What the command does for one scroll when it draws several blueprints: for counting its cost."""

    def __init__(self, session: Session, count: int, judges: Any) -> None:
        super().__init__(session.family, session.generator.config)
        self.session, self.count, self.judges = session, count, judges

    def generate(self, requests: list[Request], callback: Callback | None = None) -> list[Generated]:
        """One scroll per request, along the best of its blueprints."""
        return [self._one(request, callback) for request in requests]

    def _one(self, request: Request, callback: Callback | None) -> Generated:
        plans = draw_plans(self.session, request, self.count, self.judges)
        best = with_plan(self.session, request, plans.best)
        return best.generator.generate([request], callback)[0]


def _drspo(session: Session) -> DRSPO:
    generator = getattr(session.generator, "inner", session.generator)
    assert isinstance(generator, DRSPO)
    return generator


def rehearsed(config: Config, session: Session, judges: Any) -> Generator:
    """What `--plan` rehearses: the generator, with the drawing of blueprints where they are asked for."""
    if not config.blueprints or numbered(config.blueprint_choice):
        return session.generator
    return Planned(session, config.blueprints, judges)


def tell(plans: Plans, chosen: int | None, where: str) -> None:
    """Says what the sheet at `where` shows, and which blueprint is painted, or how to choose one."""
    print(f"{where}: {len(plans.images)} blueprints")
    for line in plans.lines():
        print(f"  {line}")
    print(f"  painting number {chosen}" if chosen else "  choose one by --blueprint-choice NUMBER")


def sheet_name(name: str) -> str:
    """Where the sheet of a scroll's blueprints lies, beside it."""
    return f"{name.rpartition('.')[0]}.blueprints.png"
